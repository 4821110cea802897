"""An attention's first run: on small inputs, against one that is known to be right."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend
from tupelo.backend.kv_pool import KVPool, TorchKVPool
from tupelo.backend.runtime import Runtime
from tupelo.backend.step import StepInputs
from tupelo.batch import Batch, Bucket
from tupelo.specs import AttentionSpec, KVSpec

LARGEST_ERROR = {"bfloat16": 3e-2, "float16": 6e-3, "float32": 2e-3}
"""Of values of size 1: probabilities and results rounded by 2^-8 or 2^-11, in another order; in
float32, products that a device rounds to 2^-11."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is tried.

    Attributes:
        rows: new tokens and length of each row; decode rows first.
        tokens, tables: tokens and rows that the step is padded to, as a bucket; 0: none.
    """

    rows: tuple[tuple[int, int], ...]
    tokens: int = 0
    tables: int = 0


PADDED = Step(((1, 21), (9, 9), (3, 30)), 16, 8)
"""A decode row, a prompt, a later chunk, in a bucket."""

MIXED = Step(PADDED.rows)
DECODE = Step(((1, 21), (1, 9), (1, 30)), 4, 4)

LONGEST_ROW = max(length for _, length in PADDED.rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Where attention is tried.

    Attributes:
        page_size, max_pages, runtime: as its constructor got them.
        num_groups: page groups of the model.
        dtype: of q, k and v. kv_dtype: of the pool.
        pool: builds the K/V pool. steps: what to run.
    """

    page_size: int
    max_pages: int
    runtime: Runtime
    num_groups: int
    dtype: str
    kv_dtype: str
    pool: Callable[..., KVPool] = TorchKVPool
    steps: tuple[Step, ...] = (MIXED, DECODE)

    def difference(
        self,
        kernel: AttentionBackend,
        plain: AttentionBackend,
        specs: Mapping[int, AttentionSpec],
    ) -> str:
        """How ``kernel`` differs from ``plain`` for the first of ``specs`` that it does; "" if for
        none. Compressed K/V are not tried, nor anything where tables hold less than
        ``LONGEST_ROW`` tokens.

        What the kernel's plans need must be theirs: plans of a step under way are still used.
        """
        if self.page_size * self.max_pages < LONGEST_ROW:
            return ""
        for index, kind in specs.items():
            if kind.value_dim is not None:
                continue
            for step in self.steps:
                try:
                    with self.runtime.stream():
                        want, got = (self._run(a, index, kind, step) for a in (plain, kernel))
                except Exception as error:  # a library, a compiler or a device refused it
                    return f"{type(error).__name__}: {error}"
                off = float((want - got).abs().nan_to_num(nan=float("inf")).max())
                if not off <= LARGEST_ERROR[self.dtype]:
                    heads = f"heads of {kind.head_dim}, window {kind.window}"
                    return f"it is off by {off:.3g} for {heads}"
        return ""

    def _run(
        self, attention: AttentionBackend, spec: int, kind: AttentionSpec, step: Step
    ) -> Tensor:
        """The step's tokens, (num_tokens, num_heads, head_dim) float32 on the host."""
        runtime, dtype = self.runtime, getattr(torch, self.dtype)
        stored = KVSpec(
            group=kind.group,
            layers=(0,),
            num_kv_heads=kind.num_kv_heads,
            head_dim=kind.head_dim,
            dtype=self.kv_dtype,
        )
        pages = -(-LONGEST_ROW // self.page_size)
        pool = self.pool((stored,), (pages * len(step.rows),), self.page_size, runtime)
        random = np.random.default_rng(0)

        def drawn(count: int, heads: int) -> Tensor:
            numbers = random.standard_normal((count, heads, kind.head_dim), np.float32)
            return runtime.to_device(numbers).to(dtype)

        sinks: tuple[Tensor, ...] = ()
        if kind.sinks:
            sinks = (runtime.to_device(np.linspace(-1, 2, kind.num_heads, dtype=np.float32)),)
        buffer = pool.buffers(0)[0]
        old = buffer.numel() // (kind.num_kv_heads * kind.head_dim)
        filled = [
            drawn(old, kind.num_kv_heads).to(buffer.dtype).view(buffer.shape) for _ in range(2)
        ]
        pool.replace(0, (filled[0], filled[1]))
        new = sum(count for count, _ in step.rows)
        tokens = step.tokens or new
        q, k, v = (drawn(tokens, n) for n in (kind.num_heads, kind.num_kv_heads, kind.num_kv_heads))
        inputs = self._inputs(step, pages)
        out = attention.forward(q, k, v, spec, 0, pool, attention.plan(inputs), *sinks)
        return out.float().cpu()[:new]

    def _inputs(self, step: Step, pages: int) -> StepInputs:
        """The step on the device, in pages that go backwards through the pool."""
        page_size, groups = self.page_size, range(self.num_groups)
        counts, lengths = (np.array(column, np.int32) for column in zip(*step.rows, strict=True))
        num_rows, tables = len(step.rows), step.tables or len(step.rows)
        table = np.zeros((tables, self.max_pages), np.int32)
        table[:num_rows, :pages] = np.arange(num_rows * pages).reshape(num_rows, pages)[::-1]
        at = [np.arange(n - c, n) for c, n in step.rows]
        places = [
            table[row][p // page_size] * page_size + p % page_size for row, p in enumerate(at)
        ]
        missing = (0, (step.tokens or int(counts.sum())) - int(counts.sum()))
        rows_missing = (0, tables - num_rows)
        ends = np.concatenate(([0], np.cumsum(counts)))
        send = functools.partial(_sent, self.runtime)
        slots = np.pad(np.arange(num_rows), rows_missing, constant_values=tables - 1)
        positions = np.concatenate(at)
        empty = np.empty(0, np.int32)
        host = Batch(
            step=0,
            slots=slots[:num_rows].astype(np.int32),
            num_decode_rows=int((counts == 1).sum()),
            cu_seqlens_q=ends.astype(np.int32),
            seq_lens=lengths,
            input_ids=np.zeros(int(counts.sum()), np.int32),
            positions=positions.astype(np.int32),
            slot_mapping=(),
            page_deltas=(),
            logits_rows=empty,
            sample_rows=empty,
            bucket=Bucket(step.tokens, step.tables),
        )
        owners = np.repeat(np.arange(num_rows), counts)
        stored = np.pad(np.concatenate(places), missing, constant_values=-1)
        return StepInputs(
            host=host,
            input_ids=send(np.zeros(len(stored)), np.int64),
            positions=send(np.pad(positions, missing), np.int64),
            cu_seqlens_q=send(np.pad(ends, rows_missing, mode="edge"), np.int32),
            seq_lens=send(np.pad(lengths, rows_missing), np.int32),
            slots=send(slots, np.int64),
            token_rows=send(np.pad(owners, missing, constant_values=tables - 1), np.int64),
            slot_mapping=tuple(send(stored, np.int64) for _ in groups),
            page_tables=tuple(send(table, np.int32) for _ in groups),
        )


def _sent(runtime: Runtime, array: np.ndarray, dtype: type[np.integer]) -> Tensor:
    return runtime.to_device(array.astype(dtype))
