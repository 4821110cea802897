"""Sizes of the attention kernels' tiles, by the types and heads that they run on."""

from collections.abc import Callable
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
        one_loop: masks are asked for every key, instead of a second loop where they must be: fewer
            registers.
    """

    rows: int
    block: int
    num_warps: int
    num_stages: int
    one_loop: bool = False


@dataclass(frozen=True, slots=True)
class SharedConfig:
    """How attention to shared prefixes is launched.

    Attributes:
        rows: decode rows times heads of a group at once, ``shared_rows`` or a part of it.
        block: keys of one step of the loop.
        num_warps, num_stages: Triton's.
        one_loop: masks are asked for every key, instead of a second loop where they must be: fewer
            registers.
    """

    rows: int
    block: int
    num_warps: int
    num_stages: int
    one_loop: bool = False


def decode_config(head_dim: int, itemsize: int) -> DecodeConfig:
    """Tiles of K of about 16 KB: two stages of K and V fit in 64 KB of shared memory.

    Args:
        itemsize: bytes of an element of q.
    """
    wide = itemsize > 2  # whose products take more registers
    block = 64
    while block > 16 and block * head_dim * itemsize > (8192 if wide else 16384):
        block //= 2
    return DecodeConfig(block=block, num_warps=8 if wide else 4, num_stages=2)


def extend_config(head_dim: int, itemsize: int) -> ExtendConfig:
    """Tiles that fit 64 KB and spill nothing on the targets that the tests compile for.

    Args:
        itemsize: bytes of an element of q.
    """
    if itemsize > 2:  # products of float32 are not done by matrix instructions everywhere
        return ExtendConfig(rows=16, block=16, num_warps=4, num_stages=1)
    if head_dim <= 128:
        return ExtendConfig(rows=128, block=32, num_warps=8, num_stages=2)
    return ExtendConfig(rows=64, block=32, num_warps=8, num_stages=2)


def shared_config(head_dim: int, itemsize: int) -> SharedConfig:
    """Tiles as of ``extend_config``, for the same reasons.

    Args:
        itemsize: bytes of an element of q.
    """
    if itemsize > 2:
        return SharedConfig(rows=16, block=16, num_warps=4, num_stages=1)
    if head_dim <= 128:
        block = 64 if head_dim <= 64 else 32
        return SharedConfig(rows=64, block=block, num_warps=4, num_stages=2)
    return SharedConfig(rows=64, block=32, num_warps=8, num_stages=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionTuning:
    """What a backend may set after measuring; the defaults suit any device with 64 KB a program.

    Attributes:
        target_programs: programs that fill the device: decode splits its rows' keys up to it.
        max_splits: bound of the splits of one row.
        min_split_tokens: no row is split finer, where its length is known on the host.
        shared_rows: decode rows times heads of a group in one tile over a shared prefix; a power
            of two.
        shared_programs: programs that fill the device there.
        min_shared_keys: no shared prefix is split finer.
        fused_merge: the last split of a row merges all, instead of a second launch.
        decode, extend, shared: the sizes by head_dim and bytes of an element of q.
    """

    target_programs: int = 512
    max_splits: int = 32
    min_split_tokens: int = 64
    shared_rows: int = 64
    shared_programs: int = 256
    min_shared_keys: int = 128
    fused_merge: bool = False
    decode: Callable[[int, int], DecodeConfig] = decode_config
    extend: Callable[[int, int], ExtendConfig] = extend_config
    shared: Callable[[int, int], SharedConfig] = shared_config
