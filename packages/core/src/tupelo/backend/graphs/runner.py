"""Decode steps as captured graphs at a ladder of batch sizes, prompt steps of few tokens as graphs
cut where attention runs (``pieces``); every other step eagerly.

A graph holds one step from the slots' last tokens to their next ones::

    ids -> model -> logits -> argmax -> last tokens

Greedy steps need no more. Others sample from the graph's logits afterwards, in the same stream,
and overwrite the last tokens. A step copies one packed array to the device, applies its page
changes, refills the attention plan that the graph was captured with, and replays.
"""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tupelo.backend import (
    EagerRunner,
    Forward,
    Mapped,
    Plan,
    RunnerParts,
    StepInputs,
    Ticket,
)
from tupelo.backend.graphs.buckets import (
    DecodeLayout,
    at_least,
    decode_ladder,
    grouped_ladder,
    idle_batch,
    is_decode,
)
from tupelo.backend.graphs.capture import Capture, Graph
from tupelo.backend.graphs.pieces import (
    CannotCutError,
    Pieces,
    StepMemory,
    agree,
    capture_pieces,
    rows_of,
    token_ladder,
)
from tupelo.backend.staging import StagingRing
from tupelo.batch import LAST_TOKEN, Batch, Bucket, Feature, StepResult

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 5.0
PROMPT_SIZES = (1, 3, 16, 17, 64, 200, 1024)
"""Prompt lengths that warm-up runs, below the largest step: each kernel's variants by size."""

FULL_SIZES = (2048, 4096)
TRIED_ROWS = 3
"""Decode rows of the step that captured prompt steps are compared with."""

TRIED_IDS = 17
"""Its token ids are below this, as every vocabulary has them."""


@dataclass(slots=True)
class GraphForward(Forward):
    """A replayed step; ``token_ids`` (S,) are its greedy choices."""

    token_ids: Tensor


@dataclass(slots=True)
class _DecodeGraph:
    """One rung of the ladder: the graph, the memory it reads, and what it fills.

    ``inputs`` are views of the packed buffer, ``step`` the same with last tokens filled in.
    """

    layout: DecodeLayout
    fields: dict[str, Tensor]
    inputs: StepInputs
    plan: Plan
    graph: Graph
    hidden: Tensor
    logits: Tensor
    token_ids: Tensor


class GraphRunner(EagerRunner):
    """``Runner`` over a ``Capture``.

    Args:
        parts: as for every runner.
        capture: None runs everything eagerly.
        warming: a context around warm-up, in which what has a choice may measure.
        argmax: greedy token ids (S,) int64 of logits (S, vocab_size).
        grouped: whether steps may come with prefix groups, for which attention has other kernels:
            they have a ladder and graphs of their own.
        cut: whether prompt steps are captured too.
        tries: whether graphs of decode steps are replayed once and compared with their steps; where
            they differ or cannot be captured, steps run eagerly, with a warning.

    Attributes:
        num_captures: graphs captured so far; it stays as it is after ``warmup``.
        num_replays, num_cut, num_eager: steps run each way.
    """

    def __init__(
        self,
        parts: RunnerParts,
        capture: Capture | None,
        warming: Callable[[], AbstractContextManager[object]] = nullcontext,
        argmax: Callable[[Tensor], Tensor] = lambda logits: torch.argmax(logits, dim=-1),
        grouped: bool = False,
        cut: bool = False,
        tries: bool = False,
    ) -> None:
        super().__init__(parts)
        self._cut = cut
        self._tries = tries
        self._token_ladder: tuple[int, ...] = ()
        self._pieces: dict[int, Pieces] = {}
        self._argmax = argmax
        self._warming = warming
        self._capture = capture
        self._with_groups = grouped
        self._ladder: tuple[int, ...] = ()
        self._grouped_ladder: tuple[int, ...] = ()
        self._graphs: dict[tuple[int, bool], _DecodeGraph] = {}
        self.num_captures = self.num_replays = self.num_cut = self.num_eager = 0

    # Warming up

    @torch.inference_mode()
    def warmup(self, buckets: Iterable[Bucket], features: Iterable[frozenset[Feature]]) -> None:
        """Run prompts of several sizes, then capture the ladder, largest first."""
        self._parts.runtime.synchronize()
        with self._warming():
            self._warm_prompts()
            self._warm_features([frozenset(), *features])
            if self._capture is not None and self._parts.generates and not self._graphs:
                self._capture_ladder(self._capture)
                if self._cut and self._graphs:
                    self._capture_prompts(self._capture)

    def _capture_prompts(self, capture: Capture) -> None:
        """Capture steps of the token ladder, largest first; one that is not as an eager step ends
        that."""
        parts, began = self._parts, time.perf_counter()
        ladder = token_ladder(self._prompt_limit() + parts.num_slots)
        memory: StepMemory | None = None
        for count in reversed(ladder):
            try:
                with parts.runtime.stream():
                    inputs = self._idle_prompt(count)
                    memory = memory or StepMemory(count, parts.num_slots, inputs)
                    pieces = capture_pieces(capture, parts, inputs, memory)
                    right = count not in (ladder[0], ladder[-1]) or self._as_eager(pieces)
            except CannotCutError:
                return
            except RuntimeError as error:
                logger.warning("prompt steps run eagerly: %s", error)
                self._pieces.clear()
                return
            if not right:
                logger.warning("prompt steps run eagerly: captured, they gave something else")
                self._pieces.clear()
                return
            self.num_captures += len(pieces.graphs)
            self._pieces[count] = pieces
        self._token_ladder = ladder
        seconds = time.perf_counter() - began
        logger.info("captured prompt steps up to %d tokens in %.1f s", ladder[-1], seconds)

    def _idle_prompt(self, count: int) -> StepInputs:
        """Inputs of a step that computes ``count`` tokens, those of some decode rows first, and
        stores nothing."""
        decoding = min(TRIED_ROWS, count - 1, self._parts.num_slots)
        counts = [*(1,) * decoding, *rows_of(count - decoding, self._prompt_limit())]
        batch = idle_batch(counts, self._scratch_slot, len(self._tables), Bucket())
        batch.num_decode_rows = decoding
        batch.input_ids = np.arange(1, count + 1, dtype=np.int32) % TRIED_IDS
        return self._stage(batch)[0]

    def _as_eager(self, pieces: Pieces) -> bool:
        """Whether a step a little below its size comes out as it does eagerly."""
        parts, attention = self._parts, self._parts.attention
        inputs = self._idle_prompt(pieces.num_tokens - 3)
        plan = attention.plan(inputs)
        want = parts.model.forward(inputs, attention, parts.kv, plan)
        return agree(pieces.run(inputs, attention, parts.kv, plan), want)

    def _hidden(self, inputs: StepInputs, plan: Plan) -> Tensor:
        count = at_least(self._token_ladder, len(inputs.input_ids))
        if count is None or not self._pieces[count].suits(inputs.host):
            return super()._hidden(inputs, plan)
        self.num_cut += 1
        return self._pieces[count].run(inputs, self._parts.attention, self._parts.kv, plan)

    def _capture_ladder(self, capture: Capture) -> None:
        parts = self._parts
        began = shown = time.perf_counter()
        ladder = decode_ladder(parts.num_slots)
        coarse = grouped_ladder(parts.num_slots) if self._with_groups else ()
        rungs = sorted([(n, False) for n in ladder] + [(n, True) for n in coarse], reverse=True)
        self._allocate(ladder[-1])
        for rows, grouped in rungs:
            graph = self._tried_rung(rows, grouped, capture)
            if isinstance(graph, str):
                self._graphs.clear()
                logger.warning("decode steps run eagerly: %s", graph)
                return
            self._graphs[rows, grouped] = graph
            now = time.perf_counter()
            if now - shown > PROGRESS_EVERY_S:
                shown = now
                logger.info("captured %d of %d decode graphs", len(self._graphs), len(rungs))
        self._ladder, self._grouped_ladder = ladder, coarse
        parts.runtime.synchronize()
        seconds = time.perf_counter() - began
        sizes = (len(rungs), ladder[-1], seconds)
        logger.info("captured %d decode graphs, 1 to %d rows, in %.1f s", *sizes)

    def _warm_prompts(self) -> None:
        """Eager steps of several sizes, so that every kernel that they need is built."""
        parts = self._parts
        limit = self._prompt_limit()
        for size in sorted({n for n in PROMPT_SIZES if n < limit} | {limit}):
            decode_rows = (1,) * min(3, parts.num_slots) if size > 1 else ()
            self._run_idle((*decode_rows, size), Bucket())
        # The row counts that products are timed for: full chunks alone, and with every decode row.
        for size in sorted({n for n in FULL_SIZES if n < limit} | {limit}):
            self._run_idle((size,), Bucket())
        self._run_idle((*(1,) * parts.num_slots, limit), Bucket())
        if limit > PROMPT_SIZES[1]:  # a prompt's second chunk
            self._run_idle((1, PROMPT_SIZES[1]), Bucket(), before=1, grouped=self._with_groups)
        parts.runtime.synchronize()

    def _prompt_limit(self) -> int:
        """Tokens of the longest row that warm-up runs."""
        context = self._parts.max_pages * self._parts.kv.page_size
        return max(1, min(self._parts.max_tokens or PROMPT_SIZES[-1], context))

    def _run_idle(
        self,
        counts: tuple[int, ...],
        bucket: Bucket,
        features: frozenset[Feature] = frozenset(),
        **how: Any,
    ) -> None:
        batch = idle_batch(counts, self._scratch_slot, len(self._tables), bucket, **how)
        batch.features = features - {Feature.PENALTIES}  # whose tables exist once one is admitted
        forward = super().forward(batch)
        mask = None
        if Feature.MASK in features:
            words = -(-forward.logits.shape[1] // 32)
            mask = np.full((len(forward.logits), words), -1, np.int32)
        super().sample(forward, batch, mask).wait()

    def _warm_features(self, features: Iterable[frozenset[Feature]]) -> None:
        for wanted in features:
            self._run_idle((1,), Bucket(), wanted)

    # Capturing

    def _allocate(self, max_rows: int) -> None:
        """The packed buffer that all graphs read, and the arrays that it is filled from."""
        parts = self._parts
        device = parts.runtime.device
        size = DecodeLayout(max_rows, len(self._tables)).num_bytes
        self._buffer = torch.zeros(size, dtype=torch.uint8, device=device)
        self._ring = StagingRing(parts.runtime, size, parts.depth + 1)
        self._row_ids = torch.arange(max_rows, dtype=torch.int64, device=device)
        self._ends = torch.arange(max_rows + 1, dtype=torch.int32, device=device)

    def _tried_rung(self, rows: int, grouped: bool, capture: Capture) -> _DecodeGraph | str:
        """A rung, or why there can be none."""
        try:
            with self._parts.runtime.stream():
                return self._capture_rung(rows, grouped, capture)
        except RuntimeError as error:
            if not self._tries:
                raise
            return next(iter(str(error).strip().splitlines()), type(error).__name__)

    def _capture_rung(self, rows: int, grouped: bool, capture: Capture) -> _DecodeGraph | str:
        """Plan, run once eagerly, and capture."""
        attention = self._parts.attention
        layout = DecodeLayout(rows, len(self._tables))
        fields = layout.device_fields(self._buffer)
        sizes = (self._scratch_slot, len(self._tables), Bucket(rows, rows))
        batch = idle_batch([1] * rows, *sizes, grouped=grouped)
        inputs = StepInputs(
            host=batch,
            input_ids=fields["input_ids"],
            positions=fields["positions"],
            cu_seqlens_q=self._ends[: rows + 1],
            seq_lens=fields["seq_lens"],
            slots=fields["slots"],
            token_rows=self._row_ids[:rows],
            slot_mapping=tuple(fields[f"slot_mapping_{g}"] for g in range(len(self._tables))),
            page_tables=self._tables,
        )
        self._send(layout, batch)
        plan = attention.plan(inputs)
        self._decode(inputs, plan)  # what is built or chosen at first use is, before capturing
        if attention.plan(inputs, plan) is not plan:
            return "the attention cannot refill its plans"
        graph, (hidden, logits, token_ids) = capture(lambda: self._decode(inputs, plan))
        if self._tries and not self._replays(graph, hidden, lambda: self._decode(inputs, plan)):
            return "captured, they gave something else"
        self.num_captures += 1
        return _DecodeGraph(layout, fields, inputs, plan, graph, hidden, logits, token_ids)

    def _replays(
        self, graph: Graph, hidden: Tensor, step: Callable[[], tuple[Tensor, ...]]
    ) -> bool:
        """Whether a graph fills ``hidden`` with what its step gives; slots keep their tokens."""
        before = self._last_tokens.clone()
        hidden.fill_(float("nan"))
        graph.replay()
        self._last_tokens.copy_(before)
        same = agree(hidden, step()[0])
        self._last_tokens.copy_(before)
        return same

    def _decode(self, inputs: StepInputs, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        """What a graph holds: hidden states, logits and greedy tokens of one token a row."""
        parts = self._parts
        given = inputs.input_ids
        ids = torch.where(given == LAST_TOKEN, self._last_tokens[inputs.slots], given)
        step = replace(inputs, input_ids=ids)
        hidden = parts.model.forward(step, parts.attention, parts.kv, plan)
        logits = parts.model.logits(hidden)
        token_ids = self._argmax(logits)
        self._last_tokens.index_copy_(0, inputs.slots, token_ids)
        return hidden, logits, token_ids

    # Steps

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        if num_tokens != num_rows or not self._graphs:
            return Bucket()
        rows = at_least(self._ladder, num_rows)
        return Bucket() if rows is None else Bucket(rows, rows)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> Forward:
        rung = self._rung(batch) if is_decode(batch) else None
        if rung is None or not rung.layout.fits_deltas(batch.page_deltas):
            self.num_eager += 1
            return super().forward(batch)
        self.num_replays += 1
        parts, n = self._parts, batch.num_rows
        with parts.runtime.stream():
            for admission in batch.admissions:
                parts.sampler.admit(admission)
            counts = self._send(rung.layout, batch)
            for group, (table, count) in enumerate(zip(self._tables, counts, strict=True)):
                if count:
                    where = rung.fields[f"delta_where_{group}"][:count]
                    pages = rung.fields[f"delta_pages_{group}"][:count]
                    table.view(-1).index_copy_(0, where, pages)
            rows = rung.layout.rows
            same = batch.bucket.rows == rows
            rung.inputs.host = batch if same else replace(batch, bucket=Bucket(rows, rows))
            parts.attention.plan(rung.inputs, rung.plan)
            rung.graph.replay()
        return GraphForward(
            inputs=rung.inputs,
            hidden=rung.hidden[:n],
            logits=rung.logits[:n],
            sample_slots=rung.inputs.slots[:n],
            sample_positions=rung.fields["sample_positions"][:n],
            token_ids=rung.token_ids[:n],
        )

    def _rung(self, batch: Batch) -> _DecodeGraph | None:
        """The graph of a decode step: one for groups if there are any."""
        if batch.prefix_groups is not None:
            rows = at_least(self._grouped_ladder, batch.num_rows)
            if rows is not None:
                return self._graphs.get((rows, True))
        return self._graphs.get((batch.bucket.rows, False))

    @torch.inference_mode()
    def sample(
        self, forward: Forward, batch: Batch, mask: npt.NDArray[Any] | None = None
    ) -> Ticket[StepResult]:
        if not isinstance(forward, GraphForward) or batch.features or mask is not None:
            return super().sample(forward, batch, mask)
        runtime = self._parts.runtime
        with runtime.stream():
            arrived = runtime.to_host([forward.token_ids])
        return Mapped(arrived, _greedy_result)

    def _send(self, layout: DecodeLayout, batch: Batch) -> list[int]:
        """Copy a step's inputs into the packed buffer; returns the page changes of each group."""
        entry = self._ring.take()
        max_pages = self._parts.max_pages
        counts = layout.pack(batch, entry.array, self._scratch_slot, max_pages)
        size = layout.num_bytes
        self._buffer[:size].copy_(entry.tensor[:size], non_blocking=True)
        entry.sent()
        return counts


def _greedy_result(arrays: list[npt.NDArray[Any]]) -> StepResult:
    return StepResult(token_ids=arrays[0].astype("int32"))
