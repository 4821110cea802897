"""Requests that end in numbers instead of text: what the routes ask, and who answers.

The routes of embeddings, ranking and classification know models through ``Pooler`` alone. A
``Frontend`` has one where the model that it serves can be pooled, else None.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tupelo_server.generation import Prompt


class PoolingTask(StrEnum):
    """What is made of a text.

    ``EMBED``: a vector, normalised if the model says so. ``CLASSIFY``: a number for each class, as
    the model's head gives it (logits). ``RANK``: one number for a pair of texts, higher is better.
    """

    EMBED = "embed"
    CLASSIFY = "classify"
    RANK = "rank"


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingJob:
    """One text, or one pair of texts, to be pooled.

    Attributes:
        prompt: its ids, framed as the model wants them.
        num_first: of a pair, how many of the ids are the first text's (for type ids); all of them
            where there is no pair.
        rid: the id that its client sees. priority: as in ``Job``.
    """

    task: PoolingTask
    prompt: Prompt
    num_first: int
    rid: str
    priority: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """What was made of one job: ``values`` (n,) float32."""

    values: npt.NDArray[np.float32]
    cached_tokens: int = 0


class Pooler(Protocol):
    """Pools jobs with the model being served."""

    @property
    def tasks(self) -> frozenset[PoolingTask]:
        """What the model can do."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """The names of the classes, in the order of ``Pooled.values``; empty where it has none."""
        ...

    def pair(self, first: str, second: str) -> tuple[tuple[int, ...], int]:
        """A pair of texts as one list of ids, and how many of them are the first text's.

        Raises:
            InvalidRequest: a text that is no valid Unicode.
        """
        ...

    async def embed(self, jobs: Sequence[PoolingJob], owner: str) -> list[Pooled]:
        """Pool ``jobs``, in their order; cancelling the call aborts them.

        Raises:
            InvalidRequest: ids outside the vocabulary, an empty prompt, a task it cannot do.
            ContextLengthExceeded: a prompt that is longer than the model takes.
            RequestError: the engine could not serve a job.
        """
        ...
