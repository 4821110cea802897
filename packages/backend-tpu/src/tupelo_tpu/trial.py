"""A kernel's first run: on small inputs, against XLA's own ops. One that differs is not used."""

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tupelo.backend import AttentionBackend, Runtime, StepInputs
from tupelo.batch import Batch, Bucket
from tupelo.specs import AttentionSpec, KVSpec
from tupelo_tpu.kv_pool import XlaKVPool

LARGEST_ERROR = 3e-2
"""Of values of size 1 in bfloat16: probabilities and results rounded by 2^-8, in another order."""

ROWS = ((1, 21), (9, 9), (3, 30))
"""New tokens and length of each row: a decode row, a prompt, a later chunk."""

LONGEST_ROW = max(length for _, length in ROWS)

TOKENS, TABLES = 16, 8


def difference(
    kernel: AttentionBackend,
    plain: AttentionBackend,
    specs: Sequence[AttentionSpec],
    page_size: int,
    max_pages: int,
    runtime: Runtime,
) -> str:
    """How ``kernel`` differs from ``plain`` for the first spec that it does; "" if for none."""
    for index, kind in enumerate(specs):
        if kind.value_dim is not None:
            continue
        sizes = (page_size, max_pages)
        try:
            with runtime.stream():
                want, got = (_run(a, index, kind, sizes, runtime) for a in (plain, kernel))
        except RuntimeError as error:  # what it is built or run with refused it
            return f"{type(error).__name__}: {error}"
        off = float((want - got).abs().nan_to_num(nan=float("inf")).max())
        if not off <= LARGEST_ERROR:
            return f"it is off by {off:.3g} for heads of {kind.head_dim}, window {kind.window}"
    return ""


def _run(
    attention: AttentionBackend,
    spec: int,
    kind: AttentionSpec,
    sizes: tuple[int, int],
    runtime: Runtime,
) -> Tensor:
    """The step's tokens, (num_tokens, num_heads, head_dim) float32 on the host."""
    page_size, max_pages = sizes
    stored = KVSpec(
        group=kind.group,
        layers=(0,),
        num_kv_heads=kind.num_kv_heads,
        head_dim=kind.head_dim,
        dtype="bfloat16",
    )
    pages = -(-LONGEST_ROW // page_size)
    pool = XlaKVPool((stored,), (pages * len(ROWS),), page_size, runtime)
    random = np.random.default_rng(0)

    def drawn(count: int, heads: int) -> Tensor:
        numbers = random.standard_normal((count, heads, kind.head_dim), np.float32)
        return runtime.to_device(numbers).to(torch.bfloat16)

    sinks = None
    if kind.sinks:
        sinks = runtime.to_device(np.linspace(-1, 2, kind.num_heads, dtype=np.float32))
    old = pool.buffers(0)[0].numel() // (kind.num_kv_heads * kind.head_dim)
    filled = [drawn(old, kind.num_kv_heads).view(pool.buffers(0)[0].shape) for _ in range(2)]
    pool.replace(0, (filled[0], filled[1]))
    q, k, v = (drawn(TOKENS, n) for n in (kind.num_heads, kind.num_kv_heads, kind.num_kv_heads))
    inputs = _inputs(kind.group, pages, page_size, max_pages, runtime)
    out = attention.forward(q, k, v, spec, 0, pool, attention.plan(inputs), sinks)
    return out.float().cpu()[: sum(count for count, _ in ROWS)]


def _inputs(group: int, pages: int, page_size: int, width: int, runtime: Runtime) -> StepInputs:
    counts, lengths = (np.array(column, np.int32) for column in zip(*ROWS, strict=True))
    table = np.zeros((TABLES, width), np.int32)
    table[: len(ROWS), :pages] = np.arange(len(ROWS) * pages).reshape(len(ROWS), pages)[::-1]
    at = [np.arange(n - c, n) for c, n in ROWS]
    mapping = [table[row][p // page_size] * page_size + p % page_size for row, p in enumerate(at)]
    missing = (0, TOKENS - int(counts.sum()))
    rows_missing = (0, TABLES - len(ROWS))
    ends = np.concatenate(([0], np.cumsum(counts)))
    send = functools.partial(_sent, runtime)
    slots = np.pad(np.arange(len(ROWS)), rows_missing, constant_values=TABLES - 1)
    empty = np.empty(0, np.int32)
    host = Batch(
        step=0,
        slots=slots[: len(ROWS)].astype(np.int32),
        num_decode_rows=1,
        cu_seqlens_q=ends.astype(np.int32),
        seq_lens=lengths,
        input_ids=np.zeros(int(counts.sum()), np.int32),
        positions=np.concatenate(at).astype(np.int32),
        slot_mapping=(),
        page_deltas=(),
        logits_rows=empty,
        sample_rows=empty,
        bucket=Bucket(TOKENS, TABLES),
    )
    owners = np.repeat(np.arange(len(ROWS)), counts)
    return StepInputs(
        host=host,
        input_ids=send(np.zeros(TOKENS), np.int64),
        positions=send(np.pad(np.concatenate(at), missing), np.int64),
        cu_seqlens_q=send(np.pad(ends, rows_missing, mode="edge"), np.int32),
        seq_lens=send(np.pad(lengths, rows_missing), np.int32),
        slots=send(slots, np.int64),
        token_rows=send(np.pad(owners, missing, constant_values=TABLES - 1), np.int64),
        slot_mapping=tuple(
            send(np.pad(np.concatenate(mapping), missing, constant_values=-1), np.int64)
            for _ in range(group + 1)
        ),
        page_tables=tuple(send(table, np.int32) for _ in range(group + 1)),
    )


def _sent(runtime: Runtime, array: np.ndarray, dtype: type[np.integer]) -> Tensor:
    return runtime.to_device(array.astype(dtype))
