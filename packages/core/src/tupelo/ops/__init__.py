"""The closed list of ops: ``OPS`` maps each name to its ``OpSpec``."""

from tupelo.ops.catalog import OPS
from tupelo.ops.spec import Kernel, OpCall, OpSpec, Sample, Tier, Tolerance, check_kernel
from tupelo.ops.table import Choice, OpTable
from tupelo.ops.weight import LinearWeight

__all__ = [
    "OPS",
    "Choice",
    "Kernel",
    "LinearWeight",
    "OpCall",
    "OpSpec",
    "OpTable",
    "Sample",
    "Tier",
    "Tolerance",
    "check_kernel",
]
