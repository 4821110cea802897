"""Tupelo: a serving framework for large language models. Importing this package loads no torch."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "EngineConfig", "SamplingParams", "TupeloError", "__version__"]

if TYPE_CHECKING:
    from tupelo.config import EngineConfig
    from tupelo.engine import Engine
    from tupelo.errors import TupeloError
    from tupelo.request import SamplingParams

_HOMES = {
    "Engine": "tupelo.engine",
    "EngineConfig": "tupelo.config",
    "SamplingParams": "tupelo.request",
    "TupeloError": "tupelo.errors",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that ``import tupelo`` stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tupelo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
