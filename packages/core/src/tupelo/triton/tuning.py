"""Sizes of the attention kernels' tiles, by the types and heads that they run on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How decode is launched.

    Attributes:
        block: keys of one step of the loop.
        num_warps, num_stages: Triton's.
    """

    block: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class ExtendConfig:
    """How extend is launched.

    Attributes:
        rows: query tokens times heads of a group in one program.
        block: keys of one step of the loop.
        num_warps, num_stages: Triton's.
    """

    rows: int
    block: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionTuning:
    """What a backend may set after measuring; the defaults suit any device with 64 KB a program.

    Attributes:
        target_programs: programs that fill the device: decode splits its rows' keys up to it.
        max_splits: bound of the splits of one row.
        min_split_tokens: no row is split finer, where its length is known on the host.
        fused_merge: the last split of a row merges all, instead of a second launch.
        decode, extend: sizes to use whatever the types; None: ``decode_config``,
            ``extend_config``.
    """

    target_programs: int = 512
    max_splits: int = 32
    min_split_tokens: int = 64
    fused_merge: bool = False
    decode: DecodeConfig | None = None
    extend: ExtendConfig | None = None


def decode_config(head_dim: int, itemsize: int) -> DecodeConfig:
    """Tiles of K of about 16 KB: two stages of K and V fit in 64 KB of shared memory.

    Args:
        itemsize: bytes of an element of q.
    """
    block = 64
    while block > 16 and block * head_dim * itemsize > 16384:
        block //= 2
    return DecodeConfig(block=block, num_warps=4, num_stages=2)


def extend_config(head_dim: int, itemsize: int) -> ExtendConfig:
    """128 query rows in 16-bit types up to head_dim 128, fewer in wider ones."""
    if itemsize > 2:
        return ExtendConfig(rows=32, block=32 if head_dim <= 128 else 16, num_warps=4, num_stages=1)
    if head_dim <= 128:
        return ExtendConfig(rows=128, block=64, num_warps=8, num_stages=2)
    return ExtendConfig(rows=64, block=32, num_warps=4, num_stages=2)
