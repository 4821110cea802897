"""Prompt steps as graphs, cut where attention runs.

Launching a step's kernels one call after another takes the host longer than the device needs for a
few hundred tokens. All but attention depends on the number of tokens alone, so it is captured at a
ladder of numbers; attention, whose work depends on every row's length, runs in between::

    piece 0 | attention of layer 0 | piece 1 | attention of layer 1 | ... | piece n

Where attention can be cut as well (``cut``), only the prompts' part of it runs in between. A piece
computes padding tokens too; attention sees the step's own tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tupelo.backend import AttentionBackend, HeadSplit, KVPool, Plan, RunnerParts, StepInputs
from tupelo.backend.graphs.buckets import idle_batch
from tupelo.backend.graphs.capture import Capture, Graph
from tupelo.backend.graphs.cut import Begun, CutAttention
from tupelo.batch import NO_SLOT_MAPPING, Batch, Bucket

FINE, COARSE, FINE_END = 64, 128, 1024
MOST = 2048
"""Steps of more tokens keep the device busy for longer than launching them takes."""

CLOSE = 5e-2
"""Of pieces from eager steps, relative to the largest element: padding may choose other products,
which round otherwise; anything beyond is wrong."""


def token_ladder(most: int) -> tuple[int, ...]:
    """Numbers of tokens to capture; the last is at least ``most``, but never above ``MOST``."""
    sizes = [FINE]
    while sizes[-1] < min(most, MOST):
        sizes.append(sizes[-1] + (FINE if sizes[-1] < FINE_END else COARSE))
    return tuple(sizes)


class CannotCutError(Exception):
    """The model's attention is reached in a way that cannot be cut around."""


LONGEST_DECODED = 4096
"""K/V tokens of a decode row that the captured part of attention takes: it has few programs a row,
whatever the step's rows are."""


class StepMemory:
    """What all pieces of a runner read, a step's inputs copied into it.

    Args:
        num_tokens: of the largest step. num_rows: decode rows that a step can have.
        inputs: of any step, for the page tables and their number.

    Attributes:
        ids, positions: (num_tokens,) int64. outs: where attention that is not cut puts its results,
            by the shape of a token's: each layer's is read before the next one's is written, and no
            two steps run at once.
    """

    def __init__(self, num_tokens: int, num_rows: int, inputs: StepInputs) -> None:
        device, groups = inputs.positions.device, len(inputs.slot_mapping)
        self.ids, self.positions = torch.zeros((2, num_tokens), dtype=torch.int64, device=device)
        self._slot_mapping = torch.full(
            (groups, num_tokens), NO_SLOT_MAPPING, dtype=torch.int64, device=device
        )
        self._slots = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self._lens = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self._ends = torch.arange(num_rows + 1, dtype=torch.int32, device=device)
        self._rows = torch.arange(num_rows, dtype=torch.int64, device=device)
        self._tables = inputs.page_tables
        self.outs: dict[tuple[int, ...], Tensor] = {}

    def fill(self, inputs: StepInputs, padded: int) -> None:
        """Copy a step's inputs, padded to so many tokens that store nothing."""
        count, rows = len(inputs.input_ids), inputs.host.num_decode_rows
        self.ids[:count].copy_(inputs.input_ids)
        self.positions[:count].copy_(inputs.positions)
        for ours, theirs in zip(self._slot_mapping, inputs.slot_mapping, strict=True):
            ours[:count].copy_(theirs)
        self._slot_mapping[:, count:padded].fill_(NO_SLOT_MAPPING)
        self._slots[:rows].copy_(inputs.slots[:rows])
        self._lens[:rows].copy_(inputs.seq_lens[:rows])
        self._lens[rows:].fill_(0)

    def decode_inputs(self, num_tokens: int) -> StepInputs:
        """A step of the decode rows that one of ``num_tokens`` can have, of the memory's own."""
        rows = min(num_tokens, len(self._slots))
        return StepInputs(
            host=idle_batch([1] * rows, 0, len(self._tables), Bucket(rows, rows)),
            input_ids=self.ids[:rows],
            positions=self.positions[:rows],
            cu_seqlens_q=self._ends[: rows + 1],
            seq_lens=self._lens[:rows],
            slots=self._slots[:rows],
            token_rows=self._rows[:rows],
            slot_mapping=tuple(mapping[:num_tokens] for mapping in self._slot_mapping),
            page_tables=self._tables,
        )


@dataclass(frozen=True, slots=True)
class _Cut:
    """Attention between two pieces: what it reads, and where its result goes; or, ``begun``, what
    is left of it."""

    split: HeadSplit
    spec: int
    layer: int
    qkv: Tensor
    out: Tensor
    begun: Begun | None = None


@dataclass(slots=True)
class Pieces:
    """A step of ``num_tokens`` tokens.

    Attributes:
        memory: read by the pieces. decode_plan: of its decode rows; None where attention cannot be
            cut. hidden: (num_tokens, hidden_size), filled by the last.
        graphs: one more than ``cuts``. begins: whether they hold a part of attention.
    """

    num_tokens: int
    memory: StepMemory
    decode_plan: Plan
    hidden: Tensor = field(init=False)
    graphs: list[Graph] = field(default_factory=list)
    cuts: list[_Cut] = field(default_factory=list)
    begins: bool = False

    def suits(self, batch: Batch) -> bool:
        """Whether a step can run in these pieces: what is captured of attention reads every row by
        itself, and has no more programs for long ones."""
        if not self.begins:
            return True
        longest = batch.seq_lens[: batch.num_decode_rows].max(initial=0)
        return batch.prefix_groups is None and bool(longest <= LONGEST_DECODED)

    def run(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        """Hidden states of a step of up to ``num_tokens`` tokens, valid until the next run."""
        count = len(inputs.input_ids)
        self.memory.fill(inputs, self.num_tokens)
        for graph, cut in zip(self.graphs, self.cuts, strict=False):
            graph.replay()
            if cut.begun is not None:
                assert isinstance(attention, CutAttention)
                attention.finish_qkv(cut.begun, cut.spec, cut.layer, kv, plan)
                continue
            seen = attention.forward_qkv(
                cut.qkv[:count], inputs.positions, cut.split, cut.spec, cut.layer, kv, plan
            )
            cut.out[:count].copy_(seen)
        self.graphs[-1].replay()
        return self.hidden[:count]


class _Cutter(AttentionBackend):
    """Stands in for attention while a model is captured: ends a piece, attends, begins the next."""

    def __init__(self, pieces: Pieces, capture: Capture, attention: AttentionBackend) -> None:
        self._pieces = pieces
        self._capture = capture
        self._attention = attention

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        raise CannotCutError

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        raise CannotCutError

    def forward_qkv(
        self,
        qkv: Tensor,
        positions: Tensor,
        split: HeadSplit,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
    ) -> Tensor:
        pieces, where = self._pieces, (split, spec, layer)
        begun = self._begin(qkv, split, spec, layer, kv)
        pieces.graphs.append(self._capture.end())
        kept = self._capture.keep(qkv)
        if begun is not None:
            out = begun.out
            left = Begun(*(self._capture.keep(tensor) for tensor in begun))
            pieces.cuts.append(_Cut(*where, kept, left.out, left))
            pieces.begins = True
        else:
            seen = self._attention.forward_qkv(qkv, positions, *where, kv, plan)
            shape, outs = tuple(seen.shape[1:]), pieces.memory.outs
            if shape not in outs:
                outs[shape] = torch.zeros_like(seen, memory_format=torch.contiguous_format)
            out = outs[shape][: len(seen)]
            pieces.cuts.append(_Cut(*where, kept, out))
        self._capture.begin()
        return out

    def _begin(
        self, qkv: Tensor, split: HeadSplit, spec: int, layer: int, kv: KVPool
    ) -> Begun | None:
        pieces, attention = self._pieces, self._attention
        if pieces.decode_plan is None or not isinstance(attention, CutAttention):
            return None
        positions = pieces.memory.positions[: pieces.num_tokens]
        return attention.begin_qkv(qkv, positions, split, spec, layer, kv, pieces.decode_plan)


def capture_pieces(
    capture: Capture, parts: RunnerParts, inputs: StepInputs, memory: StepMemory
) -> Pieces:
    """Capture a step of as many tokens as ``inputs`` has; the largest number of a runner first.

    Args:
        inputs: an idle step, which stores no K/V. memory: shared by all pieces of a runner.

    Raises:
        CannotCutError: the model attends otherwise than through ``forward_qkv``.
    """
    count, attention = len(inputs.input_ids), parts.attention
    memory.fill(inputs, count)
    decode_plan = None
    if isinstance(attention, CutAttention):
        decode_plan = attention.plan(memory.decode_inputs(count))
    pieces = Pieces(count, memory, decode_plan)
    cutter = _Cutter(pieces, capture, attention)
    plan = attention.plan(inputs)
    # What is built or chosen at first use is, before capturing.
    parts.model.forward(inputs, attention, parts.kv, plan)
    inputs.input_ids, inputs.positions = memory.ids[:count], memory.positions[:count]
    capture.begin()
    try:
        hidden = parts.model.forward(inputs, cutter, parts.kv, plan)
    except BaseException:
        capture.drop()
        raise
    pieces.graphs.append(capture.end())
    if not pieces.cuts:
        raise CannotCutError
    pieces.hidden = capture.keep(hidden)
    return pieces


def agree(got: Tensor, want: Tensor) -> bool:
    """Whether a step's hidden states are those of the same step, run eagerly."""
    largest = want.float().abs().max()
    return bool((got.float() - want.float()).abs().max() <= CLOSE * largest)


def rows_of(count: int, longest: int) -> Sequence[int]:
    """Rows of up to ``longest`` tokens that make ``count``."""
    return [*(longest,) * (count // longest), *((count % longest,) if count % longest else ())]
