"""The generic decoder: embedding, layers, norm, head, all as a ``ModelConfig`` says.

A family is a file in ``checkpoint/families``; it subclasses this only for what no configuration can
say.
"""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.step import StepInputs
from tupelo.checkpoint import ModelConfig
from tupelo.layers import (
    SINGLE,
    DecoderLayer,
    Embedding,
    Head,
    Norms,
    ParallelLayer,
    Parameter,
    PoolHead,
    PostNormLayer,
    RotaryTable,
    SandwichLayer,
    ScaledLayer,
    Uncached,
    bind_add_norm,
)
from tupelo.models.attention_blocks import AttentionBlocks
from tupelo.models.mlp_blocks import MLPBlocks
from tupelo.models.model import BuildOptions, Model
from tupelo.models.norms import layer_norm, make_norm
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
        self._mlps = MLPBlocks(config, options.parallel)
        self._attention = AttentionBlocks(
            config,
            options.parallel,
            self._specs,
            self._kinds,
            self._rotary,
            leaves_partial_sums=self._layer_class.leaves_partial_sums,
        )
        self._layers = [self._layer(layer) for layer in range(config.num_layers)]
        self._norm = make_norm(config, self._names.norm, config.hidden_size)
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
            chunked=config.chunked and window is not None,
            soft_cap=config.attention_soft_cap,
            sinks=config.sinks,
            causal=not config.bidirectional,
        )

    def _layer(self, layer: int) -> DecoderLayer:
        parallel, names = self.options.parallel, self._names
        prefix = f"{names.layers}.{layer}"
        parallel_blocks = self.config.parallel_blocks
        norms = Norms(
            shared=layer_norm(self.config, prefix, names.input_norm) if parallel_blocks else None,
            mlp=layer_norm(self.config, prefix, names.mlp_norm),
            attention_out=layer_norm(self.config, prefix, names.attention_out_norm),
            mlp_out=layer_norm(self.config, prefix, names.mlp_out_norm),
        )
        return self._layer_class(
            self._attention.block(layer, prefix),
            self._mlps.block(layer, prefix),
            norms,
            parallel,
            residual_scale=self.config.residual_scale,
        )


def _layer_class(config: ModelConfig) -> type[DecoderLayer]:
    """The kind of layer that has the norms of this layout."""
    names = config.layout
    if config.parallel_blocks:
        return ParallelLayer
    if names.attention_out_norm:
        return SandwichLayer if names.mlp_norm else PostNormLayer
    return DecoderLayer if config.residual_scale == 1.0 else ScaledLayer
