"""Rotary position embedding: its parameters, from either spelling of Hugging Face's configurations.

transformers 4 writes ``rope_theta`` and ``rope_scaling``; transformers 5 writes
``rope_parameters``.
"""

import math
from dataclasses import dataclass
from typing import Final

from tupelo.checkpoint.fields import Fields, shown
from tupelo.errors import UnsupportedModel

ROPE_KINDS: Final = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
_ALIASES: Final = {"su": "longrope"}


@dataclass(frozen=True, kw_only=True, slots=True)
class RopeConfig:
    """How positions turn queries and keys.

    The first ``rotary_dim`` elements of a head are rotated, in halves (element i with i +
    rotary_dim / 2), by the angle ``position * inv_freq[i]``; cos and sin are multiplied by
    ``attention_factor``. With ``base[i] = theta ** (-2 i / rotary_dim)``, ``inv_freq`` is by
    ``kind``:

    * default: base; linear: base / factor.
    * dynamic: base, up to ``max_position_embeddings``; beyond, theta grows with the length by
      ``factor``.
    * llama3: wavelengths above ``original_max / low_freq_factor`` divided by ``factor``, those
      below ``original_max / high_freq_factor`` kept, linear in between; both may be the same.
    * yarn: a ramp between base and base / factor over the dimensions that turn ``beta_fast`` to
      ``beta_slow`` times within ``original_max``; ``truncate`` rounds the ramp's ends outwards.
    * none: nothing is turned; no configuration says so, layers without positions do.
    * longrope: base / short_factor[i] up to ``original_max`` tokens, base / long_factor[i] beyond.

    Attributes:
        theta: the base of the frequencies.
        rotary_dim: rotated elements of a head, even.
        attention_factor: already resolved, 1.0 where the kind has none.
        short_factor, long_factor: (rotary_dim / 2,) each; only of longrope.

    Source: transformers ``modeling_rope_utils``; YaRN, arXiv 2309.00071; LongRoPE, arXiv
        2402.13753.
    """

    theta: float
    rotary_dim: int
    kind: str = "default"
    factor: float = 1.0
    max_position_embeddings: int
    original_max_position_embeddings: int
    attention_factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryGrowth:
    """Queries of layers that do not turn, multiplied at position p by
    ``1 + scale * log(1 + floor((p + 1) / step))``.

    Source: Nakanishi, "Scalable-Softmax Is Superior for Attention", 2025; Llama 4.
    """

    step: int
    scale: float


def no_rope(head_dim: int, max_positions: int) -> RopeConfig:
    """Of layers that know no positions, or know them from elsewhere."""
    return RopeConfig(
        theta=1.0,
        rotary_dim=head_dim,
        kind="none",
        max_position_embeddings=max_positions,
        original_max_position_embeddings=max_positions,
    )


def parse_rope(
    fields: Fields, section: Fields, *, head_dim: int, max_positions: int, theta: float
) -> RopeConfig:
    """The rope that ``section`` describes.

    Args:
        fields: the whole configuration, for values that older files keep beside the section.
        section: ``rope_parameters``, one layer type of it, or ``rope_scaling``; may be empty.
        theta: used where the section has none.

    Raises:
        UnsupportedModel: an unknown kind.
        CheckpointError: a missing or nonsensical parameter.
    """
    kind = section.text("rope_type", section.text("type", "default"))
    kind = _ALIASES.get(kind, kind)
    if kind not in ROPE_KINDS:
        raise UnsupportedModel(
            f"{section.where}: rope type {shown(repr(kind))} is not supported; "
            f"supported: {', '.join(ROPE_KINDS)}"
        )
    partial = section.number(
        "partial_rotary_factor", fields.number("partial_rotary_factor", 1.0, high=1.0), high=1.0
    )
    rotary_dim = int(head_dim * partial)
    if rotary_dim < 2 or rotary_dim % 2:
        raise section.error("partial_rotary_factor", f"a share of head_dim {head_dim} that is even")
    if kind == "dynamic" and rotary_dim == 2:
        raise section.error("partial_rotary_factor", "such that dynamic rope turns over 2 elements")
    original = _original_positions(fields, section, kind, max_positions)
    theta = section.positive("rope_theta", theta)
    if theta <= 1:
        raise section.error("rope_theta", f"above 1, got {theta:g}")
    factor = _factor(section, kind, max_positions / original)
    low, high = _llama3_range(section, kind)
    is_longrope = kind == "longrope"
    return RopeConfig(
        theta=theta,
        rotary_dim=rotary_dim,
        kind=kind,
        factor=factor,
        max_position_embeddings=max_positions,
        original_max_position_embeddings=original,
        attention_factor=_attention_factor(section, kind, factor, original),
        low_freq_factor=low,
        high_freq_factor=high,
        beta_fast=section.positive("beta_fast", 32.0) if kind == "yarn" else 32.0,
        beta_slow=section.positive("beta_slow", 1.0) if kind == "yarn" else 1.0,
        truncate=section.flag("truncate", True),
        short_factor=section.positives("short_factor", rotary_dim // 2) if is_longrope else (),
        long_factor=section.positives("long_factor", rotary_dim // 2) if is_longrope else (),
    )


def _original_positions(fields: Fields, section: Fields, kind: str, max_positions: int) -> int:
    """Positions seen in training. Some families keep them beside the section."""
    name = "original_max_position_embeddings"
    original = section.integer(name, fields.integer(name, max_positions))
    if original == 1 and kind in ("yarn", "longrope"):
        raise section.error(name, "above 1")  # its logarithm divides
    return original


def _factor(section: Fields, kind: str, stretched: float) -> float:
    if kind == "default":
        return 1.0
    if kind in ("yarn", "longrope"):
        return section.positive("factor", stretched)
    return section.positive("factor")


def _llama3_range(section: Fields, kind: str) -> tuple[float, float]:
    if kind != "llama3":
        return 1.0, 4.0
    low, high = section.positive("low_freq_factor"), section.positive("high_freq_factor")
    if high < low:
        raise section.error("high_freq_factor", f"at least low_freq_factor {low:g}")
    return low, high


def _attention_factor(section: Fields, kind: str, factor: float, original: int) -> float:
    """The factor on cos and sin. Source: YaRN section 3.4, LongRoPE's reference code."""
    if kind not in ("yarn", "longrope"):
        return 1.0
    if "attention_factor" in section:
        return section.positive("attention_factor")
    if kind == "longrope":
        return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    mscale, all_dim = section.number("mscale", 0.0), section.number("mscale_all_dim", 0.0)
    if mscale and all_dim:
        return yarn_scale(factor, mscale) / yarn_scale(factor, all_dim)
    return yarn_scale(factor, 1.0)


def yarn_scale(factor: float, mscale: float) -> float:
    """YaRN's factor on attention for contexts stretched by ``factor``; 1 where ``mscale`` is 0."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
