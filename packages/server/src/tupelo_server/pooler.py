"""The pooler over the engine: jobs that end in numbers take the way of those that end in text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tupelo.engine.encode import PREFILL_ONLY, pair_ids
from tupelo.errors import RequestAborted
from tupelo.pooling import PoolingInfo
from tupelo_server.generation import Job, Prompt
from tupelo_server.pooling import Pooled, Pooler, PoolingJob

if TYPE_CHECKING:
    from tupelo_server.engine_client import Frontend


class EnginePooler(Pooler):
    """Pools through ``Frontend.collect``: with its limits, its log, its metrics and its aborts."""

    def __init__(self, frontend: "Frontend") -> None:
        self._frontend = frontend

    @property
    def info(self) -> PoolingInfo:
        info = self._frontend.info.pooling
        assert info is not None, "a pooler is of a model that pools"
        return info

    def pair(
        self, query: str, document: str, *, instruct: str = "", max_tokens: int = 0
    ) -> tuple[Prompt, int]:
        tokenizer = self._frontend.prompts.tokenizer
        ids, second = pair_ids(
            tokenizer, self.info, query, document, instruct=instruct, max_tokens=max_tokens
        )
        return Prompt(tuple(ids)), second

    async def embed(self, jobs: Sequence[PoolingJob], owner: str) -> list[Pooled]:
        asked = [
            Job(
                prompt=job.prompt,
                params=PREFILL_ONLY,
                rid=job.rid,
                salt=job.salt,
                priority=job.priority,
                pooling=job.params,
            )
            for job in jobs
        ]
        made = []
        for delta in await self._frontend.collect(asked, owner):
            if delta.vectors is None:
                raise RequestAborted("aborted")
            made.append(Pooled(rows=delta.vectors.array(), cached_tokens=delta.cached_tokens))
        return made
