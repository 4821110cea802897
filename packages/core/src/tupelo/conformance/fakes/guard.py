"""What a compiled, functional device cannot do, made an error on the CPU.

Inside a guarded region: a host read of a tensor's value, an op whose output's shape depends on
values, and a write into K/V storage all raise. Inside a named program, also an op, a shape or a
constant that differs from the program's first run: on such a device it would be compiled anew.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tupelo.errors import BackendError

_HOST_READS = frozenset(
    (
        *(
            "item",
            "tolist",
            "numpy",
            "__bool__",
            "__int__",
            "__float__",
            "__index__",
            "__complex__",
        ),
        *("__array__", "__contains__", "equal", "allclose", "is_nonzero", "nonzero", "argwhere"),
        *("masked_select", "unique", "unique_consecutive"),
    )
)
_DEPENDS_ON_VALUES = frozenset(
    (
        *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "_unique2"),
        *("unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
    )
)
_INDEXED_BY_MASK = frozenset(("index", "index_put", "index_put_", "_index_put_impl_"))

Signature = tuple[Any, ...]


class Guard:
    """Turns the rules on and off, and remembers programs.

    Args:
        storages: addresses of the storages that nothing may write into.
    """

    def __init__(self, storages: Callable[[], set[int]]) -> None:
        self._storages = storages
        self._watching = False
        self._program: list[Signature] | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """A guarded region; may be nested."""
        if self._watching:
            yield
            return
        self._watching = True
        try:
            with _Functions(self), _Ops(self):
                yield
        finally:
            self._watching = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """A region within a guarded one that may do anything: staging, and copies to the host."""
        before, self._watching = self._watching, False
        try:
            yield
        finally:
            self._watching = before

    @contextmanager
    def program(self, programs: dict[Any, list[Signature]], key: Any) -> Iterator[None]:
        """A guarded region that must run the same ops each time it runs under ``key``."""
        self._program = []
        with self.watch():
            yield
        now, self._program = self._program, None
        then = programs.setdefault(key, now)
        if now == then:
            return
        place = next((i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b), -1)
        what = f"{now[place]}, was {then[place]}" if place >= 0 else f"{len(now)}, was {len(then)}"
        raise BackendError(f"program {key} would be compiled anew: op {place} is {what}")

    @property
    def watching(self) -> bool:
        """Whether the rules hold now."""
        return self._watching

    def saw(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        """Judge one op, and add it to the running program."""
        if name in _DEPENDS_ON_VALUES:
            raise BackendError(f"{name}: its result depends on a tensor's values: a host read")
        if name in _INDEXED_BY_MASK and any(
            isinstance(i, Tensor) and i.dtype is torch.bool for i in args[1]
        ):
            raise BackendError(f"{name} by a boolean mask: its shape depends on values")
        self._refuse_writes(name, func, args, kwargs)
        if self._program is not None:
            self._program.append((str(func), _describe(args), _describe(tuple(kwargs.items()))))

    def _refuse_writes(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        schema = func._schema
        if not schema.is_mutable:
            return
        kept = self._storages()
        for index, argument in enumerate(schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in kept:
                raise BackendError(f"{name} writes into K/V storage in place; use KVPool.replace")


class _Functions(TorchFunctionMode):
    """Sees calls from Python: those that read on the host never reach the dispatcher."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self._guard.watching and name in _HOST_READS:
            raise BackendError(f"{name}() reads a tensor's value on the host, inside a step")
        return func(*args, **(kwargs or {}))


class _Ops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every op that reaches the dispatcher."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._guard = guard

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._guard.watching:
            name = func._schema.name.partition("::")[2]
            self._guard.saw(name, func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def _describe(value: Any) -> Any:
    """Shapes of tensors and values of everything else: what a program is compiled for."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape), str(value.dtype))
    if isinstance(value, list | tuple):
        return tuple(_describe(v) for v in value)
    return str(value)
