"""Requests that end in numbers instead of text: what the routes ask, and who answers.

The routes of embeddings, ranking and classification know models through ``Pooler`` alone. A
``Frontend`` has one where the model that it serves pools, else None.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tupelo.pooling import Floats, PoolingInfo, PoolingParams
from tupelo_server.generation import Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingJob:
    """One text, or one pair of texts, to be pooled.

    Attributes:
        prompt: its ids, framed as the model wants them.
        rid: the id that its client sees and may abort it by. salt, priority: as in ``Job``.
    """

    prompt: Prompt
    params: PoolingParams
    rid: str
    salt: str = ""
    priority: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """What was made of one job.

    Attributes:
        rows: (1, size), or (num_tokens, size) of a head that makes a row for each token.
    """

    rows: Floats
    cached_tokens: int = 0


class Pooler(Protocol):
    """Pools jobs with the model being served."""

    @property
    def info(self) -> PoolingInfo:
        """What the model can do."""
        ...

    def pair(
        self, query: str, document: str, *, instruct: str = "", max_tokens: int = 0
    ) -> tuple[Prompt, int]:
        """A query and a document as the model wants them, and where the second segment begins.

        Args:
            max_tokens: the document is cut so that the prompt is no longer; 0 means no cut.

        Raises:
            InvalidRequest: the model ranks nothing, or takes no instruction.
        """
        ...

    async def embed(self, jobs: Sequence[PoolingJob], owner: str) -> list[Pooled]:
        """Pool ``jobs``, in their order; cancelling the call aborts them.

        Raises:
            InvalidRequest: ids outside the vocabulary, an empty prompt, what the model cannot do.
            ContextLengthExceeded: a prompt that is longer than the model takes.
            RequestError: the engine could not serve a job.
        """
        ...
