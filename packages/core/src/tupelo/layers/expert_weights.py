"""How the weights of a layer's experts are stored, and where they go: one tensor for all."""

from dataclasses import dataclass, replace

from tupelo.checkpoint import ExpertConfig
from tupelo.layers.parameter import Parameter, Source


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertNames:
    """Hugging Face's names.

    Attributes:
        experts: above the number of an expert. stacked: above ``gate_up_proj`` and ``down_proj``
            of all experts. parts: of an expert: gate, up, down.
    """

    experts: str
    stacked: str
    parts: tuple[str, str, str]


class ExpertWeights:
    """The parameters of one layer's experts, of which this rank holds ``rows`` of each.

    Published forms: a tensor for each expert and projection, or one over all experts, as
    transformers 5 may save them; and, where ``ExpertConfig.columns`` says so, one over all experts
    with its last axes the other way round, plain or in MXFP4.
    """

    def __init__(
        self, names: ExpertNames, config: ExpertConfig, hidden_size: int, rows: slice
    ) -> None:
        self._names = names
        self._config = config
        self._hidden = hidden_size
        self._rows = rows
        self._width = rows.stop - rows.start
        self._every = slice(0, config.num_experts)

    def gate_up(self) -> Parameter:
        """(num_experts, 2 * width, hidden_size), gate rows first."""
        config, columns, size = self._config, slice(0, self._hidden), self._config.intermediate_size
        shape = (config.num_experts, 2 * self._width, self._hidden)
        stacked = tuple(
            Source(
                name=f"{self._names.stacked}.gate_up_proj",
                shape=(config.num_experts, 2 * size, self._hidden),
                take=(self._every, rows, columns),
                place=(self._every, half, columns),
            )
            for rows, half in zip(self._stacked_rows(), self._halves(), strict=True)
        )
        if config.columns:
            return Parameter(
                shape=shape,
                sources=tuple(_transposed(source) for source in stacked),
                fused=tuple(_in_blocks(source) for source in stacked),
            )
        single = tuple(
            Source(
                name=f"{self._names.experts}.{expert}.{name}.weight",
                shape=(size, self._hidden),
                take=(self._rows, columns),
                place=(expert, half, columns),
            )
            for expert in range(config.num_experts)
            for name, half in zip(self._names.parts[:2], self._halves(), strict=True)
        )
        return Parameter(shape=shape, sources=single, fused=stacked)

    def down(self) -> Parameter:
        """(num_experts, hidden_size, width)."""
        config, size = self._config, self._config.intermediate_size
        outputs, held = slice(0, self._hidden), slice(0, self._width)
        shape = (config.num_experts, self._hidden, self._width)
        stacked = Source(
            name=f"{self._names.stacked}.down_proj",
            shape=(config.num_experts, self._hidden, size),
            take=(self._every, outputs, self._rows),
            place=(self._every, outputs, held),
        )
        if config.columns:
            return Parameter(
                shape=shape, sources=(_transposed(stacked),), fused=(_in_blocks(stacked),)
            )
        single = tuple(
            Source(
                name=f"{self._names.experts}.{expert}.{self._names.parts[2]}.weight",
                shape=(self._hidden, size),
                take=(outputs, self._rows),
                place=(expert, outputs, held),
            )
            for expert in range(config.num_experts)
        )
        return Parameter(shape=shape, sources=single, fused=(stacked,))

    def biases(self, *, first: bool) -> tuple[Parameter, Parameter]:
        """(num_experts, 2 * width) and (num_experts, hidden_size), always stored over all experts;
        the latter only on the ``first`` rank, since partial sums are added up."""
        config, size = self._config, self._config.intermediate_size
        name = self._names.stacked
        inner = (
            tuple(
                Source(
                    name=f"{name}.gate_up_proj_bias",
                    shape=(config.num_experts, 2 * size),
                    take=(self._every, rows),
                    place=(self._every, half),
                )
                for rows, half in zip(self._stacked_rows(), self._halves(), strict=True)
            )
            if config.columns
            else tuple(
                Source(
                    name=f"{name}.{part}_bias",
                    shape=(config.num_experts, size),
                    take=(self._every, self._rows),
                    place=(self._every, half),
                )
                for part, half in zip(self._names.parts[:2], self._halves(), strict=True)
            )
        )
        outputs = slice(0, self._hidden if first else 0)
        outer = Source(
            name=f"{name}.down_proj_bias",
            shape=(config.num_experts, self._hidden),
            take=(self._every, outputs),
            place=(self._every, outputs),
        )
        return (
            Parameter(shape=(config.num_experts, 2 * self._width), sources=inner),
            Parameter(shape=(config.num_experts, self._hidden), sources=(outer,)),
        )

    def _halves(self) -> tuple[slice, slice]:
        return slice(0, self._width), slice(self._width, 2 * self._width)

    def _stacked_rows(self) -> tuple[slice, slice]:
        """Where gate and up rows lie among those of one expert."""
        start, stop = self._rows.start, self._rows.stop
        if self._config.columns == "turns":
            return slice(2 * start, 2 * stop, 2), slice(2 * start + 1, 2 * stop, 2)
        size = self._config.intermediate_size
        return slice(start, stop), slice(start + size, stop + size)


def _transposed(source: Source) -> Source:
    experts, rows, columns = source.shape
    return replace(source, shape=(experts, columns, rows), transposed=True)


def _in_blocks(source: Source) -> Source:
    return replace(source, name=f"{source.name}_blocks")
