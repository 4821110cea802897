"""How many kernels and graphs this process has built: the number stays once an engine is ready.

Counted are Triton's compilations (a kernel found in its cache too: elsewhere it would have been
compiled), FlashInfer's modules, and captured graphs.
"""

import importlib.util
import sys
from typing import Any


class BuildCounter:
    """Counts; one a process, since kernels are built once a process.

    Attributes:
        num_kernels: Triton kernels compiled or loaded, each of their specialisations by itself.
        num_graphs: graphs captured.
    """

    def __init__(self) -> None:
        self.num_kernels = 0
        self.num_graphs = 0
        self._listens = False

    def total(self) -> int:
        """Everything built so far."""
        return self.num_kernels + self.num_graphs + _num_modules()

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


COUNTER = BuildCounter()


def _num_modules() -> int:
    """FlashInfer's modules that were asked for; none where it is not loaded."""
    jit = sys.modules.get("flashinfer.jit.core")
    return 0 if jit is None else len(jit.jit_spec_registry.get_all_specs())
