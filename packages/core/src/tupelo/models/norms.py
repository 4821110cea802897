"""The norms of a model, as its configuration says."""

from tupelo.checkpoint import ModelConfig
from tupelo.layers import LayerNorm, Norm, RMSNorm


def make_norm(config: ModelConfig, name: str, size: int) -> Norm:
    """A norm over hidden states, of this family's kind."""
    if config.layer_norm:
        return LayerNorm(name, size, config.rms_norm_eps, bias=config.norm_bias)
    return make_rms_norm(config, name, size)


def make_rms_norm(config: ModelConfig, name: str, size: int) -> RMSNorm:
    """An RMS norm with this family's epsilon and offset."""
    return RMSNorm(name, size, config.rms_norm_eps, config.norm_offset)


def layer_norm(config: ModelConfig, prefix: str, name: str) -> Norm | None:
    """The norm ``name`` of the layer whose names begin with ``prefix``; None where ``name`` is
    empty."""
    return make_norm(config, f"{prefix}.{name}", config.hidden_size) if name else None
