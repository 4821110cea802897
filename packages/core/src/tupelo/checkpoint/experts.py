"""What a configuration says of its experts."""

from collections.abc import Callable
from dataclasses import dataclass

from tupelo.checkpoint.fields import Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertConfig:
    """The mixture of experts of a model; see ``tupelo.ops.moe.moe_route`` for how they are chosen.

    Attributes:
        layers: (num_layers,) whether each has experts; others have a plain MLP.
        num_experts: of a layer. top_k: that a token passes.
        intermediate_size: of one expert.
        renormalize, scoring, num_groups, top_groups, group_top, scale: as in ``moe_route``.
        weigh_input: an expert's weight multiplies what it reads, not what it writes.
        correction: a bias is added to the scores for the choice alone.
        wide_router: scores are computed in float32.
        activation: the op's name where experts have one of their own; "" for the model's.
        biased: router and experts have biases.
        columns: where all experts of a layer are always stored as one tensor, (num_experts, inputs,
            outputs): "halves" if gate comes before up there, "turns" if they take turns; "" where
            each has tensors of its own.
        shared_size: intermediate size of the MLP that every token passes; 0: there is none.
        shared_gated: its output is weighed by the sigmoid of a product of its own.
    """

    layers: tuple[bool, ...]
    num_experts: int
    top_k: int
    intermediate_size: int
    renormalize: bool = True
    scoring: str = "softmax"
    num_groups: int = 1
    top_groups: int = 1
    group_top: int = 1
    scale: float = 1.0
    weigh_input: bool = False
    correction: bool = False
    wide_router: bool = False
    activation: str = ""
    biased: bool = False
    columns: str = ""
    shared_size: int = 0
    shared_gated: bool = False


def expert_layers(num_layers: int, has: Callable[[int], bool]) -> tuple[bool, ...]:
    """``ExpertConfig.layers`` by a rule."""
    return tuple(has(layer) for layer in range(num_layers))


def check_experts(
    experts: ExpertConfig, fields: Fields, top_k: str = "num_experts_per_tok"
) -> None:
    """What must hold between the numbers.

    Raises:
        CheckpointError: names the field.
    """
    if experts.top_k > experts.num_experts:
        raise fields.error(top_k, f"at most the {experts.num_experts} experts")
    if experts.num_experts % experts.num_groups:
        raise fields.error("n_group", f"a divisor of the {experts.num_experts} experts")
    if experts.top_groups > experts.num_groups:
        raise fields.error("topk_group", f"at most the {experts.num_groups} groups")
    size = experts.num_experts // experts.num_groups
    if experts.top_k > experts.top_groups * size:
        raise fields.error(top_k, f"at most the {experts.top_groups * size} experts of open groups")
    if experts.group_top > size:
        raise fields.error("n_group", f"such that groups have at least {experts.group_top} experts")
