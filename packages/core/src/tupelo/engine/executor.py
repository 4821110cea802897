"""Where a step runs: the interface that the engine drives, and the executor in this process."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tupelo.backend import Runner, Ticket
from tupelo.batch import Batch, Bucket, StepResult


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
    """One rank, in the engine's own process and thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def bucket(self, num_tokens: int, num_rows: int) -> Bucket:
        return self._runner.bucket(num_tokens, num_rows)

    def forward(self, batch: Batch) -> Any:
        return self._runner.forward(batch)

    def sample(
        self, forward: Any, batch: Batch, mask: npt.NDArray[np.int32] | None
    ) -> Ticket[StepResult]:
        return self._runner.sample(forward, batch, mask)
