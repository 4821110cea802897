"""Finding a backend: entry points of the group ``tupelo.backends``.

An entry point's value is a function without arguments that returns a ``Backend`` or
``Unavailable(reason)``; importing its module opens no device. Named by an argument or by
``TUPELO_BACKEND``, only that one is loaded; otherwise every one is asked and the highest priority
wins.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from tupelo.backend.contract import Backend, Unavailable
from tupelo.config import environment
from tupelo.errors import BackendUnavailable, ContractError

GROUP = "tupelo.backends"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One installed backend and what it answered.

    Attributes:
        name: of its entry point. source: package that brought it.
        backend: the record, where it is usable.
        reason: why not, otherwise; never empty then.
    """

    name: str
    source: str
    backend: Backend | None
    reason: str = ""


def probe(points: Iterable[EntryPoint] | None = None) -> list[Candidate]:
    """Ask every installed backend. A backend that raises is a candidate with that as its reason."""
    found = entry_points(group=GROUP) if points is None else points
    return [_ask(point) for point in sorted(found, key=lambda p: p.name)]


def find_backend(name: str | None = None, *, points: Iterable[EntryPoint] | None = None) -> Backend:
    """The backend to use.

    Args:
        name: of an entry point; None means ``TUPELO_BACKEND``, and if that is unset, the best.
        points: entry points to look at instead of the installed ones.

    Raises:
        BackendUnavailable: none is usable, the named one is not, or two share the highest priority;
            lists every candidate with its reason.
    """
    found = list(entry_points(group=GROUP) if points is None else points)
    wanted = name or environment().backend
    if wanted:
        named = [point for point in found if point.name == wanted]
        if not named:
            known = ", ".join(sorted(p.name for p in found)) or "none"
            raise BackendUnavailable(f"backend {wanted!r} is not installed; known: {known}")
        candidate = _ask(named[0])
        if candidate.backend is None:
            raise BackendUnavailable(f"backend {wanted!r} is unavailable: {candidate.reason}")
        return candidate.backend
    candidates = probe(found)
    usable = [c.backend for c in candidates if c.backend is not None]
    if not usable:
        raise BackendUnavailable(
            "no usable backend" + _listing(candidates) + "\nInstall one, such as tupelo-backend-cpu"
        )
    best = max(b.capabilities.priority for b in usable)
    leaders = [b for b in usable if b.capabilities.priority == best]
    if len(leaders) > 1:
        names = " and ".join(b.name for b in leaders)
        raise BackendUnavailable(
            f"backends {names} share priority {best}; name one with --backend or TUPELO_BACKEND"
            + _listing(candidates)
        )
    return leaders[0]


def _ask(point: EntryPoint) -> Candidate:
    source = point.dist.name if point.dist is not None else "unknown package"
    try:
        make: Callable[[], Backend | Unavailable] = point.load()
        answer = make()
        if isinstance(answer, Unavailable):
            return Candidate(point.name, source, None, answer.reason)
        if not isinstance(answer, Backend):
            raise ContractError(f"returned {type(answer).__name__}, not a Backend")
        return Candidate(point.name, source, answer.check())
    except Exception as error:  # a vendor's broken package must not hide the others
        return Candidate(point.name, source, None, f"{type(error).__name__}: {error}")


def _listing(candidates: list[Candidate]) -> str:
    lines = [
        f"\n  {c.name} ({c.source}): {'usable' if c.backend else c.reason}" for c in candidates
    ]
    return ":" + "".join(lines) if lines else " (none is installed)"
