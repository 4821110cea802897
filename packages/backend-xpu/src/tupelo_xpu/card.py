"""What is known of one GPU, from which kernels' sizes follow."""

from dataclasses import dataclass
from typing import Any

KIB, GIB = 1 << 10, 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One GPU.

    Attributes:
        name: as its driver has it. memory_bytes: of its own, or its share of the host's.
        units: Xe cores (subslices). local_bytes: local memory that one workgroup may have.
        driver: version of its driver; "" where it does not say.
    """

    name: str
    memory_bytes: int
    units: int
    local_bytes: int
    driver: str = ""

    @property
    def gib(self) -> float:
        """Memory in GiB."""
        return self.memory_bytes / GIB


def read_card(properties: Any) -> Card:
    """The GPU of ``torch.xpu.get_device_properties``; what an older torch does not tell is assumed
    to be little."""
    return Card(
        name=properties.name,
        memory_bytes=properties.total_memory,
        units=getattr(properties, "gpu_subslice_count", 0) or 8,
        local_bytes=getattr(properties, "local_mem_size", 0) or 64 * KIB,
        driver=str(getattr(properties, "driver_version", "") or ""),
    )
