"""``open_checkpoint`` on folders as transformers writes them, and on those that it must refuse."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tupelo.checkpoint import Checkpoint, open_checkpoint
from tupelo.errors import CheckpointError, UnsupportedModel

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES)),
}


def as_torch(tensor: Any) -> torch.Tensor:
    if tensor.dtype == "bfloat16":
        return torch.from_numpy(tensor.array.copy()).view(torch.bfloat16)
    return torch.from_numpy(tensor.array.copy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_folder_saved_by_transformers(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype)
    model.save_pretrained(tmp_path, max_shard_size="20KB" if name == "llama" else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == (name == "llama")

    checkpoint = open_checkpoint(tmp_path)

    expected = model.state_dict()
    if checkpoint.config.tie_word_embeddings:
        del expected["lm_head.weight"]
    assert set(checkpoint.tensors) == set(expected)
    for tensor_name, tensor in checkpoint.iter_tensors():
        assert torch.equal(as_torch(tensor), expected[tensor_name])
    assert checkpoint.format == "safetensors"
    assert checkpoint.config.architecture == type(model).__name__
    assert checkpoint.config.dtype == str(dtype).removeprefix("torch.")
    assert checkpoint.weight_bytes("float32") == 4 * model.num_parameters()
    assert not checkpoint.needs_remote_code


@pytest.fixture
def folder(
    tmp_path: Path, llama_config: dict[str, Any], write_safetensors: Callable[..., Path]
) -> Path:
    """A folder with a configuration and two tensors."""
    (tmp_path / "config.json").write_text(json.dumps(llama_config))
    embedding = np.arange(64 * 32, dtype=np.float32).reshape(64, 32)
    write_safetensors({"model.embed_tokens.weight": embedding, "b": np.ones(3, np.float16)})
    return tmp_path


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def test_only_the_tensors_asked_for_come_in_file_order(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    names = list(checkpoint.tensors)
    assert [name for name, _ in checkpoint.iter_tensors(names[::-1])] == names
    assert [name for name, _ in checkpoint.iter_tensors(["b", "b"])] == ["b"]
    with pytest.raises(CheckpointError, match="'absent'"):
        next(checkpoint.iter_tensors(["absent"]))


def test_authors_generation_defaults(folder: Path) -> None:
    values = {
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "repetition_penalty": 1.05,
        "eos_token_id": [7, 2],
        "do_sample": True,
    }
    write_json(folder / "generation_config.json", values)
    checkpoint = open_checkpoint(folder)
    generation = checkpoint.generation
    assert (generation.temperature, generation.top_p, generation.top_k) == (0.6, 0.9, 20)
    assert (generation.min_p, generation.repetition_penalty) == (None, 1.05)
    assert checkpoint.config.eos_token_ids == (2, 7)


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -1},
        {"top_p": 1.5},
        {"top_k": 2.5},
        {"min_p": "0"},
        {"repetition_penalty": 0},
        {"eos_token_id": [1.0]},
    ],
    ids=lambda values: next(iter(values)),
)
def test_nonsense_generation_defaults_are_refused_by_name(
    values: dict[str, Any], folder: Path
) -> None:
    write_json(folder / "generation_config.json", values)
    with pytest.raises(CheckpointError, match=next(iter(values))):
        open_checkpoint(folder)


def test_dtype_of_a_silent_configuration_is_that_of_most_weights(
    folder: Path, write_safetensors: Callable[..., Path]
) -> None:
    assert open_checkpoint(folder).config.dtype == "float32"
    half = np.zeros((9, 9), np.float16)
    write_safetensors({"a": half, "b": np.zeros(3, np.float32)}, dtypes={"a": "BF16"})
    assert open_checkpoint(folder).config.dtype == "bfloat16"


def test_computed_buffers_and_a_tied_head_do_not_count(
    folder: Path, llama_config: dict[str, Any], write_safetensors: Callable[..., Path]
) -> None:
    write_json(folder / "config.json", {**llama_config, "tie_word_embeddings": True})
    weights = {
        "model.embed_tokens.weight": np.zeros((64, 32), np.float32),
        "lm_head.weight": np.zeros((64, 32), np.float32),
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32),
    }
    write_safetensors(weights)
    checkpoint = open_checkpoint(folder)
    assert set(checkpoint.tensors) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert checkpoint.weight_bytes("bfloat16") == 64 * 32 * 2


def test_layers_that_predict_further_tokens_are_left_out(
    folder: Path, llama_config: dict[str, Any], write_safetensors: Callable[..., Path]
) -> None:
    """As DeepSeek-V3 and GLM-4.5 are published: one layer more than ``num_hidden_layers``."""
    last, further = (llama_config["num_hidden_layers"] + n for n in (-1, 0))
    names = [f"model.layers.{last}.a.weight", f"model.layers.{further}0.a.weight"]
    extra = [f"model.layers.{further}.{part}.weight" for part in ("eh_proj", "self_attn.q_proj")]
    write_safetensors({name: np.zeros((2, 2), np.float32) for name in [*names, *extra]})
    assert set(open_checkpoint(folder).tensors) == {*names, *extra}
    write_json(folder / "config.json", {**llama_config, "num_nextn_predict_layers": 1})
    assert set(open_checkpoint(folder).tensors) == set(names)


def test_tokenizer_path(folder: Path) -> None:
    assert open_checkpoint(folder).tokenizer_path is None
    write_json(folder / "tokenizer.json", {})
    assert open_checkpoint(folder).tokenizer_path == folder


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_pickled_weights_are_refused_and_never_run(suffix: str, folder: Path) -> None:
    marker = folder / "ran"
    (folder / "model.safetensors").unlink()
    # Protocol 0 by hand: calling open(marker, "w") when it is loaded.
    gadget = f"cbuiltins\nopen\n(V{marker}\nVw\ntR.".encode()
    (folder / f"pytorch_model{suffix}").write_bytes(gadget)
    with pytest.raises(CheckpointError, match="pickled"):
        open_checkpoint(folder)
    assert not marker.exists()


def test_pickles_beside_safetensors_are_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert open_checkpoint(folder).format == "safetensors"


@pytest.mark.parametrize(
    ("file", "extra"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}),
        ("config.json", {"sub": [{"auto_map": {"AutoModel": "evil.Model"}}]}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "evil.Processor"}}),
    ],
    ids=["config", "nested", "tokenizer", "processor"],
)
def test_code_of_the_model_is_noted_and_never_imported(
    file: str, extra: dict[str, Any], folder: Path, llama_config: dict[str, Any]
) -> None:
    marker = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    write_json(folder / file, {**(llama_config if file == "config.json" else {}), **extra})
    checkpoint = open_checkpoint(folder)
    dict(checkpoint.iter_tensors())
    assert checkpoint.needs_remote_code
    assert not marker.exists()


def test_digest_changes_with_every_part(
    folder: Path, llama_config: dict[str, Any], write_safetensors: Callable[..., Path]
) -> None:
    digests = [open_checkpoint(folder).files_digest]
    assert open_checkpoint(folder).files_digest == digests[0]
    write_json(folder / "config.json", {**llama_config, "rope_theta": 5.0})
    digests.append(open_checkpoint(folder).files_digest)
    write_json(folder / "tokenizer.json", {})
    digests.append(open_checkpoint(folder).files_digest)
    embedding = np.zeros((64, 32), np.float32)
    write_safetensors({"model.embed_tokens.weight": embedding, "b": np.ones(3, np.float16)})
    digests.append(open_checkpoint(folder).files_digest)
    assert len(set(digests)) == len(digests)


def gguf_checkpoint(
    folder: Path, write: Callable[..., Path], keys: dict[str, Any], tensors: dict[str, Any]
) -> Checkpoint:
    write("llama", keys, tensors, name="model.gguf")
    return open_checkpoint(folder)


def test_folder_with_one_gguf_file(
    tmp_path: Path,
    write_gguf: Callable[..., Path],
    gguf_keys: Callable[..., dict[str, Any]],
    gguf_tensors: dict[str, np.ndarray],
) -> None:
    keys = {**gguf_keys(), "tokenizer.ggml.model": "gpt2"}
    checkpoint = gguf_checkpoint(tmp_path, write_gguf, keys, gguf_tensors)
    assert (checkpoint.format, checkpoint.path) == ("gguf", tmp_path / "model.gguf")
    assert checkpoint.tokenizer_path == checkpoint.path
    total = sum(array.size for array in gguf_tensors.values())
    assert checkpoint.weight_bytes("float32") == 4 * total
    assert len(checkpoint.files_digest) == 64

    write_gguf("llama", keys, gguf_tensors, name="other.gguf")
    with pytest.raises(CheckpointError, match=r"2 GGUF models.*model\.gguf, other\.gguf"):
        open_checkpoint(tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        tmp_path / "absent": "does not exist",
        tmp_path / "empty": "no weights",
        folder / "model.safetensors": "pass the folder",
    }
    for path, message in cases.items():
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        (b"", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[]", "JSON object"),
        (b"{}", "architectures"),
    ],
    ids=["absent", "empty", "deep", "digits", "utf16", "list", "bare"],
)
def test_broken_configuration_is_refused(content: bytes | None, message: str, folder: Path) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_configuration_that_is_no_regular_file_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no regular file"):
        open_checkpoint(folder)


def test_shards_without_an_index_are_refused(
    folder: Path, write_safetensors: Callable[..., Path]
) -> None:
    (folder / "model.safetensors").unlink()
    for part in (1, 2):
        write_safetensors({"a": np.zeros(1, np.float32)}, f"model-0000{part}-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json"):
        open_checkpoint(folder)


def test_unsupported_architecture(folder: Path, llama_config: dict[str, Any]) -> None:
    write_json(folder / "config.json", {**llama_config, "architectures": ["LlamaForCausaLM"]})
    with pytest.raises(UnsupportedModel, match="nearest supported one is LlamaForCausalLM"):
        open_checkpoint(folder)


def test_the_package_imports_no_torch() -> None:
    code = "import sys, tupelo.checkpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
