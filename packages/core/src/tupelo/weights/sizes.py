"""Bytes that a model's weights will take, known before anything is loaded."""

from dataclasses import dataclass

from tupelo.models import Model
from tupelo.ops import OpTable
from tupelo.specs import dtype_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightSizes:
    """Bytes on this rank.

    Attributes:
        parameter_bytes: the weights in the model's dtype; packed forms take as much.
        packed_head_bytes: a second form of the embedding table, where the head is tied to it and
            its kernel packs.
        table_bytes: rotary tables.
    """

    parameter_bytes: int
    packed_head_bytes: int
    table_bytes: int

    @property
    def total_bytes(self) -> int:
        """All together."""
        return self.parameter_bytes + self.packed_head_bytes + self.table_bytes


def weight_sizes(model: Model, table: OpTable | None = None) -> WeightSizes:
    """Sizes of a model as built: no weights need exist.

    Args:
        table: the ops that it will be bound to; None: kernels that do not pack.
    """
    dtype = model.options.dtype
    head = model.shared_head()
    packs = head is not None and table is not None and table.choose(head).pack is not None
    copied = head.shape[0] * head.shape[1] * dtype_bytes(dtype) if head and packs else 0
    return WeightSizes(
        parameter_bytes=sum(p.num_bytes(dtype) for p in model.parameters()),
        packed_head_bytes=copied,
        table_bytes=model.table_bytes(),
    )
