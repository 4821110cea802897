"""Runs a program without a model: what it appends, up to where it needs a value.

A trace executes the program's function. It is used to warm a common prefix, to refuse what a remote
service cannot do before anything is asked of it, and to be looked at (``function.trace``).
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tupelo.errors import ProgramError, TupeloError
from tupelo.lang.backends.base import Backend
from tupelo.lang.content import Begin, Content, End, Prompt
from tupelo.lang.ir import (
    Gen,
    RoleBegin,
    RoleEnd,
    Seen,
    Select,
    Step,
    Text,
    TraceEnd,
    Unknown,
    as_expr,
    flatten,
    names_of,
    with_defaults,
)
from tupelo.lang.options import Sampling
from tupelo.lang.shape import Shape
from tupelo.lang.state import Roles

logger = logging.getLogger(__name__)

_tracing: ContextVar[bool] = ContextVar("tracing", default=False)


@dataclass
class Trace:
    """What a program appended.

    Attributes:
        steps: in their order. forks: what branches appended.
        content: of the steps up to the first call of the model, or value that is not known.
        complete: the function returned; else it needed a value.
    """

    steps: list[Step | Unknown] = field(default_factory=list)
    forks: list["Trace"] = field(default_factory=list)
    content: Content = field(default_factory=Content)
    complete: bool = False

    @property
    def prefix(self) -> Prompt:
        """What the program always begins with."""
        return self.content.prompt()


class TracedState(Roles):
    """A state that takes note of what is appended.

    Args:
        backend: whose refusals count; None for none.
        prefix_only: end at the first thing that is not constant.
    """

    def __init__(
        self,
        trace: Trace,
        *,
        backend: Backend | None = None,
        sampling: Sampling | None = None,
        prefix_only: bool = False,
        shape: Shape | None = None,
        constant: bool = True,
    ) -> None:
        self.trace = trace
        self.ret_value: Any = None
        self._backend = backend
        self._sampling = sampling or {}
        self._prefix_only = prefix_only
        self._shape = shape or Shape()
        self._constant = constant
        self._names: set[str] = set()

    def append(self, value: object) -> None:
        """Take note of a text or an expression.

        Raises:
            ProgramError: it cannot stand here, or the backend cannot do it.
        """
        for step in flatten(as_expr(value)):
            if self._shape.skips(step):
                continue
            if self._backend is not None and not isinstance(step, Unknown):
                self._backend.check(with_defaults(step, self._sampling), self._shape.place)
            self._shape = self._shape.after(step)
            self.trace.steps.append(step)
            self._names.update(names_of(step))
            self._note(step)

    def __iadd__(self, value: object) -> "TracedState":
        self.append(value)
        return self

    def fork(self, size: int = 1, position_ids_offset: Any = None) -> "TracedGroup":
        """Branches, each with a trace of its own."""
        if position_ids_offset is not None or size < 1:
            raise ProgramError("fork() takes a number of branches, and no offsets of positions")
        if self._prefix_only:
            raise TraceEnd("fork")
        return TracedGroup([self._branch() for _ in range(size)], self)

    @contextmanager
    def copy(self, size: int = 1) -> Iterator["TracedState"]:
        """A branch for a block."""
        yield self.fork(size)[0]

    def __getitem__(self, name: str) -> Any:
        return self.get_var(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self._names.add(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def get_var(self, name: str) -> Any:
        """A value that is not known."""
        return Unknown(name)

    def set_var(self, name: str, value: Any) -> None:
        """Takes note that it is set."""
        self[name] = value

    def sync(self) -> None:
        """Nothing is being done."""

    def error(self) -> None:
        """Nothing has failed."""

    def __getattr__(self, name: str) -> Any:
        """Everything else is about what the model has said."""
        raise TraceEnd(name)

    def _branch(self) -> "TracedState":
        trace = Trace()
        self.trace.forks.append(trace)
        return TracedState(
            trace,
            backend=self._backend,
            sampling=self._sampling,
            shape=self._shape,
            constant=False,
        )

    def _note(self, step: Step | Unknown) -> None:
        """Let the constant beginning grow, until something is not constant."""
        if isinstance(step, Gen | Select | Unknown):
            self._constant = False
            if self._prefix_only:
                raise TraceEnd("prefix")
        if not self._constant:
            return
        match step:
            case Text(text):
                self.trace.content.add(text)
            case RoleBegin(role):
                self.trace.content.add(Begin(role))
            case RoleEnd():
                self.trace.content.add(End())
            case Seen(media):
                self.trace.content.add(media)


class TracedGroup:
    """The branches of a traced fork."""

    def __init__(self, states: list[TracedState], source: TracedState) -> None:
        self.states = states
        self._source = source

    def join(self, mode: str = "gather_variable") -> None:
        """Takes note of the variables that branches set."""
        if mode not in ("gather_variable", "concate_and_append"):
            raise ProgramError(f"join(mode={mode!r}): there is no such mode")
        for state in self.states:
            self._source._names |= state._names

    def append(self, value: object) -> None:
        """Append to every branch."""
        several = isinstance(value, list | tuple)
        for index, state in enumerate(self.states):
            state.append(value[index] if isinstance(value, list | tuple) and several else value)

    def __iadd__(self, value: object) -> "TracedGroup":
        self.append(value)
        return self

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[TracedState]:
        return iter(self.states)

    def __getitem__(self, index: int) -> TracedState:
        return self.states[index]

    def __setitem__(self, index: int, state: TracedState) -> None:
        """Makes ``branches[i] += …`` work."""


def trace_program(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    backend: Backend | None = None,
    sampling: Sampling | None = None,
    prefix_only: bool = False,
) -> Trace:
    """Run a program's function on a traced state.

    Args:
        backend: whose refusals count; None for none. sampling: what holds for calls that say
            nothing else.
        prefix_only: end at the first thing that is not constant.

    Raises:
        ProgramError: the program is wrong, or the backend cannot do a step of it. Exception: what
            the function itself raises; with ``prefix_only`` that just ends the trace.
    """
    trace = Trace()
    token = _tracing.set(True)
    state = TracedState(trace, backend=backend, sampling=sampling, prefix_only=prefix_only)
    try:
        function(state, *args, **kwargs)
        trace.complete = True
    except TraceEnd:
        pass
    except TupeloError:
        raise
    except Exception:
        if not prefix_only:
            raise
        # The function met stand-ins for values: its errors say nothing of how it will run.
        logger.debug("a trace for a prefix ended in an error", exc_info=True)
    finally:
        _tracing.reset(token)
    return trace


def refuse_in_a_trace(name: str) -> None:
    """End a trace where its program runs another one, whose result it needs."""
    if _tracing.get():
        raise TraceEnd(name)
