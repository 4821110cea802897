"""Replies of ``/v1/responses``: output items, whole or as the events that build them."""

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tupelo.errors import RequestError
from tupelo.request import FinishReason
from tupelo.text.tokenizer import Tokenizer
from tupelo.text.tools.events import CallArguments, CallStart, Event, Reasoning, Text
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.chat_choices import shown_rows
from tupelo_server.protocol.responses import ResponsesBody
from tupelo_server.protocol.responses_items import Item, item_id, sealed
from tupelo_server.protocol.responses_rows import TextRows
from tupelo_server.tools import call_id

_TEXTS = {
    "message": ("output_text", "response.output_text"),
    "reasoning": ("reasoning_text", "response.reasoning_text"),
}
"""By the kind of an item: the kind of its one part, and of the events that tell its text."""

_ENDS = {FinishReason.STOP: "completed", FinishReason.LENGTH: "incomplete"}


class ResponseReply:
    """One response. Streamed or not, its items are made by the same steps.

    Attributes:
        id: what its client knows it by.
    """

    def __init__(
        self,
        id: str,
        model: str,
        body: ResponsesBody,
        job: Job,
        tokenizer: Tokenizer,
        *,
        store: bool,
        cache_report: bool,
    ) -> None:
        """Begin the response to ``body``.

        Args:
            store: whether it can be asked for later. cache_report: usage tells of cached tokens.
        """
        self.id = id
        self._job = job
        self._tokenizer = tokenizer
        self._cache_report = cache_report
        self._seals = body.seals
        self._about = {
            "id": id,
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "background": body.background,
            "store": store,
            "temperature": job.params.temperature,
            "top_p": job.params.top_p,
            **body.told(),
        }
        self._state: dict[str, Any] = {
            "status": "queued" if body.background else "in_progress",
            "error": None,
            "incomplete_details": None,
            "completed_at": None,
            "usage": None,
        }
        self._numbers = itertools.count()
        self._begun = self.over = False
        self._done: list[Item] = []
        self._open: Item | None = None
        self._pieces: list[str] = []
        self._rows = TextRows() if body.logprobs else None
        self._taken: list[dict[str, Any]] = []
        self._num_thoughts = 0

    @property
    def response(self) -> dict[str, Any]:
        """The response as it is now."""
        last = [] if self._open is None else [self._filled()]
        return {**self._about, **self._state, "output": [*self._done, *last]}

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The response of a folded sample."""
        for _ in self.events(delta):
            pass
        return self.response

    def queued(self) -> Iterator[Item]:
        """The first events of a response that has to wait."""
        self._begun = True
        yield self._snapshot("created")
        yield self._snapshot("queued")

    def events(self, delta: Delta) -> Iterator[Item]:
        """What a delta adds; the last one ends the response."""
        yield from self._begin()
        self._num_thoughts = delta.reasoning_tokens
        if self._rows is not None:
            self._rows.push(delta.rows)
        events: Iterable[Event] = delta.events
        if self._job.parsing is None:
            events = [Text(delta.text)] if delta.text else []
        for found in events:
            yield from self._of(found)
        if delta.end is not None:
            status = _ENDS.get(delta.end.reason, "cancelled")
            if status == "completed" and not self._done and self._open is None:
                yield from self._grow("message", "")
            yield from self._close("completed" if status == "completed" else "incomplete")
            self._state["usage"] = self._usage(delta)
            yield self._end(status)

    def cancelled(self) -> Iterator[Item]:
        """End it, because its client wants it no more."""
        yield from self._close("incomplete")
        yield self._end("cancelled")

    def failed(self, error: RequestError) -> Iterator[Item]:
        """End it, because of an error."""
        if not self._begun:
            yield from self._begin()
        yield from self._close("incomplete")
        codes = {429: "rate_limit_exceeded"}
        code = codes.get(error.status, "invalid_prompt" if error.status < 500 else "server_error")
        self._state["error"] = {"code": code, "message": str(error)}
        yield self._end("failed")

    def event(self, kind: str, **fields: Any) -> Item:
        """The next event."""
        return {"type": kind, "sequence_number": next(self._numbers), **fields}

    def _begin(self) -> Iterator[Item]:
        if not self._begun:
            self._begun = True
            yield self._snapshot("created")
            yield self._snapshot("in_progress")
        elif self._state["status"] == "queued":
            self._state["status"] = "in_progress"
            yield self._snapshot("in_progress")

    def _end(self, status: str) -> Item:
        self.over = True
        self._state["status"] = status
        if status == "completed":
            self._state["completed_at"] = int(time.time())
        if status == "incomplete":
            self._state["incomplete_details"] = {"reason": "max_output_tokens"}
        return self._snapshot(status)

    def _snapshot(self, kind: str) -> Item:
        return self.event(f"response.{kind}", response=self.response)

    def _of(self, found: Event) -> Iterator[Item]:
        match found:
            case Text(text):
                yield from self._grow("message", text)
            case Reasoning(text):
                yield from self._grow("reasoning", text)
            case CallStart(_, name, given):
                yield from self._close()
                call = {"call_id": self._call_id(given), "name": name, "arguments": ""}
                yield self._add("function_call", **call)
            case CallArguments(_, text):
                assert self._open is not None
                self._pieces.append(text)
                kind = "response.function_call_arguments.delta"
                yield self.event(kind, **self._place(), delta=text)

    def _grow(self, kind: str, text: str) -> Iterator[Item]:
        """Add to the text of an item of this kind, or begin one."""
        part, name = _TEXTS[kind]
        if self._open is None or self._open["type"] != kind:
            yield from self._close()
            yield self._add(kind, content=[], **_BLANK[kind])
            empty = _part(part, "")
            yield self.event("response.content_part.added", **self._place(part=True), part=empty)
        if text:
            self._pieces.append(text)
            rows = {"logprobs": self._take(text)} if kind == "message" else {}
            yield self.event(f"{name}.delta", **self._place(part=True), delta=text, **rows)

    def _add(self, kind: str, **fields: Any) -> Item:
        self._open = {"id": item_id(kind), "type": kind, "status": "in_progress", **fields}
        self._pieces, self._taken = [], []
        return self.event("response.output_item.added", **self._number(), item=self._open)

    def _close(self, status: str = "completed") -> Iterator[Item]:
        """End the item that grows."""
        if self._open is None:
            return
        kind = self._open["type"]
        if kind == "message":
            self._take("", last=True)
        self._open["status"] = status
        item = self._filled()
        if kind == "function_call":
            arguments = {"name": item["name"], "arguments": item["arguments"]}
            name = "response.function_call_arguments.done"
            yield self.event(name, **self._place(), **arguments)
        else:
            place, (part,) = self._place(part=True), item["content"]
            rows = {"logprobs": part["logprobs"]} if kind == "message" else {}
            yield self.event(f"{_TEXTS[kind][1]}.done", **place, text=part["text"], **rows)
            yield self.event("response.content_part.done", **place, part=part)
        number = self._number()
        self._open = None
        self._done.append(item)
        yield self.event("response.output_item.done", **number, item=item)

    def _filled(self) -> Item:
        """The item that grows, with all that it has so far."""
        assert self._open is not None
        text, kind = "".join(self._pieces), self._open["type"]
        if kind == "function_call":
            return {**self._open, "arguments": text}
        part = _part(_TEXTS[kind][0], text)
        if kind == "message":
            return {**self._open, "content": [{**part, "logprobs": list(self._taken)}]}
        seal = {"encrypted_content": sealed(text)} if self._seals else {}
        return {**self._open, "content": [part], **seal}

    def _take(self, text: str, *, last: bool = False) -> list[dict[str, Any]]:
        if self._rows is None:
            return []
        rows = self._rows.take(text, self._num_thoughts, last=last)
        found = shown_rows(rows, self._tokenizer)
        self._taken += found
        return found

    def _number(self) -> dict[str, Any]:
        return {"output_index": len(self._done)}

    def _place(self, *, part: bool = False) -> dict[str, Any]:
        assert self._open is not None
        place = {"item_id": self._open["id"], **self._number()}
        return {**place, "content_index": 0} if part else place

    def _call_id(self, given: str | None) -> str:
        assert self._job.parsing is not None
        assert self._job.parsing.tools is not None
        return call_id(self._job.parsing.tools.ids, given)

    def _usage(self, delta: Delta) -> dict[str, Any]:
        num_input, num_output = len(self._job.prompt.ids), delta.completion_tokens
        cached = delta.cached_tokens if self._cache_report else 0
        return {
            "input_tokens": num_input,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
            "output_tokens": num_output,
            "output_tokens_details": {"reasoning_tokens": delta.reasoning_tokens},
            "total_tokens": num_input + num_output,
        }


_BLANK: dict[str, dict[str, Any]] = {"message": {"role": "assistant"}, "reasoning": {"summary": []}}


def _part(kind: str, text: str) -> Item:
    part: Item = {"type": kind, "text": text}
    return {**part, "annotations": [], "logprobs": []} if kind == "output_text" else part
