"""What a model is to the engine, and what it is built with."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tupelo.backend.attention import AttentionBackend, Plan
from tupelo.backend.kv_pool import KVPool
from tupelo.backend.step import StepInputs
from tupelo.checkpoint import ModelConfig
from tupelo.layers import SINGLE, Parallel, Parameter
from tupelo.ops import OpCall, OpTable
from tupelo.specs import AttentionSpec, KVSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildOptions:
    """How a model is built, beyond its checkpoint's configuration.

    Attributes:
        dtype: of weights and activations.
        kv_dtype: storage type of K/V; "" means ``dtype``.
        max_length: longest sequence that will be served; 0 means the configuration's. It sizes the
            rotary tables, and a window that is not shorter than it is no window.
        parallel: this rank's place among those that the model is split over.
    """

    dtype: str = "float32"
    kv_dtype: str = ""
    max_length: int = 0
    parallel: Parallel = SINGLE


class Model(Protocol):
    """A decoder: built without weights, then loaded, then bound, then run.

    Attributes:
        config: its shape. options: as built.
        attention_specs: the distinct kinds of attention; layers name theirs by index.
        kv_specs: the page groups, full attention first, then windows, shortest first.
    """

    config: ModelConfig
    options: BuildOptions
    attention_specs: tuple[AttentionSpec, ...]
    kv_specs: tuple[KVSpec, ...]

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter once, in the order of the computation."""
        ...

    def table_bytes(self) -> int:
        """Bytes that ``bind`` adds for tables computed from the configuration."""
        ...

    def shared_head(self) -> OpCall | None:
        """What the head's kernel is chosen by, where its weight is the embedding's tensor, which
        stays beside a packed form; None where it has its own."""
        ...

    def bind(self, table: OpTable) -> None:
        """Choose a kernel for every place, once the weights are loaded; packs them layer by layer
        and drops plain ones that no kernel reads."""
        ...

    def forward(
        self, inputs: StepInputs, attention: AttentionBackend, kv: KVPool, plan: Plan
    ) -> Tensor:
        """Hidden states (num_tokens, hidden_size) after the last norm."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, vocab_size) for (n, hidden_size)."""
        ...

    def pool(self, features: Tensor, head: str) -> Tensor:
        """What the head named ``head`` makes of features (n, hidden_size); see ``PoolGroup``.

        A model that generates has none, and is never asked.
        """
        raise AssertionError(f"{self.config.architecture} has no head {head!r}")
