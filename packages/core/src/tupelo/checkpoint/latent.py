"""What a configuration says of latent attention."""

from dataclasses import dataclass

from tupelo.checkpoint.fields import Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentConfig:
    """Sizes of latent attention (MLA).

    Attributes:
        q_rank: of compressed queries; 0 where they are not compressed.
        kv_rank: of the latent that K and V come from: with ``rope_dim`` more, what is stored.
        nope_dim, rope_dim: of a head's queries and keys, not rotated and rotated.
        value_dim: of a head's values.
        inner_eps: of the norms of compressed queries and of the latent.
    """

    q_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    inner_eps: float = 1e-6


def parse_latent(fields: Fields) -> LatentConfig:
    """DeepSeek's fields.

    Raises:
        CheckpointError: names the field.
    """
    rope_dim = fields.integer("qk_rope_head_dim")
    if rope_dim % 2:
        raise fields.error("qk_rope_head_dim", "even")
    return LatentConfig(
        q_rank=fields.optional_integer("q_lora_rank") or 0,
        kv_rank=fields.integer("kv_lora_rank"),
        nope_dim=fields.integer("qk_nope_head_dim"),
        rope_dim=rope_dim,
        value_dim=fields.integer("v_head_dim"),
    )
