"""Programs: functions of arrays of fixed sizes, traced once, compiled by XLA, then run by key.

torch-xla records what torch calls and compiles it when a result is asked for. Recording a whole
model anew for each step costs more time than the step, so a ``Program`` records once: it keeps the
compiled graph's hash and which of its parameters are arguments. Whatever else the function read,
such as weights, is bound as it was. No argument and no bound tensor may be changed in place.

TorchTPU is given the same functions through ``torch.compile``, each as one graph.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

Fn = Callable[..., Sequence[Tensor]]

COMPILER = "tpu"
"""TorchTPU's name among those of ``torch.compile``."""


class Program:
    """``fn`` compiled for the sizes of ``args``.

    Args:
        fn: a function of tensors alone; every result is computed by it, none is an argument.
        args: on the device; sizes and types count, values do not.
        donated: arguments whose memory the results may take; they are gone once the program ran.
    """

    def __init__(self, fn: Fn, args: Sequence[Tensor], donated: Sequence[int]) -> None:
        import torch_xla
        from torch_xla import _XLAC as xla

        self._xla = xla
        self._donated = tuple(donated)
        torch_xla.sync(wait=True)
        places = {xla._xla_get_tensor_id(arg): i for i, arg in enumerate(args)}
        assert len(places) == len(args), "an argument is passed twice"
        self._mark(args)
        with _aliasing(xla):
            results = list(fn(*args))
            ids, values = xla._get_tensors_xla_device_data_node(results)
            self._places = [places.get(i) for i in ids]
            self._bound = [
                None if place is not None else value
                for place, value in zip(self._places, values, strict=True)
            ]
            self._hash = xla._get_graph_hash(results)
            xla._xla_warm_up_cache(results, [])
        self._num_results = len(results)
        del results
        xla._clear_pending_irs(str(torch_xla.device()))

    def __call__(self, args: Sequence[Tensor]) -> list[Tensor]:
        """Launch it; returns at once."""
        self._mark(args)
        inputs = [
            value if place is None else args[place]
            for place, value in zip(self._places, self._bound, strict=True)
        ]
        results: list[Tensor] = self._xla._run_cached_graph(self._hash, inputs)
        assert len(results) == self._num_results, "a result of a program is one of its arguments"
        return results

    def _mark(self, args: Sequence[Tensor]) -> None:
        for place in self._donated:
            self._xla._set_buffer_donation(args[place], True)


class Compiled:
    """The same by ``torch.compile``, on any other device than torch-xla's. Nothing is donated."""

    def __init__(self, fn: Fn, args: Sequence[Tensor], donated: Sequence[int]) -> None:
        assert isinstance(fn, FunctionType)
        code = fn.__code__.replace()  # its own, since torch limits the graphs of one code object
        own = FunctionType(code, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
        self._run = torch.compile(own, backend=COMPILER, fullgraph=True, dynamic=False)

    def __call__(self, args: Sequence[Tensor]) -> list[Tensor]:
        return list(self._run(*args))


class Programs:
    """A runner's programs, each compiled when it is first run."""

    def __init__(self) -> None:
        self._programs: dict[Hashable, Program | Compiled] = {}

    def __len__(self) -> int:
        return len(self._programs)

    def run(
        self, key: Hashable, fn: Fn, args: Sequence[Tensor], donated: Sequence[int] = ()
    ) -> list[Tensor]:
        """Run ``fn`` as compiled for ``key``, which says all that its program depends on."""
        program = self._programs.get(key)
        if program is None:
            kind = Program if args[0].device.type == "xla" else Compiled
            program = self._programs[key] = kind(fn, args, donated)
        return program(args)


def num_compiled() -> int:
    """Programs that XLA has compiled, or loaded from its cache, in this process."""
    from torch_xla.debug import metrics

    names = {"CompileTime", "PersistentCacheLoad"} & set(metrics.metric_names())
    return sum(metrics.metric_data(name)[0] for name in names)


def num_graphs() -> int:
    """The same of ``torch.compile``."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@contextmanager
def _aliasing(xla: Any) -> Iterator[None]:
    """Results may take the memory of donated arguments."""
    before = xla._xla_get_enable_alias_with_buffer_donor_config()
    xla._xla_set_enable_alias_with_buffer_donor_config(True)
    try:
        yield
    finally:
        xla._xla_set_enable_alias_with_buffer_donor_config(before)
