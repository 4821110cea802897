"""Every family's GGUF file against its safetensors: the same parameters, the same logits."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from tests.parity.families import FAMILIES, VOCAB_SIZE, Family
from tests.parity.gguf_files import ARCHITECTURES, write_gguf
from tests.parity.harness import Driver

from tupelo.checkpoint import FAMILIES as REGISTERED
from tupelo.checkpoint import Checkpoint, find_family, open_checkpoint
from tupelo.models import Model, build_model
from tupelo.weights import load_weights

ROUNDED = 1e-6
"""Gemma's norms went through ``+ 1`` in float32."""

_GIVEN: dict[str, dict[str, Any]] = {
    # What GGUF files cannot say, and llama.cpp takes to be as published.
    "gemma2": {"query_pre_attn_scalar": 32},
    "gemma3": {"query_pre_attn_scalar": 32},
    "cohere2": {"layer_types": None},
    "qwen2-moe": {"decoder_sparse_step": 1, "mlp_only_layers": []},
    "minicpm3": {"scale_emb": 12, "dim_model_base": 256},
    "minicpm3-longrope": {"scale_emb": 12, "dim_model_base": 256},
}
_LEFT_OUT = ("-full", "-upper-layers-windowed", "gemma3-capped", "-unnormed", "kimi-k2")
"""Cases that differ from others in nothing that a GGUF file says, or in what it cannot say."""

CASES = [
    replace(family, fields={**family.fields, **_GIVEN.get(family.id, {})})
    for family in FAMILIES
    if not family.id.endswith(_LEFT_OUT)
]


@pytest.mark.parametrize("family", CASES, ids=lambda family: family.id)
def test_a_gguf_file_is_the_same_model(family: Family, tmp_path: Path) -> None:
    family.save(tmp_path / "model")
    path = write_gguf(tmp_path / "model", family.architecture)
    expected, found = (_load(open_checkpoint(p)) for p in (tmp_path / "model", path))
    for one, other in zip(expected.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(other.data, one.data, atol=ROUNDED, rtol=0)
    draw = random.Random(3)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(n)] for n in family.lengths[::2]]
    runs = [
        Driver(model, page_size=16).generate(prompts, new_tokens=2) for model in (expected, found)
    ]
    for one, other in zip(*runs, strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(
            torch.cat(other.logits), torch.cat(one.logits), atol=1e-4, rtol=0
        )


def _load(checkpoint: Checkpoint) -> Model:
    model = build_model(checkpoint.config, max_length=128)
    load_weights(model, checkpoint, device="cpu", progress=False)
    return model


def test_every_family_has_a_case() -> None:
    assert {family.architecture for family in CASES} == set(REGISTERED) == set(ARCHITECTURES)
    for name in REGISTERED:
        form = find_family(name).gguf
        assert form is not None
        assert form.architecture == gguf.MODEL_ARCH_NAMES[ARCHITECTURES[name]]


def _case(family_id: str) -> Family:
    return next(family for family in CASES if family.id == family_id)


def test_latents_may_be_stored_whole(tmp_path: Path) -> None:
    family = _case("deepseek-v3")
    family.save(tmp_path / "model")
    split = open_checkpoint(write_gguf(tmp_path / "model", family.architecture))
    read = {name: tensor.array.copy() for name, tensor in split.iter_tensors()}
    whole = open_checkpoint(write_gguf(tmp_path / "model", family.architecture, whole_kv=True))
    assert set(whole.tensors) == set(read)
    for name, tensor in whole.iter_tensors():
        np.testing.assert_array_equal(tensor.array, read[name])


@pytest.mark.parametrize(
    ("family_id", "kind"),
    [("gpt-oss", GGMLQuantizationType.MXFP4), ("mixtral", GGMLQuantizationType.Q8_0)],
)
def test_quantised_experts_are_taken_apart(
    family_id: str, kind: GGMLQuantizationType, tmp_path: Path
) -> None:
    family = _case(family_id)
    family.save(tmp_path / "model")
    quantised = {r"_exps\.weight": kind}
    path = write_gguf(tmp_path / "model", family.architecture, quantised=quantised)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    checkpoint = open_checkpoint(path)
    names = checkpoint.config.layout
    for part, name in (
        ("gate", names.expert_gate),
        ("up", names.expert_up),
        ("down", names.expert_down),
    ):
        values = gguf.quants.dequantize(stored[f"blk.1.ffn_{part}_exps.weight"].data, kind)
        for expert in range(4):
            found = checkpoint.read(f"model.layers.1.{names.experts}.{expert}.{name}.weight")
            np.testing.assert_array_equal(found.array, values[expert])
    _load(checkpoint)
