"""Level 2: attention without a cache, as encoders have it, against the dense oracle.

Rows of one step attend among themselves, in both directions; nothing is stored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tupelo.backend import StepInputs
from tupelo.batch import Batch, Bucket
from tupelo.conformance.case import Case, check
from tupelo.conformance.dense import attend
from tupelo.conformance.paged_world import TOLERANCES
from tupelo.conformance.target import Target
from tupelo.specs import NO_GROUP, AttentionSpec

LENGTHS = (7, 1, 33, 2, 100)
"""Tokens of the rows: one alone, and more than any kernel's tile."""

WINDOW = 6


def ragged_cases(target: Target) -> Iterator[Case]:
    """The cases: ``ragged/NAME``."""
    has = target.backend.capabilities
    dims = has.head_dims or (16, 64, 80)
    base = AttentionSpec(
        group=NO_GROUP, num_heads=4, num_kv_heads=2, head_dim=dims[0], scale=0.3, causal=False
    )
    kinds = {
        "rows": base,
        "window": replace(base, window=WINDOW),
        "soft_cap": replace(base, soft_cap=2.0),
        "soft_cap_window": replace(base, soft_cap=2.0, window=WINDOW),
        **{f"dim_{n}": replace(base, head_dim=n, num_kv_heads=4) for n in dims},
    }
    for name, kind in kinds.items():
        for padded in (False, True):
            case = f"ragged/{name}{'/padded' if padded else ''}"
            yield Case(case, 2, partial(_run, target, kind, target.dtype, LENGTHS, padded=padded))
    for dtype in has.dtypes:
        yield Case(f"ragged/dtype/{dtype}", 2, partial(_run, target, base, dtype, LENGTHS))
        declared = dtype in has.batch_invariant
        skip = "" if declared else f"the backend does not declare batch_invariant in {dtype}"
        invariant = partial(_invariant, target, base, dtype)
        yield Case(f"ragged/batch_invariant/{dtype}", 2, invariant, skip)
    yield Case("ragged/one_row", 2, partial(_run, target, base, target.dtype, (40,)))


def _run(
    target: Target,
    kind: AttentionSpec,
    dtype: str,
    lengths: Sequence[int],
    *,
    padded: bool = False,
) -> None:
    """Every row against the oracle."""
    drawn = _draw(kind, sum(lengths))
    got = _attend(target, kind, dtype, lengths, drawn, padded=padded)
    check(got.dtype == getattr(torch, dtype), f"it returned {got.dtype} for {dtype}")
    check(bool(torch.isfinite(got).all()), "it returned NaN or infinity")
    exact = [_rounded(t, dtype).double().numpy() for t in drawn]
    limit, end = TOLERANCES[dtype], 0
    for number, length in enumerate(lengths):
        row, end = slice(end, end + length), end + length
        q, k, v = (t[row] for t in exact)
        want = attend(
            q, k, v, scale=kind.scale, window=kind.window, soft_cap=kind.soft_cap, causal=False
        )
        off = np.abs(got[row].double().numpy() - want)
        worst = float((off - limit.relative * np.abs(want)).max())
        check(
            worst <= limit.absolute,
            f"row {number} of {length} tokens is off by {off.max():.3g}; allowed "
            f"{limit.absolute:g} + {limit.relative:.3g} x |want| ({limit.reason})",
        )


def _invariant(target: Target, kind: AttentionSpec, dtype: str) -> None:
    """A row's bits are the same alone and among others."""
    drawn = _draw(kind, 60)
    among = _attend(target, kind, dtype, (20, 9, 31), drawn)
    alone = _attend(target, kind, dtype, (9,), [t[20:29] for t in drawn])
    check(torch.equal(among[20:29], alone), "a row's attention depends on the others of its step")


def _draw(kind: AttentionSpec, count: int) -> list[torch.Tensor]:
    """q, k and v of so many tokens, on the host in float32."""
    random = np.random.default_rng(count)
    heads = (kind.num_heads, kind.num_kv_heads, kind.num_kv_heads)
    return [
        torch.from_numpy(random.standard_normal((count, n, kind.head_dim), np.float32))
        for n in heads
    ]


def _rounded(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype))


def _attend(
    target: Target,
    kind: AttentionSpec,
    dtype: str,
    lengths: Sequence[int],
    drawn: Sequence[torch.Tensor],
    *,
    padded: bool = False,
) -> torch.Tensor:
    """What the backend computes, on the host, without its padding.

    Args:
        padded: to a bucket larger than the step; always where the backend's shapes are static.
    """
    backend = target.backend
    has = backend.capabilities
    runtime = backend.runtime(backend.device)
    page_size = has.page_sizes[0] if has.page_sizes else 4
    attention = backend.attention((), page_size, 4, runtime, not has.functional_kv)
    total = sum(lengths)
    bucket = Bucket(total + 5, len(lengths) + 2) if padded or has.static_shapes else Bucket()
    with torch.inference_mode(), runtime.stream():
        inputs = _inputs(lengths, bucket, runtime.to_device)
        spare = max(0, bucket.tokens - total)
        filled = [torch.cat((t, t.new_ones((spare, *t.shape[1:])))) for t in drawn]
        q, k, v = (_rounded(runtime.to_device(t.numpy()), dtype) for t in filled)
        out = attention.forward_ragged(q, k, v, kind, inputs, attention.plan(inputs))
        host = out.cpu()
    check(out.shape == q.shape, f"it returned {tuple(out.shape)} for {tuple(q.shape)}")
    return host[:total]


def _inputs(
    lengths: Sequence[int], bucket: Bucket, send: Callable[[np.ndarray], torch.Tensor]
) -> StepInputs:
    """A step of whole rows of a model without page groups."""
    counts = np.array(lengths, np.int32)
    total, rows = int(counts.sum()), len(counts)
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    at = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    empty = np.empty(0, np.int32)
    host = Batch(
        step=1,
        slots=np.arange(rows, dtype=np.int32),
        num_decode_rows=0,
        cu_seqlens_q=starts,
        seq_lens=counts,
        input_ids=np.zeros(total, np.int32),
        positions=at,
        slot_mapping=(),
        page_deltas=(),
        logits_rows=empty,
        sample_rows=empty,
        bucket=bucket,
    )
    pad_t, pad_r = max(0, bucket.tokens - total), max(0, bucket.rows - rows)
    token_rows = np.repeat(np.arange(rows), counts)

    def padded(array: np.ndarray, count: int, value: int, dtype: type[np.integer]) -> torch.Tensor:
        return send(np.concatenate((array, np.full(count, value))).astype(dtype))

    return StepInputs(
        host=host,
        input_ids=padded(host.input_ids, pad_t, 0, np.int64),
        positions=padded(at, pad_t, 0, np.int64),
        cu_seqlens_q=padded(starts, pad_r, total, np.int32),
        seq_lens=padded(counts, pad_r, 0, np.int32),
        slots=padded(host.slots, pad_r, rows, np.int64),
        token_rows=padded(token_rows, pad_t, rows + pad_r - 1, np.int64),
        slot_mapping=(),
        page_tables=(),
    )
