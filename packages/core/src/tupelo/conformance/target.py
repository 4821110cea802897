"""The backend under test, and where it comes from."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

from tupelo.backend import Backend, Unavailable
from tupelo.backend.discovery import GROUP
from tupelo.errors import ConfigError, ContractError

Factory = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Target:
    """A backend under test.

    Attributes:
        backend: its record.
        source: how another process gets the same backend: the name of an entry point, or
            ``module:function``. Empty if only this process has it; then the checks that need
            another process are skipped.
    """

    backend: Backend
    source: str = ""

    @property
    def dtype(self) -> str:
        """The backend's preferred compute type, float32 where it has that: errors show there."""
        dtypes = self.backend.capabilities.dtypes
        return "float32" if "float32" in dtypes else dtypes[0]


def find_factory(source: str) -> Factory:
    """The function that makes a backend, its module imported.

    Args:
        source: the name of an entry point of ``tupelo.backends``, or ``module:function``.

    Raises:
        ConfigError: there is no such entry point, module or function.
    """
    if ":" in source:
        module, _, name = source.partition(":")
        try:
            factory: Factory = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"--backend {source}: {error}") from error
        return factory
    found = {point.name: point for point in entry_points(group=GROUP)}
    if source not in found:
        known = ", ".join(sorted(found)) or "none"
        raise ConfigError(
            f"--backend {source}: not installed; found: {known}. "
            "Install its package, or name a function as module:function"
        )
    loaded: Factory = found[source].load()
    return loaded


def make(factory: Factory) -> Backend | Unavailable:
    """What a factory answers.

    Raises:
        ContractError: something other than a ``Backend`` or ``Unavailable`` with a reason.
    """
    answer = factory()
    if isinstance(answer, Unavailable):
        if not answer.reason.strip():
            raise ContractError("Unavailable without a reason")
        return answer
    if not isinstance(answer, Backend):
        raise ContractError(f"the factory returned {type(answer).__name__}, not a Backend")
    return answer
