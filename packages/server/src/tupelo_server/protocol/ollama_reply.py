"""Replies of ``/api/chat`` and ``/api/generate``, whole or as the lines of a stream.

A call goes out when it is complete, for its arguments are an object.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from tupelo.request import FinishReason
from tupelo.text.tokenizer import Tokenizer
from tupelo.text.tools.events import Call, CallArguments, CallStart, Event, Reasoning, Text
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.chat_choices import shown_rows
from tupelo_server.tools import arguments_object, call_id

Part = dict[str, Any]
"""What is new of a message: ``content``, ``thinking`` or ``tool_calls``."""

_NS = 1_000_000_000


def timestamp(seconds: float | None = None) -> str:
    """A time, in seconds since 1970, or now, as Ollama writes it."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat().replace("+00:00", "Z")


def loaded(model: str, *, chat: bool) -> dict[str, Any]:
    """The reply to a request that only wants the model to be there."""
    said = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    head = {"model": model, "created_at": timestamp()}
    return {**head, **said, "done": True, "done_reason": "load"}


class OllamaReply:
    """One reply. Streamed or not, its parts are made by the same steps.

    Args:
        chat: of ``/api/chat``, else of ``/api/generate``.
        context: the reply ends with its ids, for a request that goes on.
    """

    def __init__(
        self, model: str, job: Job, tokenizer: Tokenizer, *, chat: bool, context: bool = False
    ) -> None:
        self._model = model
        self._job = job
        self._tokenizer = tokenizer
        self._chat = chat
        self._context: list[int] | None = [*job.prompt.ids] if context else None
        self._call: Call | None = None
        self._num_calls = 0

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The reply of a folded sample."""
        folded: Part = {}
        for part in self._parts(delta):
            for name, value in part.items():
                folded[name] = folded[name] + value if name in folded else value
        rows = {"logprobs": shown_rows(delta.rows, self._tokenizer)} if self._job.logprobs else {}
        return {**self._head(), **self._body(folded), **rows, **self._end(delta)}

    def lines(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """What a delta adds; the last line ends the reply and tells what it took."""
        parts = list(self._parts(delta))
        rows = shown_rows(delta.rows, self._tokenizer)
        if rows and not parts:
            parts = [{}]
        for number, part in enumerate(parts):
            line = {**self._head(), **self._body(part), "done": False}
            yield line if number or not rows else {**line, "logprobs": rows}
        if delta.end is not None:
            yield {**self._head(), **self._body({}), **self._end(delta)}

    def _head(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": timestamp()}

    def _body(self, part: Part) -> dict[str, Any]:
        content, rest = part.get("content", ""), {k: v for k, v in part.items() if k != "content"}
        if self._chat:
            return {"message": {"role": "assistant", "content": content, **rest}}
        return {"response": content, **rest}

    def _parts(self, delta: Delta) -> Iterator[Part]:
        if self._context is not None:
            self._context += delta.token_ids
        events: Iterable[Event] = delta.events
        if self._job.parsing is None:
            events = [Text(delta.text)] if delta.text else []
        for event in events:
            if not isinstance(event, CallArguments):
                yield from self._finished_call()
            match event:
                case Text(text):
                    yield {"content": text}
                case Reasoning(text):
                    yield {"thinking": text}
                case CallStart(_, name, given):
                    self._call = Call(name, id=given)
                case CallArguments(_, text):
                    assert self._call is not None
                    self._call.arguments += text
        if delta.end is not None:
            yield from self._finished_call()

    def _finished_call(self) -> Iterator[Part]:
        call, self._call = self._call, None
        if call is None:
            return
        assert self._job.parsing is not None
        assert self._job.parsing.tools is not None
        function = {
            "index": self._num_calls,
            "name": call.name,
            "arguments": arguments_object(call.arguments),
        }
        self._num_calls += 1
        own = call_id(self._job.parsing.tools.ids, call.id)
        yield {"tool_calls": [{"id": own, "function": function}]}

    def _end(self, delta: Delta) -> dict[str, Any]:
        """Why it ended, and what it took, in nanoseconds. ``load_duration`` is all that was before
        the first step: the model is loaded, so it is the time of reading and waiting."""
        assert delta.end is not None
        assert delta.spent is not None, "the job of a reply that tells its time is timed"
        spent = {name: round(seconds * _NS) for name, seconds in delta.spent.items()}
        end = {
            "done": True,
            "done_reason": _REASONS[delta.end.reason],
            "total_duration": spent["e2e_s"],
            "load_duration": spent["prepare_s"] + spent["queue_s"],
            "prompt_eval_count": len(self._job.prompt.ids),
            "prompt_eval_duration": spent["prefill_s"],
            "eval_count": delta.completion_tokens,
            "eval_duration": spent["decode_s"],
        }
        return end if self._context is None else {**end, "context": self._context}


_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.ABORT: "abort",
}
