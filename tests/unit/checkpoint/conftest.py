"""Builders of small files: safetensors by hand, GGUF through the ``gguf`` package's writer."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

WriteSafetensors = Callable[..., Path]
WriteGGUF = Callable[..., Path]


@pytest.fixture(scope="session")
def demo_reader(demo_gguf: Path) -> gguf.GGUFReader:
    """The reference's reading of the demo model; takes seconds."""
    return gguf.GGUFReader(demo_gguf)


def safetensors_bytes(
    tensors: dict[str, np.ndarray], dtypes: dict[str, str] | None = None
) -> bytes:
    """A file in the format's layout, written from its specification."""
    names = {
        np.dtype(k): v for k, v in ((np.float32, "F32"), (np.float16, "F16"), (np.int64, "I64"))
    }
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": (dtypes or {}).get(name) or names[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


@pytest.fixture(scope="session")
def llama_config() -> dict[str, Any]:
    """The smallest sensible ``config.json``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": 2,
    }


@pytest.fixture
def write_safetensors(tmp_path: Path) -> WriteSafetensors:
    """``write(tensors, name=..., dtypes=...)`` writes a file into the test's folder."""

    def write(
        tensors: dict[str, np.ndarray],
        name: str = "model.safetensors",
        dtypes: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        path.write_bytes(safetensors_bytes(tensors, dtypes))
        return path

    return write


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGGUF:
    """``write(arch, keys, tensors, name=...)`` writes a GGUF file into the test's folder.

    ``tensors`` maps names to float arrays or to (array of stored bytes, quantised type).
    """

    def write(
        arch: str,
        keys: dict[str, Any],
        tensors: dict[str, Any],
        name: str = "model.gguf",
    ) -> Path:
        path = tmp_path / name
        writer = gguf.GGUFWriter(path, arch)
        for key, value in keys.items():
            _add_key(writer, key, value)
        for tensor_name, value in tensors.items():
            if isinstance(value, tuple):
                writer.add_tensor(tensor_name, value[0], raw_dtype=value[1])
            else:
                writer.add_tensor(tensor_name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def llama_gguf_keys(arch: str = "llama", **changes: Any) -> dict[str, Any]:
    """Metadata of a tiny model of architecture ``arch``: 4 heads of 8, 2 K/V heads, 2 layers."""
    keys: dict[str, Any] = {
        "block_count": 2,
        "context_length": 128,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 10000.0,
        "rope.dimension_count": 8,
        "vocab_size": 64,
        **changes,
    }
    return {f"{arch}.{key}": value for key, value in keys.items()}


def llama_gguf_tensors(rng: np.random.Generator, *, layers: int = 2) -> dict[str, np.ndarray]:
    """Random float32 tensors to go with ``llama_gguf_keys``."""

    def values(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    tensors = {"token_embd.weight": values(64, 32), "output_norm.weight": values(32)}
    for i in range(layers):
        tensors |= {
            f"blk.{i}.attn_norm.weight": values(32),
            f"blk.{i}.attn_q.weight": values(32, 32),
            f"blk.{i}.attn_k.weight": values(16, 32),
            f"blk.{i}.attn_v.weight": values(16, 32),
            f"blk.{i}.attn_output.weight": values(32, 32),
            f"blk.{i}.ffn_norm.weight": values(32),
            f"blk.{i}.ffn_gate.weight": values(64, 32),
            f"blk.{i}.ffn_up.weight": values(64, 32),
            f"blk.{i}.ffn_down.weight": values(32, 64),
        }
    return tensors


@pytest.fixture(scope="session")
def gguf_keys() -> Callable[..., dict[str, Any]]:
    return llama_gguf_keys


@pytest.fixture
def gguf_tensors() -> dict[str, np.ndarray]:
    return llama_gguf_tensors(np.random.default_rng(0))
