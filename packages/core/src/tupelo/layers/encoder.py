"""The layers of encoders: attention in both directions and an MLP, normed after or before."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tupelo.backend.attention import AttentionBackend, HeadSplit, Plan
from tupelo.backend.step import StepInputs
from tupelo.errors import UnsupportedModel
from tupelo.layers.linear import Linear
from tupelo.layers.norm import LayerNorm
from tupelo.layers.parallel import Parallel
from tupelo.layers.parameter import Parameter
from tupelo.layers.rotary import RotaryTable
from tupelo.ops import OpCall, OpTable
from tupelo.specs import AttentionSpec

_ACTIVATIONS = {
    "gelu": "gelu_erf",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_GATED = {"gelu": "gelu_erf_mul"}


def encoder_activation(activation: str, *, gated: bool) -> str:
    """The name that ``mlp`` has for an activation that Hugging Face calls ``activation``.

    Raises:
        UnsupportedModel: no op computes it.
    """
    known = _GATED if gated else _ACTIVATIONS
    if activation not in known:
        raise UnsupportedModel(
            f"activation {activation!r} is not supported here; supported: {', '.join(known)}"
        )
    return known[activation]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderParts:
    """What one layer is made of.

    Attributes:
        spec: of its attention, heads of this rank. rotary: None where positions are learned.
        attention_norm: before attention or after; None in the first layer of some.
    """

    spec: AttentionSpec
    rotary: RotaryTable | None
    qkv: Linear
    out: Linear
    attention_norm: LayerNorm | None
    up: Linear
    down: Linear
    mlp_norm: LayerNorm
    activation: str


class EncoderLayer:
    """What both kinds of layer share: parameters, kernels, and the two blocks."""

    def __init__(self, parts: EncoderParts, parallel: Parallel) -> None:
        self._parts = parts
        self._parallel = parallel

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter of the layer."""
        p = self._parts
        for part in (p.attention_norm, p.qkv, p.out, p.mlp_norm, p.up, p.down):
            if part is not None:
                yield from part.parameters()

    def bind(self, table: OpTable, dtype: str) -> None:
        """Choose kernels, pack weights, and drop plain ones that nothing needs."""
        p, spec = self._parts, self._parts.spec
        self._qkv, self._out = (_bind_linear(table, dtype, part) for part in (p.qkv, p.out))
        self._split = self._bind_split(table, dtype)
        self._sizes = [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]
        shape = (p.up.in_features, p.down.in_features)
        statics = (("activation", p.activation),)
        call = OpCall(op="mlp", dtype=dtype, shape=shape, statics=statics)
        weights = {"up": p.up.weight(), "down": p.down.weight()}
        self._mlp = table.bind(call, weights=weights)
        p.up.release()
        p.down.release()

    def attend(
        self, x: Tensor, inputs: StepInputs, attention: AttentionBackend, plan: Plan
    ) -> Tensor:
        """The attention block: this rank's partial sums of (num_tokens, hidden_size)."""
        qkv = self._qkv(x)
        if self._split is not None:
            q, k, v = self._split(qkv, inputs.positions)
        else:
            heads = qkv.view(len(qkv), sum(self._sizes), self._parts.spec.head_dim)
            q, k, v = torch.split(heads, self._sizes, dim=1)
        seen = attention.forward_ragged(q, k, v, self._parts.spec, inputs, plan)
        return self._out(seen.flatten(1))

    def feed(self, x: Tensor) -> Tensor:
        """The MLP block: this rank's partial sums of (num_tokens, hidden_size)."""
        out: Tensor = self._mlp(x, self._parts.activation)
        return out

    def _bind_split(self, table: OpTable, dtype: str) -> HeadSplit | None:
        spec, rotary = self._parts.spec, self._parts.rotary
        if rotary is None:
            return None
        shape = (spec.num_heads, spec.num_kv_heads, spec.head_dim, rotary.rope.rotary_dim)
        call = OpCall(op="norm_rope_qkv", dtype=dtype, shape=shape, statics=(("qk_norm", False),))
        return HeadSplit(
            fn=table.bind(call),
            cos_sin=rotary.cos_sin(next(self._parts.mlp_norm.parameters()).data.device),
            q_norm=None,
            k_norm=None,
            eps=0.0,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
        )


class PostNormLayer(EncoderLayer):
    """``x = norm(x + attention(x)); x = norm(x + mlp(x))``."""

    def bind(self, table: OpTable, dtype: str) -> None:
        super().bind(table, dtype)
        assert self._parts.attention_norm is not None
        self._join = self._parts.attention_norm.bind_add(table, dtype, self._parallel)
        self._finish = self._parts.mlp_norm.bind_add(table, dtype, self._parallel)

    def forward(
        self, x: Tensor, inputs: StepInputs, attention: AttentionBackend, plan: Plan
    ) -> Tensor:
        """One layer of one step; (num_tokens, hidden_size)."""
        x, _ = self._join(self.attend(x, inputs, attention, plan), x)
        x, _ = self._finish(self.feed(x), x)
        return x


class PreNormLayer(EncoderLayer):
    """``x = x + attention(norm(x)); x = x + mlp(norm(x))``; without its first norm, ``x`` itself
    goes into attention."""

    def bind(self, table: OpTable, dtype: str) -> None:
        super().bind(table, dtype)
        norm = self._parts.attention_norm
        self._enter = None if norm is None else norm.bind(table, dtype)
        self._join = self._parts.mlp_norm.bind_add(table, dtype, self._parallel)

    def forward(
        self, x: Tensor, inputs: StepInputs, attention: AttentionBackend, plan: Plan
    ) -> Tensor:
        """One layer of one step; (num_tokens, hidden_size)."""
        entered = x if self._enter is None else self._enter(x)
        normed, x = self._join(self.attend(entered, inputs, attention, plan), x)
        fed = self.feed(normed)
        if self._parallel.world_size > 1:
            fed = self._parallel.collectives.all_reduce(fed)
        return x + fed


def _bind_linear(table: OpTable, dtype: str, part: Linear) -> Callable[[Tensor], Tensor]:
    call = OpCall(op="linear", dtype=dtype, shape=part.shape)
    fn = table.bind(call, weights={"weight": part.weight()})
    part.release()
    return fn
