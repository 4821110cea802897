"""Models without a family here, through transformers' modules: its logits and greedy tokens."""

import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.parity.families import VOCAB_SIZE, randomise
from tests.parity.harness import Driver
from tests.parity.test_parallel import ThreadRank
from transformers import PreTrainedModel

import tupelo_cpu
from tupelo.checkpoint import FAMILIES, open_checkpoint
from tupelo.engine import Engine
from tupelo.errors import ConfigError, UnsupportedModel
from tupelo.layers import Parallel
from tupelo.models import build_model
from tupelo.models.door import TransformersModel
from tupelo.weights import load_weights

TOLERANCE = 1e-4
_TINY: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MODELS: dict[str, dict[str, Any]] = {
    "OPTForCausalLM": {"ffn_dim": 96, "word_embed_proj_dim": 64, "do_layer_norm_before": True},
    "GPTNeoXForCausalLM": {"rotary_pct": 0.25},
    "StableLmForCausalLM": {"num_key_value_heads": 2, "partial_rotary_factor": 0.25},
    "SmolLM3ForCausalLM": {"num_key_value_heads": 2},
    "Ernie4_5ForCausalLM": {"num_key_value_heads": 2, "head_dim": 16},
    "Exaone4ForCausalLM": {
        "num_key_value_heads": 2, "sliding_window": 20, "sliding_window_pattern": 2,
    },
}  # fmt: skip


def _reference(architecture: str, fields: dict[str, Any]) -> PreTrainedModel:
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**{**_TINY, **fields})
    config._attn_implementation = "eager"
    model: PreTrainedModel = model_class(config).eval()
    randomise(model)
    return model


@pytest.mark.parametrize("chunk", [5, 0], ids=lambda n: f"chunk{n or 'whole'}")
@pytest.mark.parametrize("architecture", MODELS)
@torch.inference_mode()
def test_logits_and_greedy_tokens(architecture: str, chunk: int, tmp_path: Path) -> None:
    assert architecture not in FAMILIES, "it has a family now: test another one here"
    reference = _reference(architecture, MODELS[architecture])
    reference.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    model = build_model(checkpoint.config, max_length=128)
    assert isinstance(model, TransformersModel)
    load_weights(model, checkpoint, device="cpu", progress=False)
    draw = random.Random(5)
    prompts = [[draw.randrange(3, VOCAB_SIZE) for _ in range(n)] for n in (40, 1, 17)]
    for row in Driver(model, page_size=16).generate(prompts, new_tokens=8, chunk=chunk):
        expected = reference(torch.tensor([row.ids[:-1]])).logits[0].float()
        assert expected.std() > 0.1, "logits too small for the tolerance to mean anything"
        torch.testing.assert_close(torch.cat(row.logits), expected, atol=TOLERANCE, rtol=0)
        assert row.generated == expected[row.num_prompt - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize("architecture", ["BloomForCausalLM", "FalconForCausalLM"])
def test_models_beside_the_attention_interface_are_refused_by_name(
    architecture: str, tmp_path: Path
) -> None:
    fields = {"n_layer": 3, "n_head": 4} if architecture.startswith("Bloom") else {}
    _reference(architecture, fields).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=architecture):
        build_model(open_checkpoint(tmp_path).config)


def test_a_rope_that_depends_on_the_length_is_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    fields = {"num_key_value_heads": 2, "rope_parameters": rope}
    _reference("StableLmForCausalLM", fields).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="dynamic rope"):
        build_model(open_checkpoint(tmp_path).config)


def test_several_ranks_are_refused(tmp_path: Path) -> None:
    _reference("OPTForCausalLM", MODELS["OPTForCausalLM"]).save_pretrained(tmp_path)
    parallel = Parallel(ThreadRank(0, [None, None], threading.Barrier(1)))
    with pytest.raises(ConfigError, match="one rank"):
        build_model(open_checkpoint(tmp_path).config, parallel=parallel)


@torch.inference_mode()
def test_the_engine_batches_and_shares_prefixes(tmp_path: Path) -> None:
    reference = _reference("OPTForCausalLM", MODELS["OPTForCausalLM"])
    reference.save_pretrained(tmp_path)
    draw = random.Random(6)
    shared = [draw.randrange(3, VOCAB_SIZE) for _ in range(48)]
    prompts = [[*shared, *(draw.randrange(3, VOCAB_SIZE) for _ in range(n))] for n in (1, 9, 20)]
    params = {"temperature": 0, "max_new_tokens": 8, "ignore_eos": True}
    with Engine(
        model=str(tmp_path), backend=tupelo_cpu.backend(), dtype="float32", chunked_prefill_size=16
    ) as engine:
        replies = engine.generate(input_ids=prompts, sampling_params=params)
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = [*prompt, *reply["output_ids"]]
        expected = reference(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1].argmax(-1)
        assert reply["output_ids"] == expected.tolist()
    assert sum(reply["meta_info"]["cached_tokens"] for reply in replies) >= 2 * 48
