"""The generic decoder: embedding, layers, norm, head, all as a ``ModelConfig`` says.

A family is a file in ``checkpoint/families``; it subclasses this only for what no configuration can
say.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.step import StepInputs
from tupelo.checkpoint import ExpertConfig, LatentConfig, ModelConfig
from tupelo.errors import ConfigError
from tupelo.layers import (
    MLP,
    SINGLE,
    Attention,
    AttentionKind,
    DecoderLayer,
    Embedding,
    ExpertNames,
    GatedMLP,
    Head,
    LatentAttention,
    LatentParts,
    LayerNorm,
    Linear,
    MoE,
    Norm,
    Norms,
    ParallelLayer,
    Parameter,
    Part,
    PlainMLP,
    PoolHead,
    PostNormLayer,
    RMSNorm,
    RotaryTable,
    SandwichLayer,
    ScaledLayer,
    Uncached,
    bind_add_norm,
    whole,
)
from tupelo.models.model import BuildOptions, Model
from tupelo.ops import OpCall, OpTable
from tupelo.specs import NO_GROUP, AttentionSpec, KVSpec


class _Part(Protocol):
    def parameters(self) -> Iterator[Parameter]: ...


class Decoder(Model):
    """A decoder as its ``ModelConfig`` describes it.

    Raises:
        ConfigError: the model cannot be split over that many ranks.
        UnsupportedModel: an activation that no op computes.
    """

    def __init__(self, config: ModelConfig, options: BuildOptions) -> None:
        self.config = config
        self.options = options
        self._names = config.layout
        self._layer_class = _layer_class(config)
        self._max_length = options.max_length or config.max_position_embeddings
        windows = [w if w and w < self._max_length else None for w in config.windows]
        self._groups = sorted(set(windows), key=lambda w: (w is not None, w or 0))
        self._windows = tuple(windows)
        self._rotary = {rope: RotaryTable(rope, self._max_length) for rope in config.ropes.values()}
        self.kv_specs = () if config.bidirectional else self._kv_specs()
        self._specs = [self._attention_spec(window) for window in windows]
        self._kinds = tuple(dict.fromkeys(self._specs))
        self.attention_specs = () if config.bidirectional else self._kinds
        self._embedding = Embedding(
            self._names.embedding, config.vocab_size, config.hidden_size, config.embedding_scale
        )
        self._positions = (
            Embedding(self._names.positions, config.learned_positions, config.hidden_size)
            if config.learned_positions
            else None
        )
        self._layers = [self._layer(layer) for layer in range(config.num_layers)]
        self._norm = self.norm(self._names.norm, config.hidden_size)
        self._head = None if config.pooling is not None else self._output_head()
        self._pool_heads = {
            name: PoolHead(head.layers, config.rms_norm_eps)
            for name, head in (config.pooling.heads if config.pooling is not None else {}).items()
        }

    def _output_head(self) -> Head:
        config = self.config
        return Head(
            self._names.head,
            self._embedding,
            self.options.parallel,
            tied=config.tie_word_embeddings,
            scale=config.logits_scale,
            soft_cap=config.final_soft_cap,
        )

    def norm(self, name: str, size: int) -> Norm:
        """A norm over hidden states, of this family's kind."""
        if self.config.layer_norm:
            return LayerNorm(name, size, self.config.rms_norm_eps, bias=self.config.norm_bias)
        return self._rms_norm(name, size)

    def _rms_norm(self, name: str, size: int) -> RMSNorm:
        return RMSNorm(name, size, self.config.rms_norm_eps, self.config.norm_offset)

    def mlp(self, layer: int, prefix: str) -> MLP:
        """The block after the attention of layer ``layer``, whose names begin with ``prefix``."""
        config, names = self.config, self._names
        if config.experts is not None and config.experts.layers[layer]:
            return self._moe(config.experts, prefix)
        if not config.gated_mlp:
            return self._plain(prefix)
        dense = (names.gate_up,) if names.gate_up else (names.gate, names.up)
        return self._gated(prefix, dense, names.down, config.intermediate_size)

    def _plain(self, prefix: str) -> PlainMLP:
        config, parallel, names = self.config, self.options.parallel, self._names
        size, bias, transposed = config.intermediate_size, config.mlp_bias, names.transposed
        rows = parallel.share(size, "rows of the MLP")
        up = Part(f"{prefix}.{names.up}", size, rows)
        hidden = config.hidden_size
        return PlainMLP(
            Linear.column([up], hidden, bias=bias, transposed=transposed),
            Linear.row(
                f"{prefix}.{names.down}",
                hidden,
                size,
                rows,
                parallel,
                bias=bias,
                transposed=transposed,
            ),
            config.hidden_act,
        )

    def _gated(self, prefix: str, inputs: tuple[str, ...], down: str, size: int) -> GatedMLP:
        """A gated MLP; ``inputs`` names gate and up, or the one tensor that holds both."""
        config, parallel = self.config, self.options.parallel
        rows = parallel.share(size, "rows of the MLP")
        if len(inputs) == 1:
            fused = f"{prefix}.{inputs[0]}"
            parts = [Part(fused, 2 * size, rows), Part(fused, 2 * size, _shifted(rows, size))]
        else:
            parts = [Part(f"{prefix}.{name}", size, rows) for name in inputs]
        return GatedMLP(
            parts,
            f"{prefix}.{down}",
            config.hidden_size,
            size,
            config.hidden_act,
            parallel,
            bias=config.mlp_bias,
        )

    def _moe(self, experts: ExpertConfig, prefix: str) -> MoE:
        config, names, count = self.config, self._names, experts.num_experts
        hidden = config.hidden_size
        shared, gate, correction = None, None, None
        if experts.shared_size:
            inputs = (f"{names.shared}.gate_proj", f"{names.shared}.up_proj")
            shared = self._gated(prefix, inputs, f"{names.shared}.down_proj", experts.shared_size)
        if experts.shared_gated:
            gate = Linear(whole(f"{prefix}.{names.shared_gate}.weight", (1, hidden)))
        if experts.correction:
            correction = whole(f"{prefix}.{names.correction}", (count,), dtype="float32")
        router = whole(
            f"{prefix}.{names.router}.weight",
            (count, hidden),
            dtype="float32" if experts.wide_router else None,
        )
        router.fused = (replace(router.sources[0], name=f"{prefix}.{names.stacked_router}.weight"),)
        return MoE(
            experts,
            ExpertNames(
                experts=f"{prefix}.{names.experts}",
                stacked=f"{prefix}.{names.stacked_experts}",
                parts=(names.expert_gate, names.expert_up, names.expert_down),
            ),
            hidden,
            config.hidden_act,
            self.options.parallel,
            router=Linear(router),
            correction=correction,
            shared=shared,
            shared_gate=gate,
        )

    def parameters(self) -> Iterator[Parameter]:
        first = (self._embedding, *([self._positions] if self._positions else []))
        heads = self._pool_heads.values() if self._head is None else (self._head,)
        parts: tuple[_Part, ...] = (*first, *self._layers, self._norm, *heads)
        for part in parts:
            yield from part.parameters()

    def table_bytes(self) -> int:
        return sum(table.num_bytes() for table in self._rotary.values())

    def shared_head(self) -> OpCall | None:
        head = self._head
        return head.call(self.options.dtype) if head is not None and head.shares_table else None

    def bind(self, table: OpTable) -> None:
        dtype, parallel = self.options.dtype, self.options.parallel
        self._embedding.bind(table, dtype)
        for layer in self._layers:
            layer.bind(table, dtype)
        for head in self._pool_heads.values() if self._head is None else (self._head,):
            head.bind(table, dtype)
        last = parallel if self._layer_class.leaves_partial_sums else SINGLE
        self._finish = bind_add_norm(table, dtype, self._norm, last)
        self._embed = self._embedding.forward
        if self._positions is not None:
            self._positions.bind(table, dtype)
        self._steps = [layer.forward for layer in self._layers]

    def forward(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        if self.config.bidirectional:
            attention = Uncached(attention, self._kinds, inputs)
        positions = inputs.positions
        x = self._embed(inputs.input_ids)
        if self._positions is not None:
            x = x + self._positions.forward(positions)
        residual: Tensor | None = None
        for step in self._steps:
            x, residual = step(x, residual, positions, attention, kv, plan)
        assert residual is not None
        hidden, _ = self._finish(x, residual)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        if self._head is None:  # nothing is ever sampled, and a step without samples has no row
            return hidden.new_zeros((len(hidden), self.config.vocab_size))
        return self._head.forward(hidden)

    def pool(self, features: Tensor, head: str) -> Tensor:
        return self._pool_heads[head].forward(features)

    def _kv_specs(self) -> tuple[KVSpec, ...]:
        config, options = self.config, self.options
        heads = options.parallel.kv_heads(config.num_kv_heads)
        return tuple(
            KVSpec(
                group=group,
                layers=tuple(i for i, w in enumerate(self._windows) if w == window),
                num_kv_heads=heads.stop - heads.start,
                head_dim=config.head_dim,
                dtype=options.kv_dtype or options.dtype,
                value_dim=None if config.latent is None else config.latent.kv_rank,
                window=window,
            )
            for group, window in enumerate(self._groups)
        )

    def _attention_spec(self, window: int | None) -> AttentionSpec:
        config, parallel = self.config, self.options.parallel
        heads = parallel.share(config.num_heads, "attention heads")
        kv_heads = parallel.kv_heads(config.num_kv_heads)
        return AttentionSpec(
            group=NO_GROUP if config.bidirectional else self._groups.index(window),
            num_heads=heads.stop - heads.start,
            num_kv_heads=kv_heads.stop - kv_heads.start,
            head_dim=config.head_dim,
            scale=config.attention_scale,
            value_dim=None if config.latent is None else config.latent.kv_rank,
            window=window,
            soft_cap=config.attention_soft_cap,
            causal=not config.bidirectional,
        )

    def _layer(self, layer: int) -> DecoderLayer:
        parallel, names = self.options.parallel, self._names
        prefix = f"{names.layers}.{layer}"
        parallel_blocks = self.config.parallel_blocks
        norms = Norms(
            shared=self._layer_norm(prefix, names.input_norm) if parallel_blocks else None,
            mlp=self._layer_norm(prefix, names.mlp_norm),
            attention_out=self._layer_norm(prefix, names.attention_out_norm),
            mlp_out=self._layer_norm(prefix, names.mlp_out_norm),
        )
        return self._layer_class(
            self._attention(layer, prefix),
            self.mlp(layer, prefix),
            norms,
            parallel,
            residual_scale=self.config.residual_scale,
        )

    def _layer_norm(self, prefix: str, name: str) -> Norm | None:
        return self.norm(f"{prefix}.{name}", self.config.hidden_size) if name else None

    def _attention(self, layer: int, prefix: str) -> Attention | LatentAttention:
        config, parallel, spec = self.config, self.options.parallel, self._specs[layer]
        if config.latent is not None:
            return self._latent_attention(config.latent, layer, prefix)
        head_dim = config.head_dim
        heads = _elements(parallel.share(config.num_heads, "attention heads"), head_dim)
        width = config.num_heads * head_dim
        q_norm, k_norm = self._head_norms(prefix)
        return Attention(
            layer,
            AttentionKind(self._kinds.index(spec), spec, self._rotary[config.rope(layer)]),
            parallel,
            norm=(
                None if config.parallel_blocks else self._layer_norm(prefix, self._names.input_norm)
            ),
            qkv=Linear.column(
                self._qkv_parts(layer, prefix),
                config.hidden_size,
                bias=config.attention_bias,
                transposed=self._names.transposed,
            ),
            out=Linear.row(
                f"{prefix}.{self._names.out}",
                config.hidden_size,
                width,
                heads,
                parallel,
                bias=config.attention_output_bias,
                transposed=self._names.transposed,
            ),
            q_norm=q_norm,
            k_norm=k_norm,
            sum_input=(
                layer > 0 and parallel.world_size > 1 and self._layer_class.leaves_partial_sums
            ),
            eps=config.rms_norm_eps,
        )

    def _latent_attention(self, latent: LatentConfig, layer: int, prefix: str) -> LatentAttention:
        config, parallel, spec = self.config, self.options.parallel, self._specs[layer]
        name, count, hidden = f"{prefix}.self_attn", config.num_heads, config.hidden_size
        mine = parallel.share(count, "attention heads")
        qk, kv = latent.nope_dim + latent.rope_dim, latent.nope_dim + latent.value_dim
        stored = latent.kv_rank + latent.rope_dim
        turned = config.rope_interleaved
        heads = Part(
            f"{name}.q_b_proj" if latent.q_rank else f"{name}.q_proj",
            count * qk,
            _elements(mine, qk),
            (qk, latent.nope_dim, latent.rope_dim) if turned else None,
        )
        first = Part(f"{name}.q_a_proj", latent.q_rank, slice(0, latent.q_rank))
        bias = config.attention_bias
        last = Part(
            f"{name}.kv_a_proj_with_mqa",
            stored,
            slice(0, stored),
            (stored, latent.kv_rank, latent.rope_dim) if turned else None,
        )
        up = Part(f"{name}.kv_b_proj", count * kv, _elements(mine, kv))
        norm = self._layer_norm(prefix, self._names.input_norm)
        assert isinstance(norm, RMSNorm)
        inner = partial(RMSNorm, eps=latent.inner_eps)
        compressed = bool(latent.q_rank)
        return LatentAttention(
            layer,
            AttentionKind(self.attention_specs.index(spec), spec, self._rotary[config.rope(layer)]),
            latent,
            parallel,
            LatentParts(
                norm=norm,
                down=Linear.column([first if compressed else heads, last], hidden, bias=bias),
                q_norm=inner(f"{name}.q_a_layernorm", latent.q_rank) if compressed else None,
                q_up=Linear.column([heads], latent.q_rank, bias=False) if compressed else None,
                kv_norm=inner(f"{name}.kv_a_layernorm", latent.kv_rank),
                up=Linear.column([up], latent.kv_rank, bias=False),
                out=Linear.row(
                    f"{name}.o_proj",
                    hidden,
                    count * latent.value_dim,
                    _elements(mine, latent.value_dim),
                    parallel,
                    bias=bias,
                ),
            ),
            sum_input=(
                layer > 0 and parallel.world_size > 1 and self._layer_class.leaves_partial_sums
            ),
        )

    def _qkv_parts(self, layer: int, prefix: str) -> list[Part]:
        """q, k and v of this rank, from tensors of their own or from one that holds all three."""
        config, parallel, names = self.config, self.options.parallel, self._names
        head_dim = config.head_dim
        heads = _elements(parallel.share(config.num_heads, "attention heads"), head_dim)
        kv_heads = _elements(parallel.kv_heads(config.num_kv_heads), head_dim)
        width, kv_width = config.num_heads * head_dim, config.num_kv_heads * head_dim
        paired = (head_dim, 0, config.rope(layer).rotary_dim) if config.rope_interleaved else None
        if names.qkv:
            fused, total = f"{prefix}.{names.qkv}", width + 2 * kv_width
            return [
                Part(fused, total, heads, paired),
                Part(fused, total, _shifted(kv_heads, width), paired),
                Part(fused, total, _shifted(kv_heads, width + kv_width)),
            ]
        return [
            Part(f"{prefix}.{names.q}", width, heads, paired),
            Part(f"{prefix}.{names.k}", kv_width, kv_heads, paired),
            Part(f"{prefix}.{names.v}", kv_width, kv_heads),
        ]

    def _head_norms(self, prefix: str) -> tuple[RMSNorm | None, RMSNorm | None]:
        config = self.config
        if not config.qk_norm:
            return None, None
        if config.qk_norm_width and self.options.parallel.world_size > 1:
            raise ConfigError(
                f"{config.architecture} norms q and k over all heads at once, which is not split "
                "over ranks; use one"
            )
        q_heads, k_heads = (
            (config.num_heads, config.num_kv_heads) if config.qk_norm_width else (1, 1)
        )
        return (
            self._rms_norm(f"{prefix}.{self._names.q_norm}", q_heads * config.head_dim),
            self._rms_norm(f"{prefix}.{self._names.k_norm}", k_heads * config.head_dim),
        )


def _layer_class(config: ModelConfig) -> type[DecoderLayer]:
    """The kind of layer that has the norms of this layout."""
    names = config.layout
    if config.parallel_blocks:
        return ParallelLayer
    if names.attention_out_norm:
        return SandwichLayer if names.mlp_norm else PostNormLayer
    return DecoderLayer if config.residual_scale == 1.0 else ScaledLayer


def _elements(heads: slice, head_dim: int) -> slice:
    return slice(heads.start * head_dim, heads.stop * head_dim)


def _shifted(rows: slice, by: int) -> slice:
    return slice(rows.start + by, rows.stop + by)
