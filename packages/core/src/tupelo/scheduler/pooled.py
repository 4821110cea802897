"""What a step pools for requests that end in vectors, and taking it into their entries."""

from collections.abc import Sequence

import numpy as np

from tupelo.batch import IntArray, PoolGroup, StepResult
from tupelo.pooling import PoolingKind
from tupelo.scheduler.builder import Chunk, Row, Step
from tupelo.scheduler.entry import Phase


def add_pooling(step: Step, chunks: Sequence[Chunk], *, token_types: bool) -> None:
    """Put what the step's chunks want pooled into it, a group for each head.

    Args:
        token_types: also the segment of each token: 0, and 1 from a pair's second text on.
    """
    groups: dict[str, list[tuple[Row, IntArray, IntArray]]] = {}
    starts = step.batch.cu_seqlens_q[step.batch.num_decode_rows :].tolist()
    for chunk, row, start in zip(chunks, step.chunks, starts, strict=False):
        found = _wanted(chunk, start)
        params = chunk.entry.request.pooling
        if found is not None and params is not None:
            groups.setdefault(params.head, []).append((row, *found))
    step.batch.pooled = tuple(
        PoolGroup(
            head,
            np.concatenate([tokens for _, tokens, _ in parts]),
            np.concatenate([lengths for _, _, lengths in parts]),
        )
        for head, parts in groups.items()
    )
    step.pooled[:] = [
        [(row, len(lengths)) for row, _, lengths in parts] for parts in groups.values()
    ]
    if token_types:
        step.batch.token_types = np.concatenate([_types(chunk) for chunk in chunks])


def record_pooled(step: Step, result: StepResult) -> None:
    """Append what the step pooled to the entries that are still what they were."""
    for owners, vectors in zip(step.pooled, result.pooled, strict=True):
        start = 0
        for row, count in owners:
            entry, stop = row.entry, start + count
            if entry.phase is not Phase.FINISHED and entry.epoch == row.epoch:
                entry.vectors.append(vectors[start:stop])
            start = stop


def _wanted(chunk: Chunk, start: int) -> tuple[IntArray, IntArray] | None:
    """Token indices and lengths (see ``PoolGroup``) of a chunk whose first token has index
    ``start`` in the step; None where it adds to no vector."""
    count, ends = chunk.stop - chunk.start, chunk.stop == chunk.entry.num_ids
    one = np.ones(1, np.int32)
    match chunk.entry.pooling:
        case PoolingKind.LAST if ends:
            return one * np.int32(start + count - 1), one
        case PoolingKind.CLS:
            return one * np.int32(start), one
        case PoolingKind.MEAN:
            return np.arange(start, start + count, dtype=np.int32), one * np.int32(count)
        case PoolingKind.TOKENS:
            return np.arange(start, start + count, dtype=np.int32), np.ones(count, np.int32)
    return None


def _types(chunk: Chunk) -> IntArray:
    params = chunk.entry.request.pooling
    at = np.arange(chunk.start, chunk.stop)
    second = params.second if params is not None else 0
    return ((at >= second) & (second > 0)).astype(np.int32)
