"""Replies of ``/v1/messages``: content blocks, whole or as the events that build them."""

from collections.abc import Iterable, Iterator
from typing import Any

from tupelo.request import FinishReason
from tupelo.text.tools.events import CallArguments, CallStart, Event, Reasoning, Text
from tupelo_server.generation import Delta, Job
from tupelo_server.tools import arguments_object, call_id

_OPENINGS = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class MessageReply:
    """One reply. Streamed or not, blocks are made by the same steps.

    Args:
        cache_report: usage tells of cached tokens.
    """

    def __init__(self, id: str, model: str, job: Job, *, cache_report: bool) -> None:
        self._id = id
        self._model = model
        self._job = job
        self._cache_report = cache_report
        self._open: str | None = None
        self._number = -1
        self._calls = 0

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The message of a folded sample."""
        blocks: list[dict[str, Any]] = []
        arguments: dict[int, str] = {}
        for item in (*self._of(delta), *self._close()):
            match item["type"]:
                case "content_block_start":
                    blocks.append(dict(item["content_block"]))
                case "content_block_delta":
                    change, block = item["delta"], blocks[item["index"]]
                    if change["type"] == "input_json_delta":
                        so_far = arguments.get(item["index"], "")
                        arguments[item["index"]] = so_far + change["partial_json"]
                    else:
                        name = change["type"].removesuffix("_delta")
                        block[name] += change[name]
        for number, text in arguments.items():
            blocks[number]["input"] = arguments_object(text)
        message = {**self._message(), "content": blocks, **self._end(delta)}
        return {**message, "usage": self._usage(delta)}

    def first(self) -> dict[str, Any]:
        """The event before all others."""
        usage = {"input_tokens": len(self._job.prompt.ids), "output_tokens": 0}
        blank: dict[str, Any] = {"content": [], "stop_reason": None, "stop_sequence": None}
        return {"type": "message_start", "message": {**self._message(), **blank, "usage": usage}}

    def events(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """What a delta adds; the last one ends the message."""
        yield from self._of(delta)
        if delta.end is not None:
            yield from self._close()
            usage = self._usage(delta)
            yield {"type": "message_delta", "delta": self._end(delta), "usage": usage}
            yield {"type": "message_stop"}

    def _message(self) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model}

    def _of(self, delta: Delta) -> Iterator[dict[str, Any]]:
        events: Iterable[Event] = delta.events
        if self._job.parsing is None:
            events = [Text(delta.text)] if delta.text else []
        for event in events:
            match event:
                case Text(text):
                    yield from self._grow("text", {"type": "text_delta", "text": text})
                case Reasoning(text):
                    yield from self._grow("thinking", {"type": "thinking_delta", "thinking": text})
                case CallStart(_, name, given):
                    self._calls += 1
                    block = {"type": "tool_use", "id": self._call_id(given), "name": name}
                    yield from self._close()
                    yield self._start({**block, "input": {}}, "tool_use")
                case CallArguments(_, text):
                    yield self._change({"type": "input_json_delta", "partial_json": text})

    def _grow(self, kind: str, change: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._open != kind:
            yield from self._close()
            yield self._start(dict(_OPENINGS[kind]), kind)
        yield self._change(change)

    def _start(self, block: dict[str, Any], kind: str) -> dict[str, Any]:
        self._open = kind
        self._number += 1
        return {"type": "content_block_start", "index": self._number, "content_block": block}

    def _change(self, change: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._number, "delta": change}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            self._open = None
            yield {"type": "content_block_stop", "index": self._number}

    def _call_id(self, given: str | None) -> str:
        assert self._job.parsing is not None
        assert self._job.parsing.tools is not None
        return call_id(self._job.parsing.tools.ids, given)

    def _end(self, delta: Delta) -> dict[str, Any]:
        assert delta.end is not None
        matched, reason = delta.end.matched, delta.end.reason
        if reason is FinishReason.LENGTH:
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if self._calls:
            return {"stop_reason": "tool_use", "stop_sequence": None}
        if isinstance(matched, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": matched}
        return {"stop_reason": "end_turn", "stop_sequence": None}

    def _usage(self, delta: Delta) -> dict[str, Any]:
        cached = delta.cached_tokens if self._cache_report else 0
        return {
            "input_tokens": len(self._job.prompt.ids) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": delta.completion_tokens,
        }
