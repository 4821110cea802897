"""Bodies of ``/generate``, SGLang's own route."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_INT32, Grammar, check_int
from tupelo_server.generation import Delta, Job, Prompt
from tupelo_server.protocol.completion import split_prompts
from tupelo_server.protocol.fields import (
    ANY,
    COMMON_UNSUPPORTED,
    Body,
    Ids,
    Texts,
    check_priority,
    checked_sampling,
    each,
    one_salt,
    screen,
)
from tupelo_server.protocol.grammar import GRAMMAR_FIELDS, grammar_of
from tupelo_server.protocol.meta import MetaInfo
from tupelo_server.protocol.openai import new_id
from tupelo_server.protocol.schemas import SAMPLING

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **COMMON_UNSUPPORTED,
    "background": (),
    "max_thinking_tokens": (),
    "modalities": (),
    "routing_key": ANY,
}
_NAMES = {"seed": "sampling_seed"}


class GenerateBody(Body):
    """A request. A list in place of a single value gives one to each prompt."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _UNSUPPORTED

    text: Texts | None = None
    input_ids: Ids | None = None
    sampling_params: dict[str, Any] | list[dict[str, Any]] | None = Field(
        default=None, json_schema_extra={"anyOf": [SAMPLING, {"type": "array", "items": SAMPLING}]}
    )
    rid: str | list[str] | None = None
    session_params: dict[str, Any] | list[dict[str, Any]] | None = None
    stream: bool = False
    return_logprob: bool | list[bool] = False
    logprob_start_len: int | list[int] = -1
    top_logprobs_num: int | list[int] = 0
    token_ids_logprob: Ids | None = None
    return_text_in_logprobs: bool = False
    return_prompt_token_ids: bool = False
    no_logs: bool = False
    log_metrics: bool = True
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
        if not self.log_metrics:
            raise InvalidRequest(
                "log_metrics: every request is counted; leave it out", param="log_metrics"
            )
        count = len(prompts)
        params = each("sampling_params", self.sampling_params, count)
        rids = each("rid", self.rid, count)
        scoring = self._scoring(count)
        salts = each("cache_salt", self.cache_salt, count)
        keys = each("extra_key", self.extra_key, count)
        priority = check_priority(self.priority, policy)
        jobs = []
        for number, prompt in enumerate(prompts):
            values, interval, grammar = _sampling(params[number] or {}, stream_interval)
            wanted, start, num_top, named = scoring[number]
            check_int("logprob_start_len", start, -1, len(prompt.ids))
            if not wanted:
                _refuse_unscored(start, num_top, named)
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
                    token_ids_logprob=tuple(named or ()) if wanted else (),
                    prompt_logprobs_from=start if from_prompt else None,
                    grammar=grammar,
                    logged=not self.no_logs,
                )
            )
        return jobs

    def _scoring(self, count: int) -> list[tuple[bool, int, int, list[int] | None]]:
        """For each prompt: whether log-probabilities are wanted, from where, how many a token, and
        of which ids."""
        named: Any = self.token_ids_logprob
        if not named or isinstance(named[0], int):
            named = [named] * count
        return list(
            zip(
                each("return_logprob", self.return_logprob, count),
                each("logprob_start_len", self.logprob_start_len, count),
                each("top_logprobs_num", self.top_logprobs_num, count),
                each("token_ids_logprob", named, count),
                strict=True,
            )
        )


class NativeReply:
    """Turns deltas into ``{"text", "output_ids", "meta_info"}``."""

    def __init__(self, jobs: Sequence[Job], meta: MetaInfo, *, prompt_ids: bool) -> None:
        """Reply to ``jobs``; ``prompt_ids``: each item tells the ids of its prompt."""
        self._jobs = [job for job in jobs for _ in range(job.params.n)]
        self._meta = meta
        self._prompt_ids = prompt_ids

    def item(self, delta: Delta) -> dict[str, Any]:
        """The reply for one sample, as far as ``delta`` goes."""
        item = {
            "text": delta.text,
            "output_ids": delta.token_ids,
            "meta_info": self._meta.of(delta),
        }
        if self._prompt_ids:
            item["prompt_token_ids"] = self._jobs[delta.index].prompt.ids
        return item


def _refuse_unscored(start: int, num_top: int, named: list[int] | None) -> None:
    """Refuse what says which log-probabilities are wanted where none are.

    Raises:
        InvalidRequest: names the field.
    """
    given = {
        "logprob_start_len": start >= 0,
        "top_logprobs_num": num_top > 0,
        "token_ids_logprob": bool(named),
    }
    for name, is_set in given.items():
        if is_set:
            raise InvalidRequest(f"{name} needs return_logprob to be true", param=name)


def _sampling(
    given: dict[str, Any], stream_interval: int
) -> tuple[dict[str, Any], int, Grammar | None]:
    """``sampling_params`` under core's names, the stream interval, and the grammar.

    Raises:
        InvalidRequest: a parameter that this server does not support, or several grammars.
    """
    values = screen(given, COMMON_UNSUPPORTED)
    if "max_new_tokens" in given:  # null has a meaning of its own: fill the context
        values["max_new_tokens"] = given["max_new_tokens"]
    if "seed" in values:
        raise InvalidRequest("unknown sampling parameter 'seed'; use sampling_seed", param="seed")
    if "sampling_seed" in values:
        values["seed"] = values.pop("sampling_seed")
    interval = values.pop("stream_interval", stream_interval)
    grammar = grammar_of({name: values.pop(name, None) for name in GRAMMAR_FIELDS})
    return values, check_int("stream_interval", interval, 1, MAX_INT32), grammar
