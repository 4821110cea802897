"""The generic decoder: embedding, layers, norm, head; families subclass it for what differs."""

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.step import StepInputs
from tupelo.checkpoint import ModelConfig
from tupelo.layers import (
    SINGLE,
    Attention,
    AttentionKind,
    DecoderLayer,
    Embedding,
    GatedMLP,
    Head,
    Linear,
    Norms,
    Parameter,
    Part,
    RMSNorm,
    RotaryTable,
    bind_add_norm,
)
from tupelo.models.model import BuildOptions, Model
from tupelo.ops import OpCall, OpTable
from tupelo.specs import AttentionSpec, KVSpec


class _Part(Protocol):
    def parameters(self) -> Iterator[Parameter]: ...


class Decoder(Model):
    """A decoder as its ``ModelConfig`` describes it.

    A family overrides the class attributes, and ``norms`` where a layer has more or other norms.

    Raises:
        ConfigError: the model cannot be split over that many ranks.
        UnsupportedModel: an activation that no op computes.
    """

    layer_class: type[DecoderLayer] = DecoderLayer
    norm_offset: float = 0.0
    """What is to be added to the stored weights of norms."""

    def __init__(self, config: ModelConfig, options: BuildOptions) -> None:
        self.config = config
        self.options = options
        self._max_length = options.max_length or config.max_position_embeddings
        windows = [w if w and w < self._max_length else None for w in config.windows]
        self._groups = sorted(set(windows), key=lambda w: (w is not None, w or 0))
        self._windows = tuple(windows)
        self._rotary = {rope: RotaryTable(rope, self._max_length) for rope in config.ropes.values()}
        self.kv_specs = self._kv_specs()
        self._specs = [self._attention_spec(window) for window in windows]
        self.attention_specs = tuple(dict.fromkeys(self._specs))
        self._embedding = Embedding(
            "model.embed_tokens", config.vocab_size, config.hidden_size, config.embedding_scale
        )
        self._layers = [self._layer(layer) for layer in range(config.num_layers)]
        self._norm = self.norm("model.norm", config.hidden_size)
        self._head = Head(
            "lm_head",
            self._embedding,
            options.parallel,
            tied=config.tie_word_embeddings,
            soft_cap=config.final_soft_cap,
        )

    def norm(self, name: str, size: int) -> RMSNorm:
        """A norm with this family's epsilon and offset."""
        return RMSNorm(name, size, self.config.rms_norm_eps, self.norm_offset)

    def norms(self, prefix: str) -> Norms:
        """The norms of the layer whose names begin with ``prefix``, beyond its input norm."""
        return Norms(mlp=self.norm(f"{prefix}.post_attention_layernorm", self.config.hidden_size))

    def parameters(self) -> Iterator[Parameter]:
        parts: tuple[_Part, ...] = (self._embedding, *self._layers, self._norm, self._head)
        for part in parts:
            yield from part.parameters()

    def table_bytes(self) -> int:
        return sum(table.num_bytes() for table in self._rotary.values())

    def shared_head(self) -> OpCall | None:
        return self._head.call(self.options.dtype) if self._head.shares_table else None

    def bind(self, table: OpTable) -> None:
        dtype, parallel = self.options.dtype, self.options.parallel
        self._embedding.bind(table, dtype)
        for layer in self._layers:
            layer.bind(table, dtype)
        self._head.bind(table, dtype)
        last = parallel if self.layer_class.leaves_partial_sums else SINGLE
        self._finish = bind_add_norm(table, dtype, self._norm, last)
        self._embed = self._embedding.forward
        self._steps = [layer.forward for layer in self._layers]

    def forward(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        positions = inputs.positions
        x = self._embed(inputs.input_ids)
        residual: Tensor | None = None
        for step in self._steps:
            x, residual = step(x, residual, positions, attention, kv, plan)
        assert residual is not None
        hidden, _ = self._finish(x, residual)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        return self._head.forward(hidden)

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
                window=window,
            )
            for group, window in enumerate(self._groups)
        )

    def _attention_spec(self, window: int | None) -> AttentionSpec:
        config, parallel = self.config, self.options.parallel
        group = self._groups.index(window)
        heads = parallel.share(config.num_heads, "attention heads")
        return AttentionSpec(
            group=group,
            num_heads=heads.stop - heads.start,
            num_kv_heads=self.kv_specs[group].num_kv_heads,
            head_dim=config.head_dim,
            scale=config.attention_scale,
            window=window,
            soft_cap=config.attention_soft_cap,
        )

    def _layer(self, layer: int) -> DecoderLayer:
        config, parallel = self.config, self.options.parallel
        prefix = f"model.layers.{layer}"
        mlp = GatedMLP(
            f"{prefix}.mlp",
            config.hidden_size,
            config.intermediate_size,
            config.hidden_act,
            parallel,
            bias=config.mlp_bias,
        )
        return self.layer_class(self._attention(layer, prefix), mlp, self.norms(prefix), parallel)

    def _attention(self, layer: int, prefix: str) -> Attention:
        config, parallel, spec = self.config, self.options.parallel, self._specs[layer]
        head_dim, name = config.head_dim, f"{prefix}.self_attn"
        heads = _elements(parallel.share(config.num_heads, "attention heads"), head_dim)
        kv_heads = _elements(parallel.kv_heads(config.num_kv_heads), head_dim)
        width, kv_width = config.num_heads * head_dim, config.num_kv_heads * head_dim
        return Attention(
            layer,
            AttentionKind(self.attention_specs.index(spec), spec, self._rotary[config.rope(layer)]),
            parallel,
            norm=self.norm(f"{prefix}.input_layernorm", config.hidden_size),
            qkv=Linear.column(
                [
                    Part(f"{name}.q_proj", width, heads),
                    Part(f"{name}.k_proj", kv_width, kv_heads),
                    Part(f"{name}.v_proj", kv_width, kv_heads),
                ],
                config.hidden_size,
                bias=config.attention_bias,
            ),
            out=Linear.row(
                f"{name}.o_proj",
                config.hidden_size,
                width,
                heads,
                parallel,
                bias=config.attention_output_bias,
            ),
            q_norm=self.norm(f"{name}.q_norm", head_dim) if config.qk_norm else None,
            k_norm=self.norm(f"{name}.k_norm", head_dim) if config.qk_norm else None,
            sum_input=(
                layer > 0 and parallel.world_size > 1 and self.layer_class.leaves_partial_sums
            ),
        )


def _elements(heads: slice, head_dim: int) -> slice:
    return slice(heads.start * head_dim, heads.stop * head_dim)
