"""The choices of a chat reply, and of its chunks: text, thoughts, tool calls, log-probabilities."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tupelo.request import FinishReason
from tupelo.text.tokenizer import Tokenizer
from tupelo.text.tools.events import CallArguments, CallStart, Event, Reasoning, Text, fold
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.meta import MetaInfo
from tupelo_server.protocol.openai import finish_fields
from tupelo_server.rows import Row
from tupelo_server.tools import call_id


class ChatChoices:
    """Turns deltas into the choices of a reply, or of its chunks."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        job: Job,
        *,
        logprobs: bool,
        prompt_ids: bool = False,
        token_ids: bool = False,
        meta: MetaInfo | None = None,
        separate_reasoning: bool = True,
        stream_reasoning: bool = True,
    ) -> None:
        """Make the choices of one request.

        Args:
            tokenizer: of the model. job: what is replied to.
            logprobs: whether choices have log-probabilities.
            prompt_ids, token_ids: whether they tell the ids of the prompt, and of their own tokens.
            meta: describes samples as the native API does; None for replies that do not.
            separate_reasoning: thoughts stand beside the text, not in it.
            stream_reasoning: thoughts are streamed as they come, not whole at their end.
        """
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._prompt_ids = job.prompt.ids if prompt_ids else None
        self._token_ids = token_ids
        self._meta = meta
        self._parsing = job.parsing
        thinks = job.parsing is not None and job.parsing.reasoning is not None
        self._separate = separate_reasoning and thinks
        self._stream_reasoning = stream_reasoning
        self._begun: set[int] = set()
        self._so_far: dict[int, Delta] = {}
        self._num_calls: dict[int, int] = {}
        self._thoughts: dict[int, list[str]] = {}

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The choice of a folded sample."""
        choice = {
            "index": delta.index,
            "message": {"role": "assistant", **self._message(delta), "refusal": None},
            "logprobs": self._rows(delta.rows) if self._logprobs else None,
            **self._finish(delta),
        }
        if self._prompt_ids is not None:
            choice["prompt_token_ids"] = self._prompt_ids
        if self._token_ids:
            choice["response_token_ids"] = delta.token_ids
        if self._meta is not None:
            choice["meta_info"] = self._meta.of(delta)
        return choice

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The role first, then what is new, at last the reason of the end on its own.

        Ids of the prompt come with the role, the sample's own and log-probabilities with the first
        of what they made, and ``meta_info`` with the end.
        """
        index = delta.index
        if index not in self._begun:
            self._begun.add(index)
            opening = self._chunk(index, {"role": "assistant", "content": self._nothing})
            if self._prompt_ids is not None:
                opening["prompt_token_ids"] = self._prompt_ids
            yield opening
        parts = list(self._parts(delta))
        if not parts and (delta.rows or (self._token_ids and delta.token_ids)):
            parts = [{} if self._parsing is not None else {"content": ""}]
        for number, part in enumerate(parts):
            chunk = self._chunk(index, part)
            if number == 0 and self._logprobs:
                chunk["logprobs"] = self._rows(delta.rows)
            if number == 0 and self._token_ids:
                chunk["response_token_ids"] = delta.token_ids
            yield chunk
        meta = None if self._meta is None else self._meta.of(self._fold(delta))
        if delta.end is not None:
            last = {**self._chunk(index, {}), **self._finish(delta)}
            yield last if meta is None else {**last, "meta_info": meta}

    def _fold(self, delta: Delta) -> Delta:
        """Everything so far of a sample."""
        known = self._so_far.get(delta.index)
        if known is None:
            known = self._so_far[delta.index] = replace(
                delta,
                rows=list(delta.rows),
                token_ids=list(delta.token_ids),
                events=list(delta.events),
            )
        else:
            known.add(delta)
        return known

    @property
    def _nothing(self) -> str | None:
        """The content of a message without text: null where it may be calls instead."""
        return None if self._parsing is not None and self._parsing.tools is not None else ""

    def _message(self, delta: Delta) -> dict[str, Any]:
        if self._parsing is None:
            return {"content": delta.text}
        parsed = fold(self._placed(delta.events))
        self._num_calls[delta.index] = len(parsed.calls)
        message: dict[str, Any] = {"content": parsed.text or self._nothing}
        if self._separate:
            message["reasoning_content"] = parsed.reasoning or None
        if parsed.calls:
            message["tool_calls"] = [
                {
                    "id": self._id(call.id),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in parsed.calls
            ]
        return message

    def _parts(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """What a delta adds to the message, part by part."""
        if self._parsing is None:
            if delta.text:
                yield {"content": delta.text}
            return
        for event in self._placed(delta.events):
            if isinstance(event, Reasoning) and not self._stream_reasoning:
                self._thoughts.setdefault(delta.index, []).append(event.text)
                continue
            yield from self._held_thoughts(delta.index)
            yield self._part(delta.index, event)
        if delta.end is not None:
            yield from self._held_thoughts(delta.index)

    def _held_thoughts(self, index: int) -> Iterator[dict[str, Any]]:
        thoughts = self._thoughts.pop(index, None)
        if thoughts:
            yield {"reasoning_content": "".join(thoughts)}

    def _part(self, index: int, event: Event) -> dict[str, Any]:
        match event:
            case Text(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text}
            case CallStart(number, name, given):
                self._num_calls[index] = number + 1
                function = {"name": name, "arguments": ""}
                call = {"index": number, "id": self._id(given), "type": "function"}
                return {"tool_calls": [{**call, "function": function}]}
            case CallArguments(number, text):
                return {"tool_calls": [{"index": number, "function": {"arguments": text}}]}

    def _placed(self, events: list[Event]) -> list[Event]:
        """Events with the thoughts where the client wants them: in the text if not beside it."""
        if self._separate:
            return events
        return [Text(event.text) if isinstance(event, Reasoning) else event for event in events]

    def _id(self, given: str | None) -> str:
        assert self._parsing is not None
        assert self._parsing.tools is not None
        return call_id(self._parsing.tools.ids, given)

    def _finish(self, delta: Delta) -> dict[str, Any]:
        fields = finish_fields(delta)
        stopped = delta.end is not None and delta.end.reason is FinishReason.STOP
        if stopped and self._num_calls.get(delta.index):
            fields["finish_reason"] = "tool_calls"
        return fields

    def _chunk(self, index: int, delta: dict[str, Any]) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": None,
        }

    def _rows(self, rows: list[Row]) -> dict[str, Any]:
        return {"content": shown_rows(rows, self._tokenizer), "refusal": None}


def shown_rows(rows: list[Row], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Log-probabilities of the tokens that are text, each with its alternatives."""
    return [
        {
            "token": row.text,
            "logprob": row.logprob,
            "bytes": list(row.raw),
            "top_logprobs": [
                {
                    "token": tokenizer.token_text(token_id),
                    "logprob": logprob,
                    "bytes": list(tokenizer.bytes_of(token_id)),
                }
                for token_id, logprob in row.top
            ],
        }
        for row in rows
        if row.shown
    ]
