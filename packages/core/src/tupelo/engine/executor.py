"""Where a step runs: the interface that the engine drives, and the executor in this process."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tupelo.backend import Runner, Ticket
from tupelo.batch import Batch, Bucket, StepResult
from tupelo.engine.build import Built


class Executor(Protocol):
    """Runs steps, in order, on all ranks."""

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        """The padded sizes of a step of these sizes."""
        ...

    def forward(self, batch: Batch) -> Any:
        """Launch the model."""
        ...

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[np.int32] | None
    ) -> Ticket[StepResult]:
        """Launch sampling; ``mask`` (num_samples, ceil(vocab_size / 32)) or None."""
        ...


class InProcessExecutor(Executor):
    """One rank, in the engine's own process and thread, over whatever runner is there now."""

    def __init__(self, built: Built) -> None:
        self._built = built

    @property
    def _runner(self) -> Runner:
        assert self._built.runner is not None, "steps are held while there is no runner"
        return self._built.runner

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return self._runner.bucket(num_tokens, num_rows)

    def forward(self, batch: Batch) -> Any:
        return self._runner.forward(batch)

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[np.int32] | None
    ) -> Ticket[StepResult]:
        return self._runner.sample(forward, batch, mask)
