"""Bodies of ``/generate``, SGLang's own route."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_INT32, FinishReason, check_int
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Delta, End, Job, Prompt
from tupelo_server.protocol.completion import split_prompts
from tupelo_server.protocol.fields import (
    ANY,
    COMMON_UNSUPPORTED,
    Body,
    Ids,
    Texts,
    check_priority,
    checked_sampling,
    one_salt,
    screen,
)
from tupelo_server.protocol.openai import new_id
from tupelo_server.rows import Row
from tupelo_server.timing import timing_block

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **COMMON_UNSUPPORTED,
    "log_metrics": ANY,
    "no_logs": ANY,
    "background": (),
    "custom_labels": (),
    "modalities": (),
    "routing_key": ANY,
}
_NAMES = {"seed": "sampling_seed"}


class GenerateBody(Body):
    """A request. A list in place of a single value gives one to each prompt."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _UNSUPPORTED

    text: Texts | None = None
    input_ids: Ids | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = None
    rid: str | list[str] | None = None
    stream: bool = False
    return_logprob: bool | list[bool] = False
    logprob_start_len: int | list[int] = -1
    top_logprobs_num: int | list[int] = 0
    return_text_in_logprobs: bool = False
    priority: int | None = None
    cache_salt: str | list[str] | None = None
    extra_key: str | list[str] | None = None

    @property
    def single(self) -> bool:
        """Whether one prompt was sent, not a list of them."""
        if self.text is not None:
            return isinstance(self.text, str)
        return bool(self.input_ids) and isinstance((self.input_ids or [0])[0], int)

    def prompts(self) -> list[str] | list[tuple[int, ...]]:
        """The prompts, as text or as ids.

        Raises:
            InvalidRequest: not exactly one of ``text`` and ``input_ids``.
        """
        if (self.text is None) == (self.input_ids is None):
            raise InvalidRequest("give exactly one of text and input_ids", param="text")
        if self.text is not None:
            return split_prompts(self.text, "text")
        return split_prompts(self.input_ids, "input_ids")

    def jobs(
        self, prompts: Sequence[Prompt], *, policy: str, vocab_size: int, stream_interval: int
    ) -> list[Job]:
        """A job for each prompt.

        Raises:
            InvalidRequest: a value out of its bounds, or a list of the wrong length.
        """
        count = len(prompts)
        params = _each("sampling_params", self.sampling_params, count)
        rids = _each("rid", self.rid, count)
        scoring = self._scoring(count)
        salts = _each("cache_salt", self.cache_salt, count)
        keys = _each("extra_key", self.extra_key, count)
        priority = check_priority(self.priority, policy)
        jobs = []
        for number, prompt in enumerate(prompts):
            values, interval = _sampling(params[number] or {}, stream_interval)
            wanted, start, num_top = scoring[number]
            check_int("logprob_start_len", start, -1, len(prompt.ids))
            from_prompt = wanted and 0 <= start < len(prompt.ids)
            jobs.append(
                Job(
                    prompt=prompt,
                    params=checked_sampling(values, _NAMES, vocab_size),
                    rid=rids[number] or new_id("gen"),
                    stream=self.stream,
                    stream_interval=interval,
                    salt=one_salt(salts[number], keys[number]),
                    priority=priority,
                    logprobs=wanted,
                    top_logprobs=num_top if wanted else 0,
                    prompt_logprobs_from=start if from_prompt else None,
                )
            )
        return jobs

    def _scoring(self, count: int) -> list[tuple[bool, int, int]]:
        """For each prompt: whether log-probabilities are wanted, from where, how many a token."""
        return list(
            zip(
                _each("return_logprob", self.return_logprob, count),
                _each("logprob_start_len", self.logprob_start_len, count),
                _each("top_logprobs_num", self.top_logprobs_num, count),
                strict=True,
            )
        )


class NativeReply:
    """Turns deltas into ``{"text", "output_ids", "meta_info"}``."""

    def __init__(
        self,
        jobs: Sequence[Job],
        tokenizer: Tokenizer,
        *,
        text_in_logprobs: bool,
        weight_version: str,
    ) -> None:
        self._jobs = [job for job in jobs for _ in range(job.params.n)]
        self._tokenizer = tokenizer
        self._text_in_logprobs = text_in_logprobs
        self._weight_version = weight_version
        self._begin = time.monotonic()

    def item(self, delta: Delta) -> dict[str, Any]:
        """The reply for one sample, as far as ``delta`` goes."""
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
            prompt_rows = delta.prompt_rows or []
            meta["input_token_logprobs"] = [self._row(row) for row in prompt_rows]
            meta["output_token_logprobs"] = [self._row(row) for row in delta.rows]
            if job.top_logprobs:
                meta["input_top_logprobs"] = [self._top(row) for row in prompt_rows]
                meta["output_top_logprobs"] = [self._top(row) for row in delta.rows]
        return {"text": delta.text, "output_ids": delta.token_ids, "meta_info": meta}

    def _row(self, row: Row) -> list[Any]:
        return [row.logprob, row.token_id, self._text(row.token_id)]

    def _top(self, row: Row) -> list[list[Any]] | None:
        if row.logprob is None:
            return None
        return [[logprob, token_id, self._text(token_id)] for token_id, logprob in row.top]

    def _text(self, token_id: int) -> str | None:
        return self._tokenizer.token_text(token_id) if self._text_in_logprobs else None


def _sampling(given: dict[str, Any], stream_interval: int) -> tuple[dict[str, Any], int]:
    """``sampling_params`` under core's names, and the stream interval.

    Raises:
        InvalidRequest: a parameter that this server does not support.
    """
    values = screen(given, COMMON_UNSUPPORTED)
    if "max_new_tokens" in given:  # null has a meaning of its own: fill the context
        values["max_new_tokens"] = given["max_new_tokens"]
    if "seed" in values:
        raise InvalidRequest("unknown sampling parameter 'seed'; use sampling_seed", param="seed")
    if "sampling_seed" in values:
        values["seed"] = values.pop("sampling_seed")
    interval = values.pop("stream_interval", stream_interval)
    return values, check_int("stream_interval", interval, 1, MAX_INT32)


def _finish(end: End, delta: Delta) -> dict[str, Any]:
    if end.reason is FinishReason.LENGTH:
        return {"type": "length", "length": delta.completion_tokens}
    if end.reason is FinishReason.STOP:
        return {"type": "stop", "matched": end.matched}
    return {"type": "abort", "message": end.message}


def _each(name: str, value: Any, count: int) -> list[Any]:
    """One value for each of ``count`` prompts.

    Raises:
        InvalidRequest: a list of another length.
    """
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise InvalidRequest(f"{name}: got a list of {len(value)} for {count} prompts", param=name)
    return value
