"""A family that another package brings: found by the metadata of its installation, and computed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.installed import install
from tests.parity.families import VOCAB_SIZE, Family

import tupelo_cpu
from tupelo.checkpoint import find_family
from tupelo.engine import Engine
from tupelo.errors import UnsupportedModel

SAMPLE = Path(__file__).resolve().parents[2] / "examples" / "sample-model"
RENAMED = {
    "model.embed_tokens": "words",
    "model.norm": "last_norm",
    "model.layers": "blocks",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.out",
    "self_attn.q_norm": "attention.query_norm",
    "self_attn.k_norm": "attention.key_norm",
    "post_attention_layernorm": "mlp_norm",
    "input_layernorm": "attention_norm",
}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package and its metadata, as an installer leaves them in a folder of packages."""
    install(SAMPLE, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def save(folder: Path) -> torch.nn.Module:
    """A Qwen3 of transformers under the names of the sample; the reference."""
    fields = {"width": 64, "depth": 3, "normed_heads": True, "model_type": "sample"}
    family = Family(
        "sample", "SampleForCausalLM", {"head_dim": 32}, base="Qwen3ForCausalLM", renamed=fields
    )
    reference = family.save(folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    assert (config.pop("hidden_size"), config.pop("num_hidden_layers")) == (64, 3)
    file.write_text(json.dumps(config))
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        for old, new in RENAMED.items():
            name = name.replace(old, new)
        tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors")
    return reference


@pytest.mark.usefixtures("installed")
def test_its_checkpoints_are_served(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    reference = save(folder)
    generator = torch.Generator().manual_seed(9)
    prompt = torch.randint(3, VOCAB_SIZE, (30,), generator=generator).tolist()
    params = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
    with Engine(model=str(folder), backend=tupelo_cpu.backend(), dtype="float32") as engine:
        reply = engine.generate(input_ids=prompt, sampling_params=params)
        assert engine.info.architecture == "SampleForCausalLM"
    ids = [*prompt, *reply["output_ids"]]
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].argmax(-1)
    assert reply["output_ids"] == expected.tolist()


def test_without_the_package_it_is_unknown() -> None:
    with pytest.raises(UnsupportedModel, match="'SampleForCausalLM' is not supported"):
        find_family("SampleForCausalLM", model_type="sample")


@pytest.mark.usefixtures("installed")
def test_an_unknown_one_is_told_of_it() -> None:
    with pytest.raises(UnsupportedModel, match=r"nearest supported one is SampleForCausalLM"):
        find_family("SimpleForCausalLM", model_type="simple")
