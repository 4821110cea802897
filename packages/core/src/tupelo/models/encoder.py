"""The generic encoder: embeddings, layers that look both ways, heads; as a ``ModelConfig`` says.

It stores no K/V and generates nothing. A family is a file in ``checkpoint/families``.
"""

from collections.abc import Iterator

from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.step import StepInputs
from tupelo.checkpoint import EncoderLayout, ModelConfig
from tupelo.layers import Embedding, LayerNorm, Linear, Parameter, Part, PoolHead, RotaryTable
from tupelo.layers.encoder import (
    EncoderParts,
    PostNormLayer,
    PreNormLayer,
    encoder_activation,
)
from tupelo.models.model import BuildOptions, Model
from tupelo.ops import OpCall, OpTable
from tupelo.specs import NO_GROUP, AttentionSpec


class Encoder(Model):
    """An encoder as its ``ModelConfig`` describes it.

    Raises:
        ConfigError: the model cannot be split over that many ranks.
        UnsupportedModel: an activation that no op computes.
    """

    attention_specs = ()
    kv_specs = ()

    def __init__(self, config: ModelConfig, options: BuildOptions) -> None:
        assert config.encoder is not None
        assert config.pooling is not None
        self.config = config
        self.options = options
        self._layout = layout = config.encoder
        length = options.max_length or config.max_position_embeddings
        rotated = not layout.positions
        self._rotary = (
            {rope: RotaryTable(rope, length) for rope in config.ropes.values()} if rotated else {}
        )
        size = config.hidden_size
        self._words = Embedding(layout.words, config.vocab_size, size)
        rows = config.max_position_embeddings + layout.first_position
        self._positions = None if rotated else Embedding(layout.positions, rows, size)
        self._segments = (
            Embedding(layout.segments, layout.num_segments, size) if layout.segments else None
        )
        self._embedding_norm = self._norm(layout.embedding_norm)
        self._layers = [self._layer(layer, layout) for layer in range(config.num_layers)]
        self._final_norm = self._norm(layout.final_norm) if layout.final_norm else None
        self._heads = {
            name: PoolHead(head.layers, config.rms_norm_eps)
            for name, head in config.pooling.heads.items()
        }

    def parameters(self) -> Iterator[Parameter]:
        parts = (
            *(self._words, self._positions, self._segments, self._embedding_norm),
            *self._layers,
            self._final_norm,
            *self._heads.values(),
        )
        for part in parts:
            if part is not None:
                yield from part.parameters()

    def table_bytes(self) -> int:
        return sum(table.num_bytes() for table in self._rotary.values())

    def shared_head(self) -> OpCall | None:
        return None

    def bind(self, table: OpTable) -> None:
        dtype = self.options.dtype
        for embedding in (self._words, self._positions, self._segments):
            if embedding is not None:
                embedding.bind(table, dtype)
        self._enter = self._embedding_norm.bind(table, dtype)
        for layer in self._layers:
            layer.bind(table, dtype)
        self._leave = None if self._final_norm is None else self._final_norm.bind(table, dtype)
        for head in self._heads.values():
            head.bind(table, dtype)

    def forward(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        x = self._words.forward(inputs.input_ids)
        if self._positions is not None:
            x = x + self._positions.forward(inputs.positions + self._layout.first_position)
        if self._segments is not None:
            types = inputs.token_types
            x = x + self._segments.forward(
                inputs.positions.new_zeros(len(x)) if types is None else types
            )
        x = self._enter(x)
        for layer in self._layers:
            x = layer.forward(x, inputs, attention, plan)
        return x if self._leave is None else self._leave(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Zeros: nothing is ever sampled, and a step without samples asks for no row."""
        return hidden.new_zeros((len(hidden), self.config.vocab_size))

    def pool(self, features: Tensor, head: str) -> Tensor:
        return self._heads[head].forward(features)

    def _norm(self, name: str) -> LayerNorm:
        config = self.config
        return LayerNorm(name, config.hidden_size, config.rms_norm_eps, bias=self._layout.norm_bias)

    def _layer(self, layer: int, layout: EncoderLayout) -> PostNormLayer | PreNormLayer:
        config, parallel = self.config, self.options.parallel
        name = f"{layout.layers}.{layer}"
        hidden, head_dim = config.hidden_size, config.head_dim
        heads = parallel.share(config.num_heads, "attention heads")
        columns = slice(heads.start * head_dim, heads.stop * head_dim)
        unnormed = layout.norms_first and layer == 0
        parts = EncoderParts(
            spec=AttentionSpec(
                group=NO_GROUP,
                num_heads=heads.stop - heads.start,
                num_kv_heads=heads.stop - heads.start,
                head_dim=head_dim,
                scale=config.attention_scale,
                window=config.windows[layer],
                causal=False,
            ),
            rotary=self._rotary.get(config.rope(layer)),
            qkv=Linear.column(
                _qkv_parts([f"{name}.{part}" for part in layout.qkv], hidden, columns),
                hidden,
                bias=config.attention_bias,
            ),
            out=Linear.row(
                f"{name}.{layout.out}",
                hidden,
                hidden,
                columns,
                parallel,
                bias=config.attention_output_bias,
            ),
            attention_norm=None if unnormed else self._norm(f"{name}.{layout.attention_norm}"),
            up=self._up(f"{name}.{layout.up}"),
            down=Linear.row(
                f"{name}.{layout.down}",
                hidden,
                config.intermediate_size,
                parallel.share(config.intermediate_size, "rows of the MLP"),
                parallel,
                bias=config.mlp_bias,
            ),
            mlp_norm=self._norm(f"{name}.{layout.mlp_norm}"),
            activation=encoder_activation(config.hidden_act, gated=layout.gated),
        )
        kind = PreNormLayer if layout.norms_first else PostNormLayer
        return kind(parts, parallel)

    def _up(self, name: str) -> Linear:
        """The product before the activation, or two in one tensor where it is gated."""
        config = self.config
        size = config.intermediate_size
        rows = self.options.parallel.share(size, "rows of the MLP")
        total = 2 * size if self._layout.gated else size
        parts = [Part(name, total, rows)]
        if self._layout.gated:
            parts.append(Part(name, total, slice(rows.start + size, rows.stop + size)))
        return Linear.column(parts, config.hidden_size, bias=config.mlp_bias)


def _qkv_parts(names: list[str], hidden: int, columns: slice) -> list[Part]:
    """q, k and v of this rank, from tensors of their own or from one that holds all three."""
    if len(names) == 3:
        return [Part(name, hidden, columns) for name in names]
    starts = (0, hidden, 2 * hidden)
    return [Part(names[0], 3 * hidden, slice(columns.start + s, columns.stop + s)) for s in starts]
