"""The MLP of layers with experts: a router, experts of which a token passes a few, shared ones."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from tupelo.checkpoint import ExpertConfig
from tupelo.layers.expert_weights import ExpertNames, ExpertWeights
from tupelo.layers.linear import Linear, bind_linear
from tupelo.layers.mlp import MLP, GatedMLP, activation_name
from tupelo.layers.parallel import Parallel
from tupelo.layers.parameter import Parameter
from tupelo.ops import OpCall, OpTable


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
        self._activation = config.activation or activation_name(activation)
        self._hidden_size = hidden_size
        rows = parallel.share(config.intermediate_size, "rows of an expert")
        held = ExpertWeights(names, config, hidden_size, rows)
        self._gate_up, self._down = held.gate_up(), held.down()
        self._biases = held.biases(first=parallel.rank == 0) if config.biased else ()
        self._router = router
        self._correction = correction
        self._shared = shared
        self._shared_gate = shared_gate

    def parameters(self) -> Iterator[Parameter]:
        yield from self._router.parameters()
        if self._correction is not None:
            yield self._correction
        yield from (self._gate_up, self._down, *self._biases)
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
            shape=(
                config.num_experts,
                1 if config.weigh_input else config.top_k,
                self._hidden_size,
                width,
            ),
            statics=(("activation", self._activation),),
        )
        self._run = table.bind(call)
        self._weights = tuple(p.data for p in (self._gate_up, self._down, *self._biases))
        if self._shared is not None:
            self._shared.bind(table, dtype)
        if self._shared_gate is not None:
            self._weigh = bind_linear(table, dtype, self._shared_gate)

    def forward(self, x: Tensor) -> Tensor:
        scored = x.float() if self._config.wide_router else x
        weights, experts = self._route(self._score(scored))
        out = self._mixed(x, weights, experts)
        if self._shared is None:
            return out
        shared = self._shared.forward(x)
        if self._shared_gate is not None:
            shared = shared * torch.sigmoid(self._weigh(x))
        return out + shared

    def _mixed(self, x: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """What the chosen experts make of ``x``, weighed."""
        if not self._config.weigh_input:
            out: Tensor = self._run(x, weights, experts, self._activation, *self._weights)
            return out
        # Each choice is a token of its own, weighed before its expert and passed on whole.
        choices = (x.unsqueeze(1) * weights.unsqueeze(-1)).to(x.dtype).flatten(0, 1)
        one, ids = torch.ones_like(weights).view(-1, 1), experts.view(-1, 1)
        run = self._run(choices, one, ids, self._activation, *self._weights)
        total: Tensor = run.view(*experts.shape, -1).sum(1)
        return total
