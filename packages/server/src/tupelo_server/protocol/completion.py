"""Bodies of ``/v1/completions``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_N, MAX_PROMPTS, MAX_TOP_LOGPROBS, check_count, check_int
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Delta, Job, Prompt
from tupelo_server.protocol.fields import ANY, COMMON_UNSUPPORTED, SamplingBody
from tupelo_server.protocol.openai import finish_fields
from tupelo_server.protocol.schemas import PROMPT
from tupelo_server.rows import Row

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **COMMON_UNSUPPORTED,
    "user": ANY,
    "max_thinking_tokens": (),
    "metadata": ANY,
    "suffix": (),
}


class CompletionBody(SamplingBody):
    """A request. ``prompt`` is a string, a list of them, ids, or a list of lists of ids."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _UNSUPPORTED

    prompt: Any = Field(json_schema_extra=PROMPT)
    max_tokens: int = 16
    session_params: dict[str, Any] | None = None
    echo: bool = False
    logprobs: int | None = None
    best_of: int | None = None

    @property
    def limit(self) -> tuple[str, int | None]:
        """The name and value of the limit on tokens."""
        return "max_tokens", self.max_tokens

    def check(self) -> None:
        """Check what spans fields.

        Raises:
            InvalidRequest: too many ``logprobs``, or a ``best_of`` that is not to be had.
        """
        if self.logprobs is not None:
            check_int("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)
        check_int("n", self.n, 1, MAX_N)
        check_int("best_of", self.num_drawn, self.n, MAX_N)
        if self.stream and self.num_drawn > self.n:
            raise InvalidRequest(
                "best_of: which samples are the best is known at the end; it cannot be streamed",
                param="best_of",
            )

    @property
    def num_drawn(self) -> int:
        """Samples that are generated for each prompt, of which the best ``n`` are returned."""
        return self.n if self.best_of is None else self.best_of


def split_prompts(value: Any, param: str = "prompt") -> list[str] | list[tuple[int, ...]]:
    """All prompts of a field that takes one or several, as text or as ids.

    Raises:
        InvalidRequest: something else, or none.
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if type(value[0]) is not int:
            check_count(param, len(value), MAX_PROMPTS)
        if all(isinstance(item, str) for item in value):
            return list(value)
        if set(map(type, value)) == {int}:
            return [tuple(value)]
        if all(isinstance(item, list) and set(map(type, item)) <= {int} for item in value):
            return [tuple(item) for item in value]
    raise InvalidRequest(
        f"{param}: must be a string, a list of strings, a list of token ids, or a list of those; "
        "not empty",
        param=param,
    )


class CompletionChoices:
    """Turns deltas into the choices of a reply, or of its chunks.

    Attributes:
        token_ids: whether choices tell the ids of their tokens, and of their prompt once.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        jobs: Sequence[Job],
        *,
        echo: bool,
        logprobs: bool,
        token_ids: bool = False,
    ) -> None:
        self._tokenizer = tokenizer
        self._jobs = [job for job in jobs for _ in range(job.params.n)]
        self._echo = echo
        self._logprobs = logprobs
        self.token_ids = token_ids
        self._offsets: dict[int, int] = {}

    def choice(self, delta: Delta) -> dict[str, Any]:
        """The choice of a delta: of one that is new, or of a whole folded sample."""
        text, rows = delta.text, delta.rows
        first = delta.index not in self._offsets
        offset = self._offsets.setdefault(delta.index, 0)
        if first and self._echo:
            echoed = self._echoed(self._jobs[delta.index].prompt)
            text = echoed + text
            if delta.prompt_rows is None:
                self._offsets[delta.index] = offset = len(echoed)
        if self._echo and delta.prompt_rows is not None:
            rows = [*delta.prompt_rows, *rows]
        choice = {
            "index": delta.index,
            "text": text,
            "logprobs": self._rows(delta.index, offset, rows) if self._logprobs else None,
            **finish_fields(delta),
        }
        if self.token_ids:
            choice["token_ids"] = delta.token_ids
            if first:
                choice["prompt_token_ids"] = self._jobs[delta.index].prompt.ids
        return choice

    def _echoed(self, prompt: Prompt) -> str:
        return self._tokenizer.decode(prompt.ids) if prompt.text is None else prompt.text

    def _rows(self, index: int, offset: int, rows: list[Row]) -> dict[str, Any]:
        found: dict[str, list[Any]] = {
            "tokens": [],
            "token_logprobs": [],
            "top_logprobs": [],
            "text_offset": [],
        }
        for row in rows:
            if not row.shown:
                continue
            found["tokens"].append(row.text)
            found["token_logprobs"].append(row.logprob)
            found["top_logprobs"].append(self._top(row))
            found["text_offset"].append(offset)
            offset += len(row.text)
        self._offsets[index] = offset
        return found

    def _top(self, row: Row) -> dict[str, float] | None:
        """The alternatives by text, the best of those that look alike, and the token itself."""
        if row.logprob is None:
            return None
        found: dict[str, float] = {}
        for token_id, logprob in (*row.top, (row.token_id, row.logprob)):
            found.setdefault(self._tokenizer.token_text(token_id), logprob)
        return found


def best_of(deltas: Sequence[Delta], jobs: Sequence[Job], n: int) -> list[Delta]:
    """Of the samples of each job the ``n`` with the highest mean log-probability of their tokens,
    the best first, numbered anew."""
    chosen: list[Delta] = []
    start = 0
    for job in jobs:
        drawn = deltas[start : start + job.params.n]
        start += job.params.n
        chosen += sorted(drawn, key=_mean_logprob, reverse=True)[:n]
    return [replace(delta, index=index) for index, delta in enumerate(chosen)]


def _mean_logprob(delta: Delta) -> float:
    values = [row.logprob for row in delta.rows if row.logprob is not None]
    return sum(values) / len(values) if values else 0.0
