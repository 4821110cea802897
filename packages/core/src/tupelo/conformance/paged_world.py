"""A backend's attention and K/V pool driven step by step, each row checked against ``dense``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import (
    AttentionBackend,
    HeadSplit,
    Latent,
    Plan,
    Runner,
    RunnerParts,
    StepInputs,
)
from tupelo.backend.graphs.cut import CutAttention
from tupelo.backend.graphs.pieces import StepMemory
from tupelo.batch import Batch, Bucket, PrefixGroups
from tupelo.conformance.case import CheckFailed, check
from tupelo.conformance.dense import Doubles, attend
from tupelo.conformance.geometry import Geometry
from tupelo.conformance.page_book import PageBook
from tupelo.conformance.probe_model import ProbeModel
from tupelo.conformance.target import Target
from tupelo.ops import OPS, OpTable, Tolerance

Floats = npt.NDArray[np.float32]

TOLERANCES = {
    "float32": Tolerance(
        absolute=2e-5, relative=2e-5, reason="float32 sums in another order; TF32 is outside"
    ),
    "bfloat16": Tolerance(
        absolute=1e-2,
        relative=2**-6,
        reason="probabilities rounded by 2^-8 before they meet V, the output once more",
    ),
    "float16": Tolerance(
        absolute=1.5e-3,
        relative=2**-9,
        reason="probabilities rounded by 2^-11 before they meet V, the output once more",
    ),
}

NUM_SLOTS, NUM_PAGES, MAX_PAGES = 6, 240, 80


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a step: ``count`` new tokens of what is in ``slot``.

    Attributes:
        shares: slot whose first ``shared`` tokens, K/V and pages, this row takes over before it
            adds its own; they may be computed in this very step.
    """

    slot: int
    count: int
    shares: int | None = None
    shared: int = 0


class PagedWorld:
    """Slots, pages and histories over one attention backend and one pool.

    Args:
        seed: of q, k, v and of the order of page ids.
    """

    def __init__(self, target: Target, geometry: Geometry, seed: int = 0) -> None:
        self.geometry = g = geometry
        backend = target.backend
        self.runtime = backend.runtime(backend.device)
        self.group_of, kinds, stored = g.specs()
        self.kinds = kinds
        in_place = not backend.capabilities.functional_kv
        self.attention = backend.attention(kinds, g.page_size, MAX_PAGES, self.runtime, in_place)
        self.pool = backend.kv_pool(stored, [NUM_PAGES] * len(stored), g.page_size, self.runtime)
        self.books = [
            PageBook(NUM_SLOTS, NUM_PAGES, MAX_PAGES, g.page_size, seed + i)
            for i in range(len(stored))
        ]
        self._tables = tuple(self.runtime.to_device(b.table.copy()) for b in self.books)
        self._random = np.random.default_rng(seed)
        keys = np.empty((0, g.num_kv_heads, g.head_dim))
        values = keys[..., : g.value_dim]
        layers, slots = range(len(g.windows)), range(NUM_SLOTS)
        self.keys: list[list[Doubles]] = [[keys for _ in slots] for _ in layers]
        self.values: list[list[Doubles]] = [[values for _ in slots] for _ in layers]
        self._steps = 0
        self.has_static_shapes = backend.capabilities.static_shapes
        self._static = _static_runner(target, self) if self.has_static_shapes else None
        self.runtime.synchronize()  # steps run on a stream of their own

    def length(self, slot: int) -> int:
        """Tokens stored for a slot."""
        return len(self.keys[0][slot])

    def clear(self, slot: int, *, reuse: bool = True) -> None:
        """End what is in a slot; with ``reuse`` its pages are handed out again next."""
        for book in self.books:
            book.drop(slot, reuse=reuse)
        for layer in range(len(self.keys)):
            self.keys[layer][slot] = self.keys[layer][slot][:0]
            self.values[layer][slot] = self.values[layer][slot][:0]

    def raw_step(self, rows: Sequence[Row], q: Floats, k: Floats, v: Floats) -> Tensor:
        """Layer 0 alone, on given inputs, unchecked: what it returns, on the host."""
        starts = self._place(rows)
        with torch.inference_mode(), self.runtime.stream():
            inputs = self._inputs(rows, starts, None)
            sent_q, sent_k, sent_v = (self._pad_rows(t, len(inputs.input_ids)) for t in (q, k, v))
            plan = self.attention.plan(inputs)
            out = self.attention.forward(
                sent_q, sent_k, sent_v, self.group_of[0], 0, self.pool, plan
            ).cpu()
        new_k, new_v = (t.astype(np.float64) for t in (k, v))
        self._extend(0, rows, new_k, new_v)
        return out[: len(q)]

    def latent_step(
        self, row: Row, drawn: Sequence[Floats], weights: Sequence[Floats]
    ) -> tuple[Doubles, list[Doubles]]:
        """Layer 0 alone, one row of latent attention, unchecked.

        Args:
            drawn: q_nope, q_rope and (latent, k_rope) of the new tokens. weights: up_k, up_v.

        Returns:
            What ``forward_mla`` returns, and all inputs as the device saw them.
        """
        g, rank = self.geometry, self.geometry.value_dim
        assert rank is not None
        starts = self._place([row])
        with torch.inference_mode(), self.runtime.stream():
            inputs = self._inputs([row], starts, None)
            sent = [self._pad_rows(t, len(inputs.input_ids)) for t in drawn]
            held = [self._pad_rows(w, len(w)) for w in weights]
            plan = self.attention.plan(inputs)
            q_nope, q_rope, stored = sent
            out = self.attention.forward_mla(
                q_nope,
                q_rope,
                stored[:, :rank],
                stored[:, rank:],
                Latent(*held),
                self.group_of[0],
                0,
                self.pool,
                plan,
            )
            exact = [t.cpu().double().numpy() for t in (out, *sent, *held)]
        blank = np.zeros((row.count, 1, g.head_dim))
        self._extend(0, [row], blank, blank[..., :rank])  # lengths alone
        got, *seen = exact
        return got[: row.count], [t[: row.count] for t in seen[:3]] + seen[3:]

    def packed_step(
        self, rows: Sequence[Row], qkv: Floats, split: HeadSplit, *, in_turn: bool
    ) -> Tensor:
        """Layer 0 alone, from a packed product, unchecked: what it returns, on the host.

        Args:
            in_turn: through the contract's default, split and then ``forward``, whatever the
                backend has of its own.
        """
        starts = self._place(rows)
        with torch.inference_mode(), self.runtime.stream():
            inputs = self._inputs(rows, starts, None)
            sent = self._pad_rows(qkv, len(inputs.input_ids))
            plan = self.attention.plan(inputs)
            attention, spec = self.attention, self.group_of[0]
            default = partial(AttentionBackend.forward_qkv, attention)
            run: Callable[..., Tensor] = default if in_turn else attention.forward_qkv
            out = run(sent, inputs.positions, split, spec, 0, self.pool, plan).cpu()
        g = self.geometry
        blank = np.zeros((len(qkv), g.num_kv_heads, g.head_dim))
        self._extend(0, rows, blank, blank)  # lengths alone: what is stored is the split's
        return out[: len(qkv)]

    def cut_step(self, rows: Sequence[Row], qkv: Floats, split: HeadSplit) -> Tensor | None:
        """``packed_step`` in two parts, the first at more tokens than the step's, as a captured
        piece has it; None where the backend's attention has no parts."""
        attention, spec = self.attention, self.group_of[0]
        if not isinstance(attention, CutAttention):
            return None
        starts = self._place(rows)
        with torch.inference_mode(), self.runtime.stream():
            inputs = self._inputs(rows, starts, None)
            padded = len(inputs.input_ids) + 3
            sent = self._pad_rows(qkv, padded)
            memory = StepMemory(padded, NUM_SLOTS, inputs)
            begun_plan = attention.plan(memory.decode_inputs(padded))
            memory.fill(inputs, padded)
            plan = attention.plan(inputs)
            begun = attention.begin_qkv(
                sent, memory.positions, split, spec, 0, self.pool, begun_plan
            )
            out = None
            if begun is not None:
                attention.finish_qkv(begun, spec, 0, self.pool, plan)
                out = begun.out.cpu()[: len(qkv)]
        g = self.geometry
        blank = np.zeros((len(qkv), g.num_kv_heads, g.head_dim))
        self._extend(0, rows, blank, blank)
        return out

    def step(
        self,
        *rows: Row,
        plan: Plan | None = None,
        bucket: Bucket | None = None,
        size: float = 1.0,
        groups: Sequence[tuple[int, int]] = (),
    ) -> Plan:
        """Run one step through every layer, and check every row of every layer.

        Args:
            plan: of an earlier step, to be refilled. bucket: to pad to. size: multiplies v.
            groups: rows and shared tokens of each prefix group, from the first row on.

        Returns:
            The step's plan.
        """
        g = self.geometry
        decode_first = sorted(rows, key=lambda row: row.count > 1)
        check(list(rows) == decode_first, "decode rows come first")
        starts = self._place(rows)
        with torch.inference_mode(), self.runtime.stream():
            inputs = self._inputs(rows, starts, bucket)
            inputs.host.prefix_groups = self._groups(inputs.host, groups)
            made = (
                self.attention.plan(inputs) if plan is None else self.attention.plan(inputs, plan)
            )
            for layer in range(len(g.windows)):
                self._run_layer(layer, rows, starts, inputs, made, g.size * size)
        return made

    def _run_layer(
        self,
        layer: int,
        rows: Sequence[Row],
        starts: Sequence[int],
        inputs: StepInputs,
        plan: Plan,
        size: float,
    ) -> None:
        g, total = self.geometry, sum(row.count for row in rows)
        padded = len(inputs.input_ids)
        q = self._draw((padded, g.num_heads, g.head_dim), g.size)
        k = self._draw((padded, g.num_kv_heads, g.head_dim), g.size)
        v = self._draw((padded, g.num_kv_heads, g.head_dim), size)
        if g.value_dim is not None:
            v = k[..., : g.value_dim]
        spec = self.group_of[layer]
        sinks = self._sinks(layer)
        sunk = () if sinks is None else (self.runtime.to_device(sinks),)
        out = self.attention.forward(q, k, v, spec, layer, self.pool, plan, *sunk)
        wanted = (padded, g.num_heads, v.shape[2])
        check(out.shape == wanted, f"attention returned {tuple(out.shape)}, wanted {wanted}")
        check(out.dtype == q.dtype, f"attention returned {out.dtype} for {q.dtype}")
        got = out.detach().cpu().double().numpy()
        check(bool(np.isfinite(got).all()), f"layer {layer}: attention returned NaN or infinity")
        stored = getattr(torch, g.kv_dtype)
        new_k, new_v = (t.to(stored).cpu().double().numpy()[:total] for t in (k, v))
        self._extend(layer, rows, new_k, new_v)
        exact_q, end = q.cpu().double().numpy(), 0
        for row, start in zip(rows, starts, strict=True):
            begin, end = end, end + row.count
            want = attend(
                exact_q[begin:end],
                self.keys[layer][row.slot],
                self.values[layer][row.slot],
                scale=self.kinds[spec].scale,
                window=g.windows[layer],
                chunked=g.chunked,
                soft_cap=g.soft_cap,
                sinks=None if sinks is None else sinks.astype(np.float64),
            )
            where = f"layer {layer}, slot {row.slot}"
            self._compare(got[begin:end], want, size * g.size, where, start)

    def _sinks(self, layer: int) -> Floats | None:
        """(num_heads,) of a layer: some that outweigh many keys, some that hardly count."""
        if not self.geometry.sinks:
            return None
        return np.linspace(-2.0, 4.0, self.geometry.num_heads, dtype=np.float32) + layer

    def _extend(self, layer: int, rows: Sequence[Row], k: Doubles, v: Doubles) -> None:
        """Append the new tokens; a row that shares comes after the row it shares with."""
        ends = np.cumsum([row.count for row in rows])
        for row, end in sorted(zip(rows, ends, strict=True), key=lambda p: p[0].shares is not None):
            for history, new in ((self.keys[layer], k), (self.values[layer], v)):
                if row.shares is not None:
                    history[row.slot] = history[row.shares][: row.shared]
                added = new[end - row.count : end]
                history[row.slot] = np.concatenate((history[row.slot], added))

    def _compare(self, got: Doubles, want: Doubles, size: float, where: str, start: int) -> None:
        limit = TOLERANCES[self.geometry.dtype]
        excess = np.abs(got - want) - limit.relative * np.abs(want) - limit.absolute * size
        if excess.max(initial=-1.0) > 0:
            token, head, element = np.unravel_index(int(excess.argmax()), excess.shape)
            raise CheckFailed(
                f"{where}: token {token} of the row (position {start + token}), head {head}, "
                f"element {element}: got {got[token, head, element]:.6g}, want "
                f"{want[token, head, element]:.6g}; {int((excess > 0).sum())} of {excess.size} "
                f"elements are off by more than {limit.absolute * size:.3g} + "
                f"{limit.relative:.3g} x |want| ({limit.reason})"
            )

    def _place(self, rows: Sequence[Row]) -> list[int]:
        """Pages for every row's new tokens; returns the position of each row's first."""
        starts = [row.shared if row.shares is not None else self.length(row.slot) for row in rows]
        self._share_pages(rows)
        for row, start in zip(rows, starts, strict=True):
            for book in self.books:
                book.grow(row.slot, start + row.count)
        return starts

    def _share_pages(self, rows: Sequence[Row]) -> None:
        """Give rows that share the pages they share; where these are of the same step, the owner
        gets them now."""
        for row in rows:
            if row.shares is None:
                continue
            check(row.shared % self.geometry.page_size == 0, "only full pages are shared")
            for book in self.books:
                book.grow(row.shares, max(row.shared, self.length(row.shares)))
                book.set(row.slot, book.pages(row.shares)[: row.shared // self.geometry.page_size])

    def _inputs(
        self, rows: Sequence[Row], starts: Sequence[int], bucket: Bucket | None
    ) -> StepInputs:
        batch = self._batch(rows, starts)
        if bucket is None and self._static is not None:
            bucket = self._static.bucket(batch.num_tokens, batch.num_rows)
        batch.bucket = bucket or Bucket()
        pad_t = max(0, batch.bucket.tokens - batch.num_tokens)
        pad_r = max(0, batch.bucket.rows - batch.num_rows)
        token_rows = np.repeat(np.arange(batch.num_rows), np.diff(batch.cu_seqlens_q))
        for table, book in zip(self._tables, self.books, strict=True):
            table.copy_(torch.from_numpy(book.table))
        return StepInputs(
            host=batch,
            input_ids=self._padded(batch.input_ids, pad_t, 0, np.int64),
            positions=self._padded(batch.positions, pad_t, 0, np.int64),
            cu_seqlens_q=self._padded(batch.cu_seqlens_q, pad_r, batch.num_tokens, np.int32),
            seq_lens=self._padded(batch.seq_lens, pad_r, 0, np.int32),
            slots=self._padded(batch.slots, pad_r, NUM_SLOTS, np.int64),
            token_rows=self._padded(token_rows, pad_t, batch.num_rows + pad_r - 1, np.int64),
            slot_mapping=tuple(self._padded(m, pad_t, -1, np.int64) for m in batch.slot_mapping),
            page_tables=self._tables,
        )

    def _batch(self, rows: Sequence[Row], starts: Sequence[int]) -> Batch:
        counts = np.array([row.count for row in rows], np.int32)
        spans = list(zip(rows, starts, strict=True))
        empty = np.empty(0, np.int32)
        self._steps += 1
        return Batch(
            step=self._steps,
            slots=np.array([row.slot for row in rows], np.int32),
            num_decode_rows=int((counts == 1).sum()),
            cu_seqlens_q=np.concatenate(([0], np.cumsum(counts))).astype(np.int32),
            seq_lens=np.array(starts, np.int32) + counts,
            input_ids=np.zeros(counts.sum(), np.int32),
            positions=np.concatenate([np.arange(s, s + r.count, dtype=np.int32) for r, s in spans]),
            slot_mapping=tuple(
                np.concatenate([book.mapping(r.slot, s, r.count) for r, s in spans])
                for book in self.books
            ),
            page_deltas=tuple(book.delta() for book in self.books),
            logits_rows=empty,
            sample_rows=empty,
        )

    def _groups(self, batch: Batch, groups: Sequence[tuple[int, int]]) -> PrefixGroups | None:
        """The record of some groups; refuses what the scheduler would never name."""
        if not groups:
            return None
        starts = np.cumsum([0, *(count for count, _ in groups)]).astype(np.int32)
        shared = np.array([tokens for _, tokens in groups], np.int32)
        check(int(starts[-1]) <= batch.num_decode_rows, "only decode rows are in groups")
        for first, end, tokens in zip(starts[:-1], starts[1:], shared, strict=True):
            check(
                int(batch.seq_lens[first:end].min()) > tokens, "a row is no longer than its prefix"
            )
            for book, kind in zip(self.books, self.kinds, strict=True):
                heads = book.table[batch.slots[first:end], : tokens // book.page_size]
                same = kind.window is not None or bool((heads == heads[0]).all())
                check(same, "rows of a group have different pages")
        return PrefixGroups(starts, shared)

    def _padded(self, array: np.ndarray, count: int, value: int, dtype: type[np.integer]) -> Tensor:
        filled = np.concatenate((array, np.full(count, value))).astype(dtype)
        return self.runtime.to_device(filled)

    def _pad_rows(self, array: Floats, count: int) -> Tensor:
        padded = np.zeros((count, *array.shape[1:]), np.float32)
        padded[: len(array)] = array
        return self.runtime.to_device(padded).to(getattr(torch, self.geometry.dtype))

    def _draw(self, shape: tuple[int, ...], size: float) -> Tensor:
        numbers = self._random.standard_normal(shape, np.float32) * np.float32(size)
        return self.runtime.to_device(numbers).to(getattr(torch, self.geometry.dtype))


def _static_runner(target: Target, world: PagedWorld) -> Runner:
    """A runner that is only asked for buckets."""
    backend, g = target.backend, world.geometry
    ops = OpTable(OPS, backend.kernels)
    layers = tuple(world.group_of)
    return backend.runner(
        RunnerParts(
            model=ProbeModel(world.kinds, layers, 8, g.dtype, world.runtime.device),
            attention=world.attention,
            kv=world.pool,
            sampler=backend.sampler(NUM_SLOTS, 8, ops, world.runtime),
            runtime=world.runtime,
            num_slots=NUM_SLOTS,
            max_pages=MAX_PAGES,
            num_groups=len(world.books),
        )
    )
