"""The attention block: norm, QKV product, per-head norms, rope, attention over pages, output.

Everything is bound once; a step calls two callables and the attention backend.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend, HeadSplit, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.step import StepInputs
from tupelo.checkpoint import QueryGrowth
from tupelo.layers.linear import Linear
from tupelo.layers.norm import (
    LayerNorm,
    Norm,
    RMSNorm,
    bind_add_norm,
    bind_enter_norm,
    bind_sum_norm,
    norm_statics,
)
from tupelo.layers.parallel import SINGLE, Parallel
from tupelo.layers.parameter import Parameter
from tupelo.layers.rotary import RotaryTable
from tupelo.ops import OpCall, OpTable
from tupelo.specs import AttentionSpec


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """What the layers of one kind share.

    Attributes:
        index: of ``spec`` among the model's distinct specs.
        spec: heads are this rank's.
        rotary: the table of cosines and sines.
    """

    index: int
    spec: AttentionSpec
    rotary: RotaryTable


class Uncached(AttentionBackend):
    """Stands for a step's attention where layers look both ways and keep no K/V.

    Args:
        kinds: the model's distinct specs. inputs: of the step.
    """

    def __init__(
        self, attention: AttentionBackend, kinds: Sequence[AttentionSpec], inputs: StepInputs
    ) -> None:
        self._attention = attention
        self._kinds = kinds
        self._inputs = inputs

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        return self._attention.plan(inputs, out)

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
        """Among this step's tokens alone."""
        return self._attention.forward_ragged(q, k, v, self._kinds[spec], self._inputs, plan)


class Attention:
    """From the residual stream to this rank's partial sums of the output projection.

    Args:
        layer: the model layer, for the pool.
        norm: the norm before the QKV product; None: there is none.
        qkv: q, k and v projections, stacked in this order.
        out: the output projection.
        q_norm, k_norm: norms of q and k, or None: per head, or, as wide as all heads together, over
            all of them at once.
        unit_norms: q and k are normed per head without weights.
        growth: of queries; None: they do not grow.
        sinks: (num_heads,) of this rank, or None.
        sum_input: the block's input is partial sums of several ranks, to be added up first.
    """

    def __init__(
        self,
        layer: int,
        kind: AttentionKind,
        parallel: Parallel,
        *,
        norm: Norm | None,
        qkv: Linear,
        out: Linear,
        q_norm: RMSNorm | None,
        k_norm: RMSNorm | None,
        sum_input: bool,
        eps: float,
        sinks: Parameter | None = None,
        unit_norms: bool = False,
        growth: QueryGrowth | None = None,
    ) -> None:
        self._layer = layer
        self._kind = kind
        self._parallel = parallel
        self._norm = norm
        self._qkv = qkv
        self._out = out
        self._q_norm = q_norm
        self._k_norm = k_norm
        self._sum_input = sum_input
        self._eps = eps
        self._sinks = sinks
        self._unit_norms = unit_norms
        self._growth = growth
        self._wide_norms = q_norm is not None and q_norm.size != kind.spec.head_dim

    def parameters(self) -> Iterator[Parameter]:
        """In the order of the computation."""
        for part in (self._norm, self._qkv, self._q_norm, self._k_norm, self._out):
            if part is not None:
                yield from part.parameters()
        if self._sinks is not None:
            yield self._sinks

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose kernels, pack weights, and drop plain ones that nothing needs."""
        self._enter = self._bind_enter(table, dtype)
        self._split = self._bind_split(table, dtype)
        call = OpCall(op="linear", dtype=dtype, shape=self._out.shape)
        self._project = table.bind(call, weights={"weight": self._out.weight()})
        self._qkv.release()
        self._out.release()

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: AttentionBackend,
        kv: KVPool,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        """Partial sums (num_tokens, hidden_size), and the new residual.

        Args:
            x: (num_tokens, hidden_size). residual: same shape; None: ``x`` is the whole stream.
            positions: (num_tokens,).
        """
        qkv, residual = self._enter(x, residual)
        if self._growth is not None:
            width = self._kind.spec.num_heads * self._kind.spec.head_dim
            qkv = _grown(qkv, width, positions, self._growth)
        index, layer = self._kind.index, self._layer
        seen = attention.forward_qkv(qkv, positions, self._split, index, layer, kv, plan)
        return self._project(seen.flatten(1)), residual

    def _bind_enter(self, table: OpTable, dtype: str) -> Callable[..., Any]:
        """``(x, residual) -> (qkv, residual)``."""
        enter = self._bind_product(table, dtype)
        if not self._wide_norms:
            return enter
        assert self._q_norm is not None
        assert self._k_norm is not None
        norm_q = bind_sum_norm(table, dtype, self._q_norm, SINGLE)
        norm_k = bind_sum_norm(table, dtype, self._k_norm, SINGLE)
        widths = [self._q_norm.size, self._k_norm.size, self._k_norm.size]

        def enter_normed(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
            qkv, residual = enter(x, residual)
            q, k, v = qkv.split(widths, dim=-1)
            return torch.cat((norm_q(q), norm_k(k), v), dim=-1), residual

        return enter_normed

    def _bind_product(self, table: OpTable, dtype: str) -> Callable[..., Any]:
        """As ``_bind_enter``, without norms over all heads."""
        weights = {"weight": self._qkv.weight()}
        if self._norm is None:
            call = OpCall(op="linear", dtype=dtype, shape=self._qkv.shape)
            plain = table.bind(call, weights=weights)

            def enter_plain(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
                stream = x if residual is None else x + residual
                return plain(stream), stream

            return enter_plain
        if isinstance(self._norm, LayerNorm):
            summed = self._parallel if self._sum_input else SINGLE
            ahead = bind_enter_norm(table, dtype, self._norm, summed)
            call = OpCall(op="linear", dtype=dtype, shape=self._qkv.shape)
            after = table.bind(call, weights=weights)

            def enter_layer_norm(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
                normed, stream = ahead(x, residual)
                return after(normed), stream

            return enter_layer_norm
        if self._sum_input:
            join = bind_add_norm(table, dtype, self._norm, self._parallel)
            call = OpCall(op="linear", dtype=dtype, shape=self._qkv.shape)
            product = table.bind(call, weights=weights)

            def enter(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
                normed, total = join(x, residual)
                return product(normed), total

            return enter
        call = OpCall(
            op="add_norm_linear",
            dtype=dtype,
            shape=self._qkv.shape,
            statics=norm_statics(self._norm),
        )
        fused = table.bind(call, weights=weights)
        norm, eps = self._norm.weight, self._norm.eps
        return lambda x, residual: fused(x, residual, norm, eps)

    def _bind_split(self, table: OpTable, dtype: str) -> HeadSplit:
        """``(qkv, positions) -> (q, k, v)``, normed and rotated."""
        spec, rope, device = self._kind.spec, self._kind.rotary.rope, self._qkv.device
        q_norm, k_norm = (None, None) if self._wide_norms else (self._q_norm, self._k_norm)
        norms = [n for n in (q_norm, k_norm) if n is not None]
        q_weight, k_weight = (None if n is None else n.weight for n in (q_norm, k_norm))
        if self._unit_norms:  # before the rope or after it: turning changes no length
            q_weight = k_weight = torch.ones(
                spec.head_dim, dtype=getattr(torch, dtype), device=device
            )
        call = OpCall(
            op="norm_rope_qkv",
            dtype=dtype,
            shape=(spec.num_heads, spec.num_kv_heads, spec.head_dim, rope.rotary_dim),
            statics=(("qk_norm", q_weight is not None), *norm_statics(*norms)),
        )
        return HeadSplit(
            fn=table.bind(call),
            cos_sin=self._kind.rotary.cos_sin(device),
            q_norm=q_weight,
            k_norm=k_weight,
            eps=self._eps,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            sinks=None if self._sinks is None else self._sinks.data,
        )


def _grown(qkv: Tensor, width: int, positions: Tensor, growth: QueryGrowth) -> Tensor:
    """``qkv`` with its first ``width`` columns, the queries, multiplied by their growth."""
    steps = torch.floor((positions.float() + 1.0) / growth.step)
    factors = torch.log1p(steps) * growth.scale + 1.0
    q = (qkv[:, :width] * factors.unsqueeze(1)).to(qkv.dtype)
    return torch.cat((q, qkv[:, width:]), dim=-1)
