"""Architectures to models: core's own, other distributions', and unknown ones."""

from importlib.metadata import EntryPoint

import pytest
from tests.unit.weights.tiny import LLAMA

from tupelo.checkpoint import parse_hf_config
from tupelo.errors import UnsupportedModel
from tupelo.models import ENTRY_POINT_GROUP, MODELS, build_model, find_model
from tupelo.models.qwen2 import Qwen2


def _point(name: str) -> EntryPoint:
    return EntryPoint(name, "tupelo.models.qwen2:Qwen2", ENTRY_POINT_GROUP)


@pytest.mark.parametrize("architecture", MODELS)
def test_each_name_leads_to_its_own_class(architecture: str) -> None:
    factory = find_model(architecture)
    assert architecture == f"{getattr(factory, '__name__', '')}ForCausalLM"


def test_another_distributions_model_is_found() -> None:
    assert find_model("NewForCausalLM", points=[_point("NewForCausalLM")]) is Qwen2


def test_cores_names_cannot_be_taken() -> None:
    assert find_model("LlamaForCausalLM", points=[_point("LlamaForCausalLM")]) is not Qwen2


def test_an_unknown_architecture_is_named_with_what_there_is() -> None:
    with pytest.raises(UnsupportedModel, match=r"'Nope'.*LlamaForCausalLM.*ThirdParty"):
        find_model("Nope", points=[_point("ThirdParty")])


def test_an_activation_without_op_is_named() -> None:
    config = parse_hf_config({**LLAMA, "hidden_act": "relu"})
    with pytest.raises(UnsupportedModel, match="'relu'"):
        build_model(config)
