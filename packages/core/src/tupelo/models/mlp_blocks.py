"""The block after a layer's attention, as the configuration says: gated, plain, or of experts."""

from dataclasses import replace

from tupelo.checkpoint import ExpertConfig, ModelConfig
from tupelo.layers import (
    MLP,
    ExpertNames,
    GatedMLP,
    Linear,
    MoE,
    Parallel,
    Part,
    PlainMLP,
    whole,
)
from tupelo.models.rows import shifted


class MLPBlocks:
    """Makes the blocks of one model.

    Raises:
        ConfigError: the rows do not divide by the ranks.
        UnsupportedModel: an activation that no op computes.
    """

    def __init__(self, config: ModelConfig, parallel: Parallel) -> None:
        self._config = config
        self._parallel = parallel
        self._names = config.layout

    def block(self, layer: int, prefix: str) -> MLP:
        """The block after the attention of layer ``layer``, whose names begin with ``prefix``."""
        config, names = self._config, self._names
        if config.experts is not None and config.experts.layers[layer]:
            return self._moe(config.experts, prefix)
        if not config.gated_mlp:
            return self._plain(prefix)
        dense = (names.gate_up,) if names.gate_up else (names.gate, names.up)
        return self._gated(prefix, dense, names.down, config.intermediate_size)

    def _plain(self, prefix: str) -> PlainMLP:
        config, parallel, names = self._config, self._parallel, self._names
        size, bias, transposed = config.intermediate_size, config.mlp_bias, names.transposed
        rows = parallel.share(size, "rows of the MLP")
        up = Part(f"{prefix}.{names.up}", size, rows)
        hidden = config.hidden_size
        return PlainMLP(
            Linear.column([up], hidden, bias=bias, transposed=transposed),
            Linear.row(
                f"{prefix}.{names.down}",
                hidden,
                size,
                rows,
                parallel,
                bias=bias,
                transposed=transposed,
            ),
            config.hidden_act,
        )

    def _gated(self, prefix: str, inputs: tuple[str, ...], down: str, size: int) -> GatedMLP:
        """A gated MLP; ``inputs`` names gate and up, or the one tensor that holds both."""
        config, parallel = self._config, self._parallel
        rows = parallel.share(size, "rows of the MLP")
        if len(inputs) == 1:
            fused = f"{prefix}.{inputs[0]}"
            parts = [Part(fused, 2 * size, rows), Part(fused, 2 * size, shifted(rows, size))]
        else:
            parts = [Part(f"{prefix}.{name}", size, rows) for name in inputs]
        return GatedMLP(
            parts,
            f"{prefix}.{down}",
            config.hidden_size,
            size,
            config.hidden_act,
            parallel,
            bias=config.mlp_bias,
        )

    def _moe(self, experts: ExpertConfig, prefix: str) -> MoE:
        config, names, count = self._config, self._names, experts.num_experts
        hidden = config.hidden_size
        shared, gate, correction = None, None, None
        if experts.shared_size:
            inputs = (f"{names.shared}.gate_proj", f"{names.shared}.up_proj")
            shared = self._gated(prefix, inputs, f"{names.shared}.down_proj", experts.shared_size)
        if experts.shared_gated:
            gate = Linear(whole(f"{prefix}.{names.shared_gate}.weight", (1, hidden)))
        if experts.correction:
            correction = whole(f"{prefix}.{names.correction}", (count,), dtype="float32")
        router = whole(
            f"{prefix}.{names.router}.weight",
            (count, hidden),
            dtype="float32" if experts.wide_router else None,
        )
        router.fused = (replace(router.sources[0], name=f"{prefix}.{names.stacked_router}.weight"),)
        router_bias = whole(f"{prefix}.{names.router}.bias", (count,)) if experts.biased else None
        return MoE(
            experts,
            ExpertNames(
                experts=f"{prefix}.{names.experts}",
                stacked=f"{prefix}.{names.stacked_experts}",
                parts=(names.expert_gate, names.expert_up, names.expert_down),
            ),
            hidden,
            config.hidden_act,
            self._parallel,
            router=Linear(router, router_bias),
            correction=correction,
            shared=shared,
            shared_gate=gate,
        )
