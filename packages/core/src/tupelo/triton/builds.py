"""How many kernels and graphs this process has built: the number stays once an engine is ready.

Counted are Triton's compilations (a kernel found in its cache too: elsewhere it would have been
compiled), captured graphs, and what else a backend counts.
"""

import importlib.util
from collections.abc import Callable
from typing import Any


class BuildCounter:
    """Counts; one a process, since kernels are built once a process.

    Args:
        others: how many things of other kinds were built so far.

    Attributes:
        num_kernels: Triton kernels compiled or loaded, each of their specialisations by itself.
        num_graphs: graphs captured.
    """

    def __init__(self, others: Callable[[], int] = lambda: 0) -> None:
        self.num_kernels = 0
        self.num_graphs = 0
        self._others = others
        self._listens = False

    def total(self) -> int:
        """Everything built so far."""
        return self.num_kernels + self.num_graphs + self._others()

    def listen(self) -> None:
        """Hear of Triton's compilations from here on; again is no more than once."""
        if self._listens or importlib.util.find_spec("triton") is None:
            return
        from triton import knobs

        self._listens = True
        knobs.runtime.jit_post_compile_hook = self._heard

    def captured(self) -> None:
        """A graph was captured."""
        self.num_graphs += 1

    def _heard(self, **_: Any) -> None:
        self.num_kernels += 1
