"""The backend that programs run on where none is named."""

import threading
from typing import Any

from tupelo.errors import ProgramError
from tupelo.lang.backends.base import Backend
from tupelo.lang.backends.engine import EngineBackend

_lock = threading.Lock()
_default: Backend | None = None


def set_default_backend(backend: Any) -> None:
    """Let programs run on ``backend`` unless they are told otherwise; None for none.

    Args:
        backend: a backend, such as ``Runtime(…)`` or ``OpenAI(…)``, or a ``tupelo.Engine``.

    Raises:
        ProgramError: it is none of these.
    """
    global _default
    found = None if backend is None else as_backend(backend)
    with _lock:
        _default = found


def backend_of(given: Any) -> Backend:
    """The backend that was given, or else the default one.

    Raises:
        ProgramError: there is none.
    """
    if given is not None:
        return as_backend(given)
    if _default is None:
        raise ProgramError(
            "no backend: call set_default_backend(Runtime(endpoint=…)), or run(backend=…)"
        )
    return _default


def as_backend(given: Any) -> Backend:
    """A backend as it is, an engine as one.

    Raises:
        ProgramError: it is neither.
    """
    if isinstance(given, Backend):
        return given
    if hasattr(given, "generate") and hasattr(given, "tokenizer"):
        return EngineBackend(given)
    raise ProgramError(f"a {type(given).__name__} is no backend; use Runtime, Engine, OpenAI …")


def flush_cache(backend: Any = None) -> bool:
    """Empty the prefix cache of a backend, by default of the default one; whether it was."""
    return backend_of(backend).flush_cache()


def get_server_info(backend: Any = None) -> dict[str, Any]:
    """What a backend, by default the default one, tells of itself."""
    return backend_of(backend).server_info()
