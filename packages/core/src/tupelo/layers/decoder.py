"""Decoder layers: attention and MLP on a residual stream, with norms before, after, or around."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.layers.attention import Attention
from tupelo.layers.latent import LatentAttention
from tupelo.layers.mlp import MLP
from tupelo.layers.norm import Norm, bind_add_norm, bind_enter_norm, bind_sum_norm
from tupelo.layers.parallel import SINGLE, Parallel
from tupelo.layers.parameter import Parameter
from tupelo.ops import OpTable


@dataclass(frozen=True, kw_only=True, slots=True)
class Norms:
    """The norms of a layer after its input norm, which the attention block owns.

    Attributes:
        mlp: before the MLP; None where only outputs are normed, or where attention and MLP read
            the same.
        attention_out, mlp_out: on a block's output, before it joins the residual; both or neither.
        shared: before both, in layers that run attention and MLP side by side.
    """

    mlp: Norm | None
    attention_out: Norm | None = None
    mlp_out: Norm | None = None
    shared: Norm | None = None


class DecoderLayer:
    """``x += attention(norm(x)); x += mlp(norm(x))``.

    The addition of the MLP's output is left to whoever comes next, so that it fuses with that
    one's norm: a layer takes and returns ``(x, residual)``, whose sum is the stream.
    """

    leaves_partial_sums = True
    """On several ranks; what comes next must then add them up."""

    def __init__(
        self,
        attention: Attention | LatentAttention,
        mlp: MLP,
        norms: Norms,
        parallel: Parallel,
        *,
        residual_scale: float = 1.0,
    ) -> None:
        self._residual_scale = residual_scale
        self._attention = attention
        self._mlp = mlp
        self._norms = norms
        self._parallel = parallel

    def parameters(self) -> Iterator[Parameter]:
        """In the order of the computation."""
        yield from self._attention.parameters()
        norms = self._norms
        for norm in (norms.shared, norms.attention_out, norms.mlp, norms.mlp_out):
            if norm is not None:
                yield from norm.parameters()
        yield from self._mlp.parameters()

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose kernels and pack weights."""
        self._bind_blocks(table, dtype)
        assert self._norms.mlp is not None
        self._join = bind_add_norm(table, dtype, self._norms.mlp, self._parallel)

    def _bind_blocks(self, table: OpTable, dtype: str) -> None:
        self._attention.bind(table, dtype)
        self._mlp.bind(table, dtype)
        self._attend = self._attention.forward
        self._feed = self._mlp.forward

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: AttentionBackend,
        kv: KVPool,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        """One layer of one step; all (num_tokens, hidden_size)."""
        out, stream = self._attend(x, residual, positions, attention, kv, plan)
        normed, stream = self._join(out, stream)
        return self._feed(normed), stream


class ScaledLayer(DecoderLayer):
    """``x += s * attention(norm(x)); x += s * mlp(norm(x))``, ``s`` being ``residual_scale``."""

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: AttentionBackend,
        kv: KVPool,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        scale = self._residual_scale
        out, stream = self._attend(x, residual, positions, attention, kv, plan)
        normed, stream = self._join(out * scale, stream)
        return self._feed(normed) * scale, stream


class SandwichLayer(DecoderLayer):
    """``x += norm(attention(norm(x))); x += norm(mlp(norm(x)))``.

    A norm needs its whole input, so partial sums are added up within the layer, and what it returns
    is complete.
    """

    leaves_partial_sums = False

    def bind(self, table: OpTable, dtype: str) -> None:
        self._bind_blocks(table, dtype)
        attention_out, mlp_out = self._norms.attention_out, self._norms.mlp_out
        assert attention_out is not None
        assert mlp_out is not None
        self._attention_out = bind_sum_norm(table, dtype, attention_out, self._parallel)
        self._mlp_out = bind_sum_norm(table, dtype, mlp_out, self._parallel)
        if self._norms.mlp is not None:
            self._join = bind_add_norm(table, dtype, self._norms.mlp, SINGLE)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: AttentionBackend,
        kv: KVPool,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        out, stream = self._attend(x, residual, positions, attention, kv, plan)
        normed, stream = self._join(self._attention_out(out), stream)
        return self._mlp_out(self._feed(normed)), stream


class PostNormLayer(SandwichLayer):
    """``x += norm(attention(x)); x += norm(mlp(x))``."""

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: AttentionBackend,
        kv: KVPool,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        out, stream = self._attend(x, residual, positions, attention, kv, plan)
        stream = stream + self._attention_out(out)
        return self._mlp_out(self._feed(stream)), stream


class ParallelLayer(DecoderLayer):
    """``x += attention(norm(x)) + mlp(norm(x))``, with one norm for both."""

    def bind(self, table: OpTable, dtype: str) -> None:
        self._bind_blocks(table, dtype)
        assert self._norms.shared is not None
        self._enter = bind_enter_norm(table, dtype, self._norms.shared, self._parallel)

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        positions: Tensor,
        attention: AttentionBackend,
        kv: KVPool,
        plan: Plan,
    ) -> tuple[Tensor, Tensor]:
        normed, stream = self._enter(x, residual)
        out, _ = self._attend(normed, None, positions, attention, kv, plan)
        return out + self._feed(normed), stream
