"""Attention over XLA's K/V pool: Pallas where its kernel serves the layers, else XLA's own ops.

The latter are core's reference: it makes no choice on a value, so XLA compiles it as it is. Every
token reads the whole width of its row's page table: right everywhere, slow where tables are long.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tupelo.backend import KVPool, Plan, ReferenceAttention, Runtime, StepInputs
from tupelo.backend.trial import PADDED, Trial
from tupelo.specs import AttentionSpec
from tupelo_tpu.kv_pool import XlaKVPool
from tupelo_tpu.mosaic import attend, sinks_column
from tupelo_tpu.options import Options
from tupelo_tpu.pallas_shape import Shape, refusal, shape_for

logger = logging.getLogger(__name__)

PagedKernel = Callable[[Shape, Sequence[Tensor]], Tensor]


@dataclass(frozen=True, slots=True)
class _PagedPlan:
    """A step as the Pallas kernel takes it, with T tokens, R rows; and the reference's plan.

    Attributes:
        offsets: (R,) int32. pages: of each page group (R * max_pages,) int32.
    """

    reference: Plan
    cu_seqlens: Tensor
    offsets: Tensor
    pages: tuple[Tensor, ...]


class PallasAttention(ReferenceAttention):
    """The Pallas kernel for the layers and steps that it serves, XLA's ops for the others.

    Args:
        kernel: attention of ``(shape, arguments)``, see ``pallas_attention.attend``. The others are
            those of every attention.
    """

    def __init__(self, kernel: PagedKernel, *args: Any) -> None:
        super().__init__(*args)
        self._kernel = kernel
        sizes = (self._page_size, self._max_pages)
        self._refused = [bool(refusal(kind, *sizes)) for kind in self._specs]

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        starts = inputs.cu_seqlens_q[:-1].long()
        first = inputs.positions[starts.clamp(max=len(inputs.positions) - 1)]
        return _PagedPlan(
            super().plan(inputs),
            inputs.cu_seqlens_q,
            (first - starts).to(torch.int32),
            tuple(table[inputs.slots].clamp(min=0).flatten() for table in inputs.page_tables),
        )

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
        kind, rows = self._specs[spec], len(plan.offsets)
        shape = shape_for(kind, self._page_size, self._max_pages, len(q), rows)
        if self._refused[spec] or shape is None:
            return super().forward(q, k, v, spec, layer, kv, plan.reference, sinks)
        k_pool, v_pool = self.store(k, v, kind, layer, kv, plan.reference)
        starts = torch.arange(0, len(q), shape.block, device=q.device, dtype=torch.int32)
        ends = plan.cu_seqlens.unsqueeze(0)
        firsts = (ends[:, 1:] <= starts.unsqueeze(1)).sum(1).to(torch.int32)
        lasts = (ends[:, :-1] < starts.unsqueeze(1) + shape.block).sum(1).to(torch.int32)
        held = (shape.num_kv_heads, -1, shape.groups, shape.block, shape.head_dim)
        blocks = q.view(-1, shape.block, held[0], shape.groups, shape.head_dim)
        queries = blocks.permute(2, 0, 3, 1, 4).reshape(held[0], -1, shape.head_dim)
        column = sinks_column(sinks, shape, q.device)
        step = (firsts, lasts, plan.cu_seqlens, plan.offsets, plan.pages[kind.group])
        out = self._kernel(shape, (*step, queries, column, k_pool, v_pool))
        return out.view(held).permute(1, 3, 0, 2, 4).reshape(q.shape)


def make_attention(
    options: Options,
    kind: str,
    specs: Sequence[AttentionSpec],
    page_size: int,
    max_pages: int,
    runtime: Runtime,
    in_place: bool = False,
    kernel: PagedKernel = attend,
) -> ReferenceAttention:
    """The attention of a backend whose device is of this kind; the rest as for every attention.

    The Pallas kernel is tried first, on small inputs; where it differs from XLA's ops it is not
    used, and a warning says so.
    """
    args = (specs, page_size, max_pages, runtime, in_place)
    plain = ReferenceAttention(*args)
    if not wants_pallas(options, kind):
        return plain
    paged = PallasAttention(kernel, *args)
    trial = Trial(
        page_size=page_size,
        max_pages=max_pages,
        runtime=runtime,
        num_groups=1 + max((kind.group for kind in specs), default=0),
        dtype="bfloat16",
        kv_dtype="bfloat16",
        pool=XlaKVPool,
        steps=(PADDED,),
    )
    reason = trial.difference(paged, plain, dict(enumerate(specs)))
    if not reason:
        return paged
    logger.warning("the Pallas kernel of attention is disabled: %s", reason)
    return plain


def wants_pallas(options: Options, kind: str) -> bool:
    """Whether the Pallas kernel is to be used: on a TPU, unless the environment says otherwise."""
    automatic = options.attention == "auto" and options.route == "torch-xla" and kind != "cpu"
    return options.attention == "pallas" or automatic


def attention_note(options: Options, kind: str) -> str:
    """Which attention is used, for ``doctor``."""
    if wants_pallas(options, kind):
        return "attention: Pallas for heads of 128 or multiples of it, XLA's own ops for others"
    return "attention: XLA's own ops"
