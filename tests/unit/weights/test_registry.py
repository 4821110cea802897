"""Architectures to models: core's own, other distributions', and unknown ones."""

from importlib.metadata import EntryPoint

import pytest
from tests.unit.weights.tiny import LLAMA

from tupelo.checkpoint import FAMILIES, Family, find_family, parse_hf_config
from tupelo.checkpoint.families import ENTRY_POINT_GROUP
from tupelo.errors import UnsupportedModel
from tupelo.models import build_model, find_model

NEW = Family(
    model_type="new",
    defaults={},
    refine=lambda fields, base: {"attention_bias": fields.flag("bias", False)},
)
"""What another distribution might bring."""

NO_FAMILY = object()


def _point(name: str, value: str = "NEW") -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{value}", ENTRY_POINT_GROUP)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_each_name_leads_to_a_model(architecture: str) -> None:
    factory = find_model(architecture)
    assert callable(getattr(factory, "forward", None))


def test_another_distributions_family_is_found() -> None:
    assert find_family("NewForCausalLM", points=[_point("NewForCausalLM")]) is NEW


def test_cores_names_cannot_be_taken() -> None:
    assert find_family("LlamaForCausalLM", points=[_point("LlamaForCausalLM")]) is not NEW


def test_an_entry_point_that_is_no_family_is_named() -> None:
    with pytest.raises(UnsupportedModel, match="NO_FAMILY"):
        find_family("Odd", points=[_point("Odd", "NO_FAMILY")])


def test_an_unknown_architecture_is_named_with_what_there_is() -> None:
    with pytest.raises(UnsupportedModel, match=r"'Nope'.*LlamaForCausalLM.*ThirdParty"):
        find_family("Nope", points=[_point("ThirdParty")])


def test_an_activation_without_op_is_named() -> None:
    config = parse_hf_config({**LLAMA, "hidden_act": "relu"})
    with pytest.raises(UnsupportedModel, match="'relu'"):
        build_model(config)
