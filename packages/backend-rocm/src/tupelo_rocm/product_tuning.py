"""Sizes of core's products by architecture: which launches are tried, and the experts' tiles.

None was measured on a card: they follow from what the compiler says of each architecture. Imported
only where triton is.
"""

from torch import Tensor

from tupelo.triton.moe import MoEConfig, moe_config
from tupelo.triton.products import Launches
from tupelo_rocm.arch import Arch

LARGEST_TILES = 144 << 10
"""Bytes of local data share that tiles may take: the compiler pads them where there are 160 KiB."""

RDNA_TILE = 4096
"""Elements of a weight that 256 registers a lane have room for."""


def launches(arch: Arch) -> Launches:
    """Which launches of products are tried."""
    shared_bytes = min(arch.lds_bytes, LARGEST_TILES)
    if arch.is_cdna:
        return Launches(shared_bytes=shared_bytes)
    return Launches(shared_bytes=shared_bytes, max_tile=RDNA_TILE)


def moe_sizes(arch: Arch, x: Tensor, gate_up: Tensor) -> MoEConfig:
    """The experts' tiles."""
    return moe_config(x, gate_up)
