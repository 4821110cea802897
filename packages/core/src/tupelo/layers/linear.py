"""Linear layers: fused, split over ranks, and handed to ops as ``LinearWeight``."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tupelo.layers.parallel import Parallel
from tupelo.layers.parameter import Parameter, Source
from tupelo.ops import LinearWeight, OpCall, OpTable


@dataclass(frozen=True, slots=True)
class Part:
    """One projection within a fused linear layer.

    Attributes:
        name: Hugging Face's, without ``.weight``.
        out_features: of the whole projection.
        rows: the outputs that this rank computes; of a fused tensor, those of this projection.
        paired: as in ``Source``.
    """

    name: str
    out_features: int
    rows: slice
    paired: tuple[int, int, int] | None = None


class Linear:
    """``y = x @ weight.T + bias`` on this rank.

    Owns its parameters. It binds nothing itself: layers fuse it with what stands before or after,
    and pass ``weight()`` to the op that does.
    """

    def __init__(self, weight: Parameter, bias: Parameter | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self._weight = weight
        self._bias = bias
        self._record: LinearWeight | None = None

    @classmethod
    def column(
        cls, parts: Sequence[Part], in_features: int, *, bias: bool, transposed: bool = False
    ) -> "Linear":
        """Projections of one input, stacked; each rank computes some outputs of each.

        ``transposed``: the weights are stored as (in_features, out_features).
        """
        weights, biases, end = [], [], 0
        for part in parts:
            start, end = end, end + part.rows.stop - part.rows.start
            weights.append(
                Source(
                    name=f"{part.name}.weight",
                    shape=_stored((part.out_features, in_features), transposed),
                    take=(part.rows, slice(0, in_features)),
                    place=(slice(start, end), slice(0, in_features)),
                    paired=part.paired,
                    transposed=transposed,
                )
            )
            biases.append(
                Source(
                    name=f"{part.name}.bias",
                    shape=(part.out_features,),
                    take=(part.rows,),
                    place=(slice(start, end),),
                    paired=part.paired,
                )
            )
        weight = Parameter(shape=(end, in_features), sources=tuple(weights))
        return cls(weight, Parameter(shape=(end,), sources=tuple(biases)) if bias else None)

    @classmethod
    def row(
        cls,
        name: str,
        out_features: int,
        in_features: int,
        columns: slice,
        parallel: Parallel,
        *,
        bias: bool,
        transposed: bool = False,
    ) -> "Linear":
        """A projection whose input is split: this rank's output is a partial sum.

        Args:
            columns: the inputs that this rank holds. The bias is added by rank 0 alone.
        """
        width = columns.stop - columns.start
        source = Source(
            name=f"{name}.weight",
            shape=_stored((out_features, in_features), transposed),
            take=(slice(0, out_features), columns),
            place=(slice(0, out_features), slice(0, width)),
            transposed=transposed,
        )
        weight = Parameter(shape=(out_features, width), sources=(source,))
        if not bias:
            return cls(weight)
        held = slice(0, out_features if parallel.rank == 0 else 0)
        only = Source(name=f"{name}.bias", shape=(out_features,), take=(held,), place=(held,))
        return cls(weight, Parameter(shape=(out_features,), sources=(only,)))

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features) on this rank, as ``OpCall.shape`` has it."""
        return self.out_features, self.in_features

    @property
    def device(self) -> torch.device:
        """Where the loaded weight is."""
        return self._weight.data.device

    def parameters(self) -> Iterator[Parameter]:
        """Weight, then bias where there is one."""
        yield self._weight
        if self._bias is not None:
            yield self._bias

    def weight(self) -> LinearWeight:
        """The loaded weights as ops take them; always the same record."""
        if self._record is None:
            self._record = LinearWeight(
                self.out_features,
                self.in_features,
                {"weight": self._weight.data},
                bias=None if self._bias is None else self._bias.data,
            )
        return self._record

    def release(self) -> None:
        """Let go of the plain weight where every op bound so far uses a packed form of it."""
        assert self._record is not None
        self._record.release()
        if not self._record.tensors:
            self._weight.tensor = None


def bind_linear(table: OpTable, dtype: str, linear: Linear) -> Callable[[Tensor], Tensor]:
    """The product alone; its plain weight is dropped where the kernel packs."""
    call = OpCall(op="linear", dtype=dtype, shape=linear.shape)
    bound: Callable[[Tensor], Tensor] = table.bind(call, weights={"weight": linear.weight()})
    linear.release()
    return bound


def _stored(shape: tuple[int, int], transposed: bool) -> tuple[int, int]:
    return shape[::-1] if transposed else shape
