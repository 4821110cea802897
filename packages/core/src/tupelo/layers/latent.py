"""Latent attention (MLA): K/V of all heads come from one short vector a token, the only one stored.

Source: DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Latent, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.checkpoint import LatentConfig
from tupelo.layers.attention import AttentionKind
from tupelo.layers.linear import Linear, bind_linear
from tupelo.layers.norm import RMSNorm, bind_add_norm, norm_statics
from tupelo.layers.parallel import Parallel
from tupelo.layers.parameter import Parameter
from tupelo.ops import OpCall, OpTable


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentParts:
    """Weights of a latent attention block.

    Attributes:
        norm: before the block.
        down: the products that read the stream, stacked: of queries (compressed, or whole heads
            where ``q_norm`` is None), then of the latent and the shared rotated key.
        q_norm, q_up: from compressed queries to heads; None where queries are not compressed.
        kv_norm: of the latent.
        up: (num_heads * (nope_dim + value_dim), kv_rank): keys and values of each head.
        out: the output projection.
    """

    norm: RMSNorm
    down: Linear
    q_norm: RMSNorm | None
    q_up: Linear | None
    kv_norm: RMSNorm
    up: Linear
    out: Linear


class LatentAttention:
    """From the residual stream to this rank's partial sums of the output projection.

    Args:
        layer: the model layer, for the pool. kind: one stored head, this rank's query heads.
        sum_input: the block's input is partial sums of several ranks, to be added up first.
    """

    def __init__(
        self,
        layer: int,
        kind: AttentionKind,
        config: LatentConfig,
        parallel: Parallel,
        parts: LatentParts,
        *,
        sum_input: bool,
    ) -> None:
        self._layer = layer
        self._kind = kind
        self._config = config
        self._parallel = parallel
        self._parts = parts
        self._sum_input = sum_input

    def parameters(self) -> Iterator[Parameter]:
        """In the order of the computation."""
        p = self._parts
        for part in (p.norm, p.down, p.q_norm, p.q_up, p.kv_norm, p.up, p.out):
            if part is not None:
                yield from part.parameters()

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose kernels, pack weights, and drop plain ones that nothing needs."""
        parts, config, spec = self._parts, self._config, self._kind.spec
        self._enter = self._bind_enter(table, dtype)
        self._norm_kv = parts.kv_norm.bind(table, dtype)
        self._queries = self._bind_queries(table, dtype)
        self._project = bind_linear(table, dtype, parts.out)
        device = parts.up.device
        up = parts.up.weight().weight.view(spec.num_heads, -1, config.kv_rank)
        self._weights = Latent(up[:, : config.nope_dim], up[:, config.nope_dim :])
        cos_sin = self._kind.rotary.cos_sin(device)
        self._rotate = tuple(
            partial(_turn, table.bind(_rope_call(dtype, heads, config.rope_dim)), cos_sin)
            for heads in (spec.num_heads, 1)
        )

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: AttentionBackend,
        kv: KVPool,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        """As ``Attention.forward``."""
        config, spec = self._config, self._kind.spec
        down, residual = self._enter(x, residual)
        widths = (down.shape[1] - config.kv_rank - config.rope_dim, config.kv_rank, config.rope_dim)
        compressed, latent, k_rope = torch.split(down, list(widths), dim=-1)
        heads = self._queries(compressed).view(len(x), spec.num_heads, -1)
        q_nope, q_rope = torch.split(heads, [config.nope_dim, config.rope_dim], dim=-1)
        turn_heads, turn_one = self._rotate
        seen = attention.forward_mla(
            q_nope,
            turn_heads(q_rope, positions),
            self._norm_kv(latent),
            turn_one(k_rope.unsqueeze(1), positions).squeeze(1),
            self._weights,
            self._kind.index,
            self._layer,
            kv,
            plan,
        )
        return self._project(seen.flatten(1)), residual

    def _bind_enter(
        self, table: OpTable, dtype: str
    ) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
        """``(x, residual) -> (down products, residual)``."""
        norm, down = self._parts.norm, self._parts.down
        if self._sum_input:
            join = bind_add_norm(table, dtype, norm, self._parallel)
            product = bind_linear(table, dtype, down)

            def enter(x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
                assert residual is not None
                normed, total = join(x, residual)
                return product(normed), total

            return enter
        call = OpCall(
            op="add_norm_linear", dtype=dtype, shape=down.shape, statics=norm_statics(norm)
        )
        fused = table.bind(call, weights={"weight": down.weight()})
        down.release()
        weight, eps = norm.weight, norm.eps
        return lambda x, residual: fused(x, residual, weight, eps)

    def _bind_queries(self, table: OpTable, dtype: str) -> Callable[[Tensor], Tensor]:
        parts = self._parts
        if parts.q_norm is None or parts.q_up is None:
            return lambda heads: heads
        norm, up = parts.q_norm.bind(table, dtype), bind_linear(table, dtype, parts.q_up)
        return lambda compressed: up(norm(compressed))


def _rope_call(dtype: str, heads: int, dim: int) -> OpCall:
    return OpCall(op="rope", dtype=dtype, shape=(heads, dim, dim))


def _turn(
    fn: Callable[[Tensor, Tensor, Tensor], Tensor], cos_sin: Tensor, x: Tensor, positions: Tensor
) -> Tensor:
    return fn(x, positions, cos_sin)
