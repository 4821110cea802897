"""Checkpoints that cannot be served: what is wrong is said, with what could be used instead.

Each is the same good checkpoint with one thing broken. Through ``generate`` in this process, for
speed; some through ``serve`` as well, where another process finds it out.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.system.tiny_model import write_letter_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tupelo import cli

UP = "model.layers.1.mlp.up_proj.weight"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Break = Callable[[Path], Any]


def config(**fields: Any) -> Break:
    def edit(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return edit


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Break:
    def edit(folder: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return edit


def file(name: str, content: bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content)


def without(*names: str) -> Break:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])


def one_shard_of_two(folder: Path) -> None:
    found = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(found, folder / SHARDS[0])
    places = {**dict.fromkeys(found, SHARDS[0]), "lm_head.weight": SHARDS[1]}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def gguf(folder: Path, architecture: str = "qwen22", size: int | None = None) -> None:
    from gguf import GGUFWriter

    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    path = folder / "model.gguf"
    writer = GGUFWriter(path, architecture)
    writer.add_tensor("token_embd.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.write_bytes(path.read_bytes()[:size])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 326664\n"

BROKEN: dict[str, tuple[Break, tuple[str, ...]]] = {
    "architecture": (
        config(architectures=["Qwen22ForCausalLM"], model_type="qwen22"),
        ("'Qwen22ForCausalLM' is not supported", "nearest supported one is Qwen2ForCausalLM"),
    ),
    "architecture that brings code": (
        config(
            architectures=["LamaForCausalLM"],
            model_type="lama",
            auto_map={"AutoModelForCausalLM": "modeling_lama.LamaForCausalLM"},
        ),
        ("'LamaForCausalLM' is not supported", "nearest supported one is LlamaForCausalLM"),
    ),
    "attention of its own": (
        config(architectures=["BloomForCausalLM"], model_type="bloom"),
        ("BloomForCausalLM does not attend through", "nearest supported architecture is"),
    ),
    "missing tensor": (tensors(lambda found: found.pop(UP)), ("lacks 1 tensor", UP)),
    "tensor too many": (
        tensors(lambda found: found.update({"model.layers.0.odd.weight": torch.zeros(3)})),
        ("model.layers.0.odd.weight", "does not fit its weights"),
    ),
    "wrong shape": (
        tensors(lambda found: found.update({UP: torch.zeros(41, 64)})),
        (UP, "[41, 64]", "[96, 64]"),
    ),
    "configuration of another size": (
        config(vocab_size=100),
        ("model.embed_tokens.weight", "says [100, 64]"),
    ),
    "whole numbers": (
        tensors(lambda found: found.update({UP: torch.zeros(96, 64, dtype=torch.int8)})),
        (UP, "int8", "bfloat16"),
    ),
    "no JSON": (file("config.json", b"{broken"), ("config.json is not valid JSON",)),
    "no configuration": (without("config.json"), ("config.json is missing",)),
    "a word for a number": (
        config(hidden_size="sixty"),
        ("hidden_size", "whole number", "'sixty'"),
    ),
    "heads that do not divide": (config(num_attention_heads=5), ("num_key_value_heads", "5 heads")),
    "no weights": (without("model.safetensors"), ("holds no weights", "safetensors")),
    "truncated weights": (cut, ("truncated", "download it again")),
    "a pointer to weights": (file("model.safetensors", POINTER), ("git lfs pull",)),
    "a missing shard": (one_shard_of_two, (SHARDS[1], "is missing")),
    "pickled weights": (pickled, ("pytorch_model.bin", "safetensors")),
    "unknown quantisation": (
        config(quantization_config={"quant_method": "magic"}),
        ("'magic' are not supported", "unquantised model or a GGUF file"),
    ),
    "unknown rope": (
        config(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}),
        ("'spiral' is not supported", "yarn"),
    ),
    "unknown activation": (config(hidden_act="relu6"), ("'relu6' is not supported", "silu")),
    "unknown type of numbers": (config(dtype="float7"), ("'float7'", "bfloat16")),
    "broken tokenizer": (file("tokenizer.json", b"{broken"), ("tokenizer.json cannot be read",)),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), ("no tokenizer",)),
    "GGUF of an unknown architecture": (gguf, ("'qwen22' is not supported", "qwen2")),
    "truncated GGUF": (lambda folder: gguf(folder, "llama", 300), ("truncated",)),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_letter_model(folder)
    LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).save_pretrained(folder)
    return folder


@pytest.fixture
def broken(good: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copied(name: str) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(good, folder)
        BROKEN[name][0](folder)
        return folder

    return copied


def check(name: str, code: int, errors: str) -> None:
    assert code == 2, errors
    assert "Traceback" not in errors
    assert all(part in errors for part in BROKEN[name][1]), errors


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said(
    name: str, broken: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["generate", "--model", str(broken(name)), "--prompt", "a"]
    code = cli.main([*argv, "--max-total-tokens", "64", "--max-new-tokens", "1"])
    check(name, code, capsys.readouterr().err)


def test_the_good_one_is_served(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["generate", "--model", str(good), "--prompt", "a"]
    code = cli.main([*argv, "--max-total-tokens", "64", "--max-new-tokens", "1"])
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["architecture", "missing tensor", "no tokenizer"])
def test_the_server_says_it_too(name: str, broken: Callable[[str], Path]) -> None:
    command = [sys.executable, "-m", "tupelo", "serve", str(broken(name)), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    check(name, done.returncode, done.stderr)
