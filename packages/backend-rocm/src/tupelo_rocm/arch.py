"""AMD's architectures: what kernels' sizes follow from.

Every card that torch can use is served: one whose name is unknown gets the sizes that suit any.
Sources: AMD's instruction set guides of CDNA 2 to 4 and RDNA 3 and 4 (local data share, wave size,
registers of a lane).
"""

import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)

KIB = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Arch:
    """One architecture.

    Attributes:
        name: LLVM's, such as ``"gfx942"``.
        family: as people call it; "" for one that is unknown.
        wave: lanes of a wave as Triton compiles for it.
        lds_bytes: local data share that one workgroup may have.
        like: the architecture whose sizes it takes, one of ``TESTED``; "" for the cautious ones.
    """

    name: str
    family: str
    wave: int
    lds_bytes: int
    like: str

    @property
    def is_cdna(self) -> bool:
        """Whether it has CDNA's matrix cores."""
        return self.family.startswith("CDNA")


def _arch(name: str, family: str, wave: int, lds_kib: int, like: str = "") -> Arch:
    return Arch(name=name, family=family, wave=wave, lds_bytes=lds_kib * KIB, like=like or name)


TESTED: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        _arch("gfx90a", "CDNA 2", 64, 64),
        _arch("gfx942", "CDNA 3", 64, 64),
        _arch("gfx950", "CDNA 4", 64, 160),
        _arch("gfx1100", "RDNA 3", 32, 64),
        _arch("gfx1201", "RDNA 4", 32, 64),
    )
}
"""Architectures that every kernel is compiled for in this package's pipeline."""

KNOWN: dict[str, Arch] = TESTED | {
    arch.name: arch
    for arch in (
        *(_arch(name, "CDNA 3", 64, 64, "gfx942") for name in ("gfx940", "gfx941")),
        *(_arch(name, "RDNA 3", 32, 64, "gfx1100") for name in ("gfx1101", "gfx1102", "gfx1103")),
        *(
            _arch(name, "RDNA 3.5", 32, 64, "gfx1100")
            for name in ("gfx1150", "gfx1151", "gfx1152", "gfx1153")
        ),
        _arch("gfx1200", "RDNA 4", 32, 64, "gfx1201"),
    )
}


def find_arch(device_name: str, wave: int = 0, lds_bytes: int = 0) -> Arch:
    """The architecture of a device; one that is unknown is a warning, and served.

    Args:
        device_name: as torch has it (``gcnArchName``), such as ``"gfx942:sramecc+:xnack-"``.
        wave, lds_bytes: what the driver says of the device; 0 where it says nothing.
    """
    name = device_name.partition(":")[0]
    known = KNOWN.get(name)
    if known is not None:
        return known
    logger.warning(
        "%s is an architecture that this backend does not know: Triton's kernels serve it, in "
        "sizes that suit any",
        name or "the GPU",
    )
    usual = 64 if name.startswith("gfx9") else 32
    return Arch(name=name, family="", wave=wave or usual, lds_bytes=lds_bytes or 64 * KIB, like="")
