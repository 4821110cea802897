"""A stand-in for a model that pools: what it makes of ids is plain to see."""

import asyncio
from collections.abc import Sequence

import numpy as np

from tupelo.errors import ContextLengthExceeded, InvalidRequest
from tupelo.pooling import Floats, PoolingInfo, PoolingParams, PoolingTask, finish
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Prompt
from tupelo_server.pooling import Pooled, PoolingJob

INFOS = {
    "embed": PoolingInfo(tasks=(PoolingTask.EMBED,), heads={"": 4}, normalize=True),
    "tokens": PoolingInfo(tasks=(PoolingTask.EMBED,), heads={"": 4}, per_token=True),
    "classify": PoolingInfo(
        tasks=(PoolingTask.CLASSIFY,),
        heads={"": 3},
        labels=("bad", "fair", "good"),
        activation="softmax",
    ),
    "rank": PoolingInfo(
        tasks=(PoolingTask.CLASSIFY, PoolingTask.RANK),
        heads={"": 1},
        labels=("fits",),
        activation="sigmoid",
        max_length=20,
    ),
}
LIMIT = 512
"""Tokens of a prompt."""


def numbers(ids: Sequence[int], size: int) -> Floats:
    """The first ids, the sum of all last, each a tenth."""
    row = [*ids[: size - 1], *[0] * (size - 1 - len(ids)), sum(ids)]
    return np.array(row, np.float32) / 10


class FakePooler:
    """Pools with one of ``INFOS``.

    Attributes:
        jobs: all that came. delay_s: of each call.
    """

    def __init__(self, kind: str, tokenizer: Tokenizer) -> None:
        self._info = INFOS[kind]
        self._tokenizer = tokenizer
        self.jobs: list[PoolingJob] = []
        self.delay_s = 0.0
        self.num_cancelled = 0

    @property
    def info(self) -> PoolingInfo:
        return self._info

    def pair(
        self, query: str, document: str, *, instruct: str = "", max_tokens: int = 0
    ) -> tuple[Prompt, int]:
        if instruct:
            raise InvalidRequest("instruct: this model takes no instruction", param="instruct")
        first, second = self._tokenizer.encode(query), self._tokenizer.encode(document)
        ids = (first + second)[: max_tokens or None]
        return Prompt(tuple(ids)), len(first)

    async def embed(self, jobs: Sequence[PoolingJob], owner: str) -> list[Pooled]:
        self.jobs += jobs
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        return [self._pool(job.prompt, job.params) for job in jobs]

    def _pool(self, prompt: Prompt, params: PoolingParams) -> Pooled:
        if not prompt.ids:
            raise InvalidRequest("the prompt is empty", param="prompt")
        if len(prompt.ids) > LIMIT:
            raise ContextLengthExceeded("the prompt is too long", param="prompt")
        self._info.check(params, len(prompt.ids))
        size = self._info.heads[""]
        if self._info.per_token:
            rows = np.stack([numbers([token], size) for token in prompt.ids])
        else:
            rows = numbers(prompt.ids, size)[None]
        return Pooled(rows=finish(rows, params), cached_tokens=1)
