"""Prompt steps as graphs, cut where attention runs.

Launching a step's kernels one call after another takes the host longer than the device needs for a
few hundred tokens. All but attention depends on the number of tokens alone, so it is captured at a
ladder of numbers; attention, whose work depends on every row's length, runs in between::

    piece 0 | attention of layer 0 | piece 1 | attention of layer 1 | ... | piece n

A piece computes padding tokens too; attention sees the step's own tokens only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tupelo.backend import AttentionBackend, HeadSplit, KVPool, Plan, RunnerParts, StepInputs
from tupelo.backend.graphs.capture import Capture, Graph

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


@dataclass(frozen=True, slots=True)
class _Cut:
    """Attention between two pieces: what it reads, and where its result goes."""

    qkv: Tensor
    out: Tensor
    split: HeadSplit
    spec: int
    layer: int


@dataclass(slots=True)
class Pieces:
    """A step of ``num_tokens`` tokens.

    Attributes:
        ids, positions: (num_tokens,) int64, read by the first piece. hidden: (num_tokens,
            hidden_size), filled by the last.
        graphs: one more than ``cuts``.
    """

    num_tokens: int
    ids: Tensor
    positions: Tensor
    hidden: Tensor = field(init=False)
    graphs: list[Graph] = field(default_factory=list)
    cuts: list[_Cut] = field(default_factory=list)

    def run(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        """Hidden states of a step of up to ``num_tokens`` tokens, valid until the next run."""
        count = len(inputs.input_ids)
        self.ids[:count].copy_(inputs.input_ids)
        self.positions[:count].copy_(inputs.positions)
        for graph, cut in zip(self.graphs, self.cuts, strict=False):
            graph.replay()
            seen = attention.forward_qkv(
                cut.qkv[:count], inputs.positions, cut.split, cut.spec, cut.layer, kv, plan
            )
            cut.out[:count].copy_(seen)
        self.graphs[-1].replay()
        return self.hidden[:count]


Outs = dict[tuple[int, ...], Tensor]
"""Where attention's results go, by the shape of a token's: each layer's is read before the next
one's is written, and no two steps run at once."""


class _Cutter(AttentionBackend):
    """Stands in for attention while a model is captured: ends a piece, attends, begins the next."""

    def __init__(self, pieces: Pieces, capture: Capture, parts: RunnerParts, outs: Outs) -> None:
        self._pieces = pieces
        self._capture = capture
        self._attention = parts.attention
        self._outs = outs

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
        pieces = self._pieces
        pieces.graphs.append(self._capture.end())
        seen = self._attention.forward_qkv(qkv, positions, split, spec, layer, kv, plan)
        shape = tuple(seen.shape[1:])
        if shape not in self._outs:
            self._outs[shape] = torch.zeros_like(seen, memory_format=torch.contiguous_format)
        out = self._outs[shape][: len(seen)]
        pieces.cuts.append(_Cut(self._capture.keep(qkv), out, split, spec, layer))
        self._capture.begin()
        return out


def capture_pieces(
    capture: Capture,
    parts: RunnerParts,
    inputs: StepInputs,
    ids: Tensor,
    positions: Tensor,
    outs: Outs,
) -> Pieces:
    """Capture a step of as many tokens as ``inputs`` has; the largest number of a runner first.

    Args:
        inputs: an idle step, which stores no K/V.
        ids, positions: (at least as many,) int64, and ``outs``: shared by all pieces of a runner.

    Raises:
        CannotCutError: the model attends otherwise than through ``forward_qkv``.
    """
    count = len(inputs.input_ids)
    pieces = Pieces(count, ids[:count], positions[:count])
    cutter = _Cutter(pieces, capture, parts, outs)
    plan = parts.attention.plan(inputs)
    # What is built or chosen at first use is, before capturing.
    parts.model.forward(inputs, parts.attention, parts.kv, plan)
    inputs.input_ids, inputs.positions = pieces.ids, pieces.positions
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
