"""The engine: where the host wing, which decides, and the device wing, which computes, meet.

Importing this package loads no torch: ``tupelo.engine.messages`` and ``tupelo.engine.client`` are
    what a
server's process needs.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Engine"]

if TYPE_CHECKING:
    from tupelo.engine.engine import Engine


def __getattr__(name: str) -> Any:
    if name != "Engine":
        raise AttributeError(f"module 'tupelo.engine' has no attribute {name!r}")
    from tupelo.engine.engine import Engine

    return Engine
