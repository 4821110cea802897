"""The attention block of a layer, as the configuration says: heads of their own, or latent."""

from collections.abc import Mapping, Sequence
from functools import partial

from tupelo.checkpoint import LatentConfig, ModelConfig, RopeConfig
from tupelo.errors import ConfigError
from tupelo.layers import (
    Attention,
    AttentionKind,
    LatentAttention,
    LatentParts,
    Linear,
    Parallel,
    Parameter,
    Part,
    RMSNorm,
    RotaryTable,
    Source,
)
from tupelo.models.norms import layer_norm, make_rms_norm
from tupelo.models.rows import elements, shifted
from tupelo.specs import AttentionSpec


class AttentionBlocks:
    """Makes the blocks of one model.

    Args:
        specs: of each layer. kinds: the distinct ones.
        rotary: the table of each rope.
        leaves_partial_sums: whether layers leave the sum over ranks to the next one.
    """

    def __init__(
        self,
        config: ModelConfig,
        parallel: Parallel,
        specs: Sequence[AttentionSpec],
        kinds: Sequence[AttentionSpec],
        rotary: Mapping[RopeConfig, RotaryTable],
        *,
        leaves_partial_sums: bool,
    ) -> None:
        self._config = config
        self._parallel = parallel
        self._names = config.layout
        self._specs = specs
        self._kinds = kinds
        self._rotary = rotary
        self._leaves_partial_sums = leaves_partial_sums

    def block(self, layer: int, prefix: str) -> Attention | LatentAttention:
        config, parallel, spec = self._config, self._parallel, self._specs[layer]
        if config.latent is not None:
            return self._latent_attention(config.latent, layer, prefix)
        head_dim = config.head_dim
        heads = elements(parallel.share(config.num_heads, "attention heads"), head_dim)
        width = config.num_heads * head_dim
        q_norm, k_norm = self._head_norms(prefix)
        turns = config.rope(layer).kind != "none"
        return Attention(
            layer,
            AttentionKind(self._kinds.index(spec), spec, self._rotary[config.rope(layer)]),
            parallel,
            norm=(
                None
                if config.parallel_blocks
                else layer_norm(config, prefix, self._names.input_norm)
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
            sum_input=(layer > 0 and parallel.world_size > 1 and self._leaves_partial_sums),
            eps=config.rms_norm_eps,
            sinks=self._sinks(prefix) if config.sinks else None,
            unit_norms=config.qk_unit_norm and turns,
            growth=None if turns else config.query_growth,
        )

    def _sinks(self, prefix: str) -> Parameter:
        count = self._config.num_heads
        mine = self._parallel.share(count, "attention heads")
        size = mine.stop - mine.start
        source = Source(
            name=f"{prefix}.{self._names.sinks}",
            shape=(count,),
            take=(mine,),
            place=(slice(0, size),),
        )
        return Parameter(shape=(size,), sources=(source,), dtype="float32")

    def _latent_attention(self, latent: LatentConfig, layer: int, prefix: str) -> LatentAttention:
        config, parallel, spec = self._config, self._parallel, self._specs[layer]
        name, count, hidden = f"{prefix}.self_attn", config.num_heads, config.hidden_size
        mine = parallel.share(count, "attention heads")
        qk, kv = latent.nope_dim + latent.rope_dim, latent.nope_dim + latent.value_dim
        stored = latent.kv_rank + latent.rope_dim
        turned = config.rope_interleaved
        heads = Part(
            f"{name}.q_b_proj" if latent.q_rank else f"{name}.q_proj",
            count * qk,
            elements(mine, qk),
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
        up = Part(f"{name}.kv_b_proj", count * kv, elements(mine, kv))
        norm = layer_norm(config, prefix, self._names.input_norm)
        assert isinstance(norm, RMSNorm)
        inner = partial(RMSNorm, eps=latent.inner_eps)
        compressed = bool(latent.q_rank)
        return LatentAttention(
            layer,
            AttentionKind(self._kinds.index(spec), spec, self._rotary[config.rope(layer)]),
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
                    elements(mine, latent.value_dim),
                    parallel,
                    bias=bias,
                ),
            ),
            sum_input=(layer > 0 and parallel.world_size > 1 and self._leaves_partial_sums),
        )

    def _qkv_parts(self, layer: int, prefix: str) -> list[Part]:
        """q, k and v of this rank, from tensors of their own or from one that holds all three."""
        config, parallel, names = self._config, self._parallel, self._names
        head_dim = config.head_dim
        heads = elements(parallel.share(config.num_heads, "attention heads"), head_dim)
        kv_heads = elements(parallel.kv_heads(config.num_kv_heads), head_dim)
        width, kv_width = config.num_heads * head_dim, config.num_kv_heads * head_dim
        paired = (head_dim, 0, config.rope(layer).rotary_dim) if config.rope_interleaved else None
        if names.qkv:
            fused, total = f"{prefix}.{names.qkv}", width + 2 * kv_width
            return [
                Part(fused, total, heads, paired),
                Part(fused, total, shifted(kv_heads, width), paired),
                Part(fused, total, shifted(kv_heads, width + kv_width)),
            ]
        return [
            Part(f"{prefix}.{names.q}", width, heads, paired),
            Part(f"{prefix}.{names.k}", kv_width, kv_heads, paired),
            Part(f"{prefix}.{names.v}", kv_width, kv_heads),
        ]

    def _head_norms(self, prefix: str) -> tuple[RMSNorm | None, RMSNorm | None]:
        config = self._config
        if not config.qk_norm:
            return None, None
        if config.qk_norm_width and self._parallel.world_size > 1:
            raise ConfigError(
                f"{config.architecture} norms q and k over all heads at once, which is not split "
                "over ranks; use one"
            )
        q_heads, k_heads = (
            (config.num_heads, config.num_kv_heads) if config.qk_norm_width else (1, 1)
        )
        return (
            make_rms_norm(config, f"{prefix}.{self._names.q_norm}", q_heads * config.head_dim),
            make_rms_norm(config, f"{prefix}.{self._names.k_norm}", k_heads * config.head_dim),
        )
