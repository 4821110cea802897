"""The MLP of layers with experts: a router, experts of which a token passes a few, shared ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tupelo.checkpoint import ExpertConfig
from tupelo.layers.linear import Linear, bind_linear
from tupelo.layers.mlp import MLP, GatedMLP, activation_name
from tupelo.layers.parallel import Parallel
from tupelo.layers.parameter import Parameter, Source
from tupelo.ops import OpCall, OpTable


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


class MoE(MLP):
    """``sum of the chosen experts, weighed, + shared(x)``: this rank's partial sums.

    Every rank holds a share of each expert's rows.

    Args:
        router: (num_experts, hidden_size). correction: (num_experts,) float32, or None.
        shared: the MLP that every token passes, or None. shared_gate: (1, hidden_size), or None.

    Raises:
        UnsupportedModel: an activation that no op computes.
        ConfigError: the intermediate size does not divide by the ranks.
    """

    def __init__(
        self,
        config: ExpertConfig,
        names: ExpertNames,
        hidden_size: int,
        activation: str,
        parallel: Parallel,
        *,
        router: Linear,
        correction: Parameter | None = None,
        shared: GatedMLP | None = None,
        shared_gate: Linear | None = None,
    ) -> None:
        self._config = config
        self._activation = activation_name(activation)
        self._hidden_size = hidden_size
        rows = parallel.share(config.intermediate_size, "rows of an expert")
        self._gate_up = _stacked(names, config, hidden_size, rows)
        self._down = _down(names, config, hidden_size, rows)
        self._router = router
        self._correction = correction
        self._shared = shared
        self._shared_gate = shared_gate

    def parameters(self) -> Iterator[Parameter]:
        yield from self._router.parameters()
        if self._correction is not None:
            yield self._correction
        yield from (self._gate_up, self._down)
        if self._shared is not None:
            yield from self._shared.parameters()
        if self._shared_gate is not None:
            yield from self._shared_gate.parameters()

    def bind(self, table: OpTable, dtype: str) -> None:
        config = self._config
        router_dtype = "float32" if config.wide_router else dtype
        self._score = bind_linear(table, router_dtype, self._router)
        route = OpCall(
            op="moe_route",
            dtype=router_dtype,
            shape=(config.num_experts, config.top_k),
            statics=(("scoring", config.scoring),),
        )
        self._route = partial(
            table.bind(route),
            top_k=config.top_k,
            renormalize=config.renormalize,
            scoring=config.scoring,
            bias=None if self._correction is None else self._correction.data,
            num_groups=config.num_groups,
            top_groups=config.top_groups,
            group_top=config.group_top,
            scale=config.scale,
        )
        width = self._down.shape[2]
        call = OpCall(
            op="moe_experts",
            dtype=dtype,
            shape=(config.num_experts, config.top_k, self._hidden_size, width),
            statics=(("activation", self._activation),),
        )
        self._run = table.bind(call)
        self._weights = (self._gate_up.data, self._down.data)
        if self._shared is not None:
            self._shared.bind(table, dtype)
        if self._shared_gate is not None:
            self._weigh = bind_linear(table, dtype, self._shared_gate)

    def forward(self, x: Tensor) -> Tensor:
        scored = x.float() if self._config.wide_router else x
        weights, experts = self._route(self._score(scored))
        out: Tensor = self._run(x, weights, experts, self._activation, *self._weights)
        if self._shared is None:
            return out
        shared = self._shared.forward(x)
        if self._shared_gate is not None:
            shared = shared * torch.sigmoid(self._weigh(x))
        return out + shared


def _stacked(names: ExpertNames, config: ExpertConfig, hidden_size: int, rows: slice) -> Parameter:
    """(num_experts, 2 * rows, hidden_size), gate rows first."""
    size, width = config.intermediate_size, rows.stop - rows.start
    columns = slice(0, hidden_size)
    halves = (slice(0, width), slice(width, 2 * width))
    single = [
        Source(
            name=f"{names.experts}.{expert}.{name}.weight",
            shape=(size, hidden_size),
            take=(rows, columns),
            place=(expert, half, columns),
        )
        for expert in range(config.num_experts)
        for name, half in zip(names.parts[:2], halves, strict=True)
    ]
    every = slice(0, config.num_experts)
    fused = [
        Source(
            name=f"{names.stacked}.gate_up_proj",
            shape=(config.num_experts, 2 * size, hidden_size),
            take=(every, slice(rows.start + start, rows.stop + start), columns),
            place=(every, half, columns),
        )
        for start, half in zip((0, size), halves, strict=True)
    ]
    return _experts((config.num_experts, 2 * width, hidden_size), single, fused)


def _down(names: ExpertNames, config: ExpertConfig, hidden_size: int, rows: slice) -> Parameter:
    """(num_experts, hidden_size, rows)."""
    size, width = config.intermediate_size, rows.stop - rows.start
    outputs, held = slice(0, hidden_size), slice(0, width)
    single = [
        Source(
            name=f"{names.experts}.{expert}.{names.parts[2]}.weight",
            shape=(hidden_size, size),
            take=(outputs, rows),
            place=(expert, outputs, held),
        )
        for expert in range(config.num_experts)
    ]
    every = slice(0, config.num_experts)
    fused = Source(
        name=f"{names.stacked}.down_proj",
        shape=(config.num_experts, hidden_size, size),
        take=(every, outputs, rows),
        place=(every, outputs, held),
    )
    return _experts((config.num_experts, hidden_size, width), single, [fused])


def _experts(
    shape: tuple[int, int, int], single: Sequence[Source], fused: Sequence[Source]
) -> Parameter:
    return Parameter(shape=shape, sources=tuple(single), fused=tuple(fused))
