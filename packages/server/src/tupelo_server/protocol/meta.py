"""SGLang's ``meta_info``: what is known of one sample beside its text."""

import time
from collections.abc import Sequence
from typing import Any

from tupelo.request import FinishReason
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Delta, End, Job
from tupelo_server.rows import Row
from tupelo_server.timing import timing_block


class MetaInfo:
    """Describes the samples of some jobs. Times count from its making."""

    def __init__(
        self,
        jobs: Sequence[Job],
        tokenizer: Tokenizer,
        *,
        weight_version: str,
        text_in_logprobs: bool = False,
    ) -> None:
        self._jobs = [job for job in jobs for _ in range(job.params.n)]
        self._tokenizer = tokenizer
        self._weight_version = weight_version
        self._text_in_logprobs = text_in_logprobs
        self._begin = time.monotonic()

    def of(self, delta: Delta) -> dict[str, Any]:
        """One sample, as far as ``delta`` goes."""
        job = self._jobs[delta.index]
        meta: dict[str, Any] = {
            "id": job.rid,
            "finish_reason": None if delta.end is None else _finish(delta.end, delta),
            "prompt_tokens": len(job.prompt.ids),
            "completion_tokens": delta.completion_tokens,
            "cached_tokens": delta.cached_tokens,
            "num_retractions": delta.retractions,
            "weight_version": self._weight_version,
        }
        if delta.end is not None:
            meta["e2e_latency"] = time.monotonic() - self._begin
        if delta.spent is not None:
            meta["timing"] = timing_block(delta)
        if job.logprobs:
            meta |= self._logprobs(job, delta)
        return meta

    def _logprobs(self, job: Job, delta: Delta) -> dict[str, Any]:
        sides = {"input": delta.prompt_rows or [], "output": delta.rows}
        found: dict[str, Any] = {}
        for side, rows in sides.items():
            found[f"{side}_token_logprobs"] = [self._row(row) for row in rows]
            if job.top_logprobs:
                found[f"{side}_top_logprobs"] = [self._top(row) for row in rows]
            if job.token_ids_logprob:
                named = [self._named(row, job.token_ids_logprob) for row in rows]
                found[f"{side}_token_ids_logprobs"] = named
        return found

    def _row(self, row: Row) -> list[Any]:
        return [row.logprob, row.token_id, self._text(row.token_id)]

    def _top(self, row: Row) -> list[list[Any]] | None:
        if row.logprob is None:
            return None
        return [[logprob, token_id, self._text(token_id)] for token_id, logprob in row.top]

    def _named(self, row: Row, ids: tuple[int, ...]) -> list[list[Any]] | None:
        if row.logprob is None:
            return None
        pairs = zip(row.wanted, ids, strict=True)
        return [[logprob, token_id, self._text(token_id)] for logprob, token_id in pairs]

    def _text(self, token_id: int) -> str | None:
        return self._tokenizer.token_text(token_id) if self._text_in_logprobs else None


def _finish(end: End, delta: Delta) -> dict[str, Any]:
    if end.reason is FinishReason.LENGTH:
        return {"type": "length", "length": delta.completion_tokens}
    if end.reason is FinishReason.STOP:
        return {"type": "stop", "matched": end.matched}
    return {"type": "abort", "message": end.message}
