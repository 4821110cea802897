"""What OpenAI's replies have in common: usage, ids, finish reasons, chunks."""

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tupelo_server.generation import Delta, Job
from tupelo_server.timing import timing_block


def new_id(prefix: str) -> str:
    """An id that nobody can guess, such as ``chatcmpl-…``."""
    return f"{prefix}-{secrets.token_hex(16)}"


@dataclass(kw_only=True)
class Reply:
    """One reply: what all of its chunks repeat, and its usage so far.

    Attributes:
        kind: the ``object`` of the reply or of its chunks.
        weight_version: the operator's name for the weights.
        cache_report: whether usage tells of cached tokens.
        cached_details: whether ``sglext`` tells where they were.
    """

    id: str
    kind: str
    model: str
    jobs: Sequence[Job]
    weight_version: str
    cache_report: bool = False
    cached_details: bool = False
    created: int = field(default_factory=lambda: int(time.time()))
    _generated: dict[int, int] = field(default_factory=dict)
    _cached: dict[int, int] = field(default_factory=dict)
    _reasoning: dict[int, int] = field(default_factory=dict)

    def count(self, deltas: Iterable[Delta]) -> None:
        """Take note of deltas."""
        for delta in deltas:
            self._generated[delta.index] = delta.completion_tokens
            self._cached[delta.index] = delta.cached_tokens
            self._reasoning[delta.index] = delta.reasoning_tokens

    def body(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A whole reply, or a chunk of one."""
        return {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """A reply that is not streamed."""
        reply = {
            **self.body(choices),
            "usage": self.usage(),
            "metadata": {"weight_version": self.weight_version},
        }
        return {**reply, "sglext": self._extension()} if self.cached_details else reply

    def last_chunks(self, *, usage: bool) -> Iterable[dict[str, Any]]:
        """What follows the last choice of a stream."""
        if self.cached_details:
            yield {**self.body([]), "sglext": self._extension()}
        if usage:
            yield {**self.body([]), "usage": self.usage()}

    def _extension(self) -> dict[str, Any]:
        return {"cached_tokens_details": {"device": self._num_cached(), "host": 0}}

    def usage(self) -> dict[str, Any]:
        """Tokens so far: each prompt once, and every sample's tokens up to its cut. Of a model that
        thinks also the tokens of its thoughts, under SGLang's name and under OpenAI's.

        Of a prompt with several samples, the cached tokens of the first count.
        """
        prompt_tokens = sum(len(job.prompt.ids) for job in self.jobs)
        completion_tokens = sum(self._generated.values())
        usage: dict[str, Any] = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
        if any(job.parsing is not None and job.parsing.reasoning for job in self.jobs):
            reasoning = {"reasoning_tokens": sum(self._reasoning.values())}
            usage |= reasoning
            usage["completion_tokens_details"] = reasoning
        if self.cache_report:
            usage["prompt_tokens_details"] = {"cached_tokens": self._num_cached()}
        return usage

    def _num_cached(self) -> int:
        return sum(self._cached.get(index, 0) for index in self._first_samples())

    def _first_samples(self) -> Iterable[int]:
        index = 0
        for job in self.jobs:
            yield index
            index += job.params.n


def finish_fields(delta: Delta) -> dict[str, Any]:
    """``finish_reason`` and, as SGLang has it, ``matched_stop``; nulls while it goes on. With the
    end, where the time went, if the request asks for it."""
    if delta.end is None:
        return {"finish_reason": None, "matched_stop": None}
    fields = {"finish_reason": delta.end.reason.value, "matched_stop": delta.end.matched}
    return fields if delta.spent is None else {**fields, "timing": timing_block(delta)}
