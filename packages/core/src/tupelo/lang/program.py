"""Functions that are programs: ``@function``, and what can be done with them."""

import functools
import inspect
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

from tupelo.errors import ProgramError
from tupelo.lang.backends.base import Backend
from tupelo.lang.batch import run_all
from tupelo.lang.defaults import backend_of
from tupelo.lang.ir import Unknown
from tupelo.lang.options import RUN_DEFAULTS, RUN_OPTIONS, Sampling, under_native_names
from tupelo.lang.state import ProgramState
from tupelo.lang.stream import Family, Stream
from tupelo.lang.tracing import Trace, refuse_in_a_trace, trace_program

logger = logging.getLogger(__name__)

_WORTH_CACHING = 64
"""Characters of a common prefix below which a batch is not worth a call of its own for it."""


class Program:
    """A Python function whose first argument is a state; see ``function``."""

    def __init__(
        self, function: Callable[..., Any], bound: Mapping[str, Any] | None = None
    ) -> None:
        parameters = list(inspect.signature(function).parameters)
        if not parameters:
            raise ProgramError(f"{function.__name__} takes no state: give it a first argument")
        self.function = function
        self.arguments = parameters[1:]
        self._bound = dict(bound or {})
        functools.update_wrapper(self, function)

    def bind(self, **kwargs: Any) -> "Program":
        """The program with some arguments fixed.

        Raises:
            ProgramError: it has no such argument.
        """
        for name in kwargs:
            if name not in self.arguments:
                raise ProgramError(f"{self.function.__name__} has no argument {name!r}")
        return Program(self.function, {**self._bound, **kwargs})

    def run(
        self,
        *args: Any,
        backend: Any = None,
        stream: bool = False,
        use_thread: bool = True,
        **kwargs: Any,
    ) -> ProgramState:
        """Run it.

        What the model fails at is kept in the state (``state.error()``, and raised by reading what
        it should have said); what the function itself raises is raised here.

        Args:
            backend: where the model is; the default one if None.
            stream: return at once; ``text_iter`` gives pieces as they come.
            use_thread: let the function run ahead of the model; without, each step ends first.
            kwargs: the function's arguments, and how to sample where ``gen`` does not say:
                ``max_new_tokens`` (128), ``temperature`` and so on.

        Raises:
            ProgramError: an unknown argument, or a step that the backend cannot do.
        """
        sampling, own = self._sorted(kwargs)
        where = backend_of(backend)
        return self._run(where, sampling, args, own, stream=stream, threaded=use_thread)

    __call__ = run

    def run_batch(
        self,
        batch_kwargs: Sequence[Mapping[str, Any]] | Sequence[Sequence[Any]],
        *,
        backend: Any = None,
        num_threads: int | str = "auto",
        progress_bar: bool = False,
        generator_style: bool = False,
        **sampling: Any,
    ) -> Any:
        """Run it once for each set of arguments, side by side; what all of them begin with is
        computed first.

        Args:
            batch_kwargs: mappings by name, or sequences in the function's order.
            num_threads: programs at a time; "auto" for all, up to 256.
            generator_style: give an iterator of states in their order, each as it is done.

        Returns:
            The states in their order.

        Raises:
            ProgramError: an unknown argument, or a step that the backend cannot do.
        """
        items = [self._by_name(item) for item in batch_kwargs]
        options, unknown = self._sorted(sampling)
        if unknown:
            raise ProgramError(f"run_batch() takes no {next(iter(unknown))!r} beside its batch")
        where = backend_of(backend)

        def run_one(item: Mapping[str, Any]) -> ProgramState:
            return self._run(where, options, (), item)

        if len(items) > 1 and where.caches:
            self._cache_common(where, items)
        states: Iterator[ProgramState] = run_all(run_one, items, num_threads, progress_bar)
        return states if generator_style else list(states)

    def trace(self, *args: Any, backend: Any = None, **kwargs: Any) -> Trace:
        """What it appends, without a model; arguments that are left out are unknown values.

        Args:
            backend: refuse what this one cannot do.
        """
        known = {**self._bound, **kwargs}
        missing = [name for name in self.arguments[len(args) :] if name not in known]
        defaults = self._defaults()
        stand_ins = {name: Unknown(name) for name in missing if name not in defaults}
        where = None if backend is None else backend_of(backend)
        return trace_program(self.function, args, {**known, **stand_ins}, backend=where)

    def cache(self, backend: Any = None, **kwargs: Any) -> Trace:
        """Have what it always begins with computed, so that later runs find it in the cache."""
        trace = self._prefix({**self._bound, **kwargs})
        backend_of(backend).prefill(trace.prefix)
        return trace

    def _run(
        self,
        backend: Backend,
        sampling: Sampling,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        stream: bool = False,
        threaded: bool = True,
    ) -> ProgramState:
        refuse_in_a_trace(self.function.__name__)
        arguments = {**self._bound, **kwargs}
        if backend.traced:
            trace_program(self.function, args, arguments, backend=backend, sampling=sampling)
        family = Family(backend, sampling, streaming=stream, threaded=threaded or stream)
        state = ProgramState(Stream(family))
        call = functools.partial(self._call, state, args, arguments)
        if stream:
            family.program = 0
            threading.Thread(target=call, name="tupelo-program", daemon=True).start()
        else:
            call()
        return state

    def _call(self, state: ProgramState, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Run the function to its end, and the model to its."""
        stream = state.stream
        family = stream.family
        family.program = threading.get_ident()
        try:
            state.ret_value = self.function(state, *args, **kwargs)
        except BaseException as error:
            # What the model failed at is in the state already, however the function met it.
            known = any(error is one for one in family.errors)
            stream.fail(error)
            _settle(stream, wait=isinstance(error, Exception))  # an interrupt waits for nothing
            if not known and not family.streaming:
                raise
        else:
            _settle(stream, wait=True)

    def _sorted(self, kwargs: Mapping[str, Any]) -> tuple[Sampling, dict[str, Any]]:
        """Sampling options and arguments of the function, which win where both have a name."""
        own = {name: value for name, value in kwargs.items() if name in self.arguments}
        rest = {name: value for name, value in kwargs.items() if name not in own}
        unknown = [name for name in rest if name not in RUN_OPTIONS]
        if unknown:
            raise ProgramError(
                f"{self.function.__name__} has no argument {unknown[0]!r}, and run() has no such "
                "option"
            )
        return {**RUN_DEFAULTS, **under_native_names(rest)}, own

    def _by_name(self, item: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
        if isinstance(item, Mapping):
            unknown = [name for name in item if name not in self.arguments]
            if unknown:
                raise ProgramError(f"{self.function.__name__} has no argument {unknown[0]!r}")
            return dict(item)
        names = [name for name in self.arguments if name not in self._bound]
        return dict(zip(names, item, strict=True))

    def _defaults(self) -> set[str]:
        parameters = inspect.signature(self.function).parameters.values()
        return {one.name for one in parameters if one.default is not one.empty}

    def _prefix(self, known: Mapping[str, Any]) -> Trace:
        defaults = self._defaults()
        stand_ins = {
            name: Unknown(name)
            for name in self.arguments
            if name not in known and name not in defaults
        }
        return trace_program(self.function, (), {**known, **stand_ins}, prefix_only=True)

    def _cache_common(self, backend: Backend, items: Sequence[Mapping[str, Any]]) -> None:
        """Have what all items begin with computed once, before they start."""
        first = items[0]
        common = {
            name: value
            for name, value in first.items()
            if all(name in item and _same(item[name], value) for item in items)
        }
        differing = {name for item in items for name in item} - set(common)
        stand_ins = {name: Unknown(name) for name in differing}
        known = {**self._bound, **common, **stand_ins}
        trace = trace_program(self.function, (), known, prefix_only=True)
        if len(trace.content.text_since(0)) >= _WORTH_CACHING:
            backend.warm(trace.prefix)


def _settle(stream: Stream, *, wait: bool) -> None:
    """The function is over; wait for the model, unless somebody reads what it says."""
    stream.finish()
    if wait and not stream.family.streaming:
        stream.sync_all()


def _same(one: Any, other: Any) -> bool:
    """Whether two arguments are surely equal."""
    plain = isinstance(one, str | bytes | int | float)
    return one is other or (plain and type(one) is type(other) and one == other)


@overload
def function(func: Callable[..., Any]) -> Program: ...


@overload
def function() -> Callable[[Callable[..., Any]], Program]: ...


def function(func: Callable[..., Any] | None = None) -> Any:
    """Make a program of a Python function whose first argument is the state.

    ::

        @function
        def question(s, text):
            s += user(text)
            s += assistant(gen("answer", max_tokens=64))

        question.run(text="…")["answer"]
    """
    return Program if func is None else Program(func)
