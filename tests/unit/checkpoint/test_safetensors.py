"""Headers of safetensors files: good ones against the reference writer, broken ones refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tupelo.checkpoint.safetensors import (
    INDEX_NAME,
    read_safetensors_header,
    read_sharded_headers,
)
from tupelo.checkpoint.tensors import map_tensor
from tupelo.errors import CheckpointError, UnsupportedModel

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "int64": torch.int64,
    "int32": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_equal_those_that_the_reference_wrote(dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "matrix": (torch.randn(5, 7) * 3).to(DTYPES[dtype]),
        "scalar": torch.tensor(1.0).to(DTYPES[dtype]),
        "empty": torch.zeros(0, 3).to(DTYPES[dtype]),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})

    infos = read_safetensors_header(path)

    assert set(infos) == set(tensors)
    for name, expected in tensors.items():
        read = map_tensor(infos[name])
        assert (read.dtype, read.array.shape) == (dtype, tuple(expected.shape))
        raw = expected.reshape(-1).view(torch.uint8)
        assert read.array.tobytes() == bytes(raw.tolist())
        assert not read.array.flags.writeable or read.array.size == 0


def header_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": list(shape) if isinstance(shape, tuple) else shape,
        "data_offsets": list(offsets) if isinstance(offsets, tuple) else offsets,
    }


BROKEN = {
    "empty": b"",
    "short": b"\x08\0\0",
    "huge-header": struct.pack("<Q", 2**63) + b"{}",
    "header-past-end": struct.pack("<Q", 100) + b"{}",
    "not-json": header_bytes(b"{nope"),
    "not-utf8": header_bytes(b'{"\xff": 1}'),
    "not-object": header_bytes([1]),
    "deep": header_bytes(b'{"a":' * 100_000),
    "entry-not-object": header_bytes({"a": 3}),
    "no-dtype": header_bytes({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4),
    "dtype-not-text": header_bytes({"a": entry(dtype=[1])}, b"\0" * 4),
    "unknown-dtype": header_bytes({"a": entry(dtype="F4")}, b"\0" * 4),
    "shape-not-list": header_bytes({"a": entry(shape=4)}, b"\0" * 4),
    "negative-shape": header_bytes({"a": entry(shape=(-1,))}, b"\0" * 4),
    "float-shape": header_bytes({"a": entry(shape=(1.0,))}, b"\0" * 4),
    "overflowing-shape": header_bytes({"a": entry(shape=(2**40, 2**40))}, b"\0" * 4),
    "overflowing-empty-shape": header_bytes({"a": entry(shape=(0, 2**70), offsets=(0, 0))}),
    "too-many-axes": header_bytes({"a": entry(shape=(1,) * 40)}, b"\0" * 4),
    "size-lies": header_bytes({"a": entry(shape=(2,))}, b"\0" * 4),
    "offsets-swapped": header_bytes({"a": entry(offsets=(4, 0))}, b"\0" * 4),
    "three-offsets": header_bytes({"a": entry(offsets=(0, 4, 8))}, b"\0" * 4),
    "past-end": header_bytes({"a": entry()}, b"\0" * 3),
    "trailing-bytes": header_bytes({"a": entry()}, b"\0" * 5),
    "overlap": header_bytes({"a": entry(), "b": entry(offsets=(2, 6))}, b"\0" * 6),
    "gap": header_bytes({"a": entry(), "b": entry(offsets=(8, 12))}, b"\0" * 12),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_header_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(CheckpointError) as error:
        read_safetensors_header(path)
    assert str(path) in str(error.value)
    assert isinstance(error.value, UnsupportedModel) == (name == "unknown-dtype")


def test_file_cut_after_its_header_was_read_is_refused(
    write_safetensors: Callable[..., Path],
) -> None:
    path = write_safetensors({"a": np.zeros((100, 100), np.float32)})
    info = read_safetensors_header(path)["a"]
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="a of"):
        map_tensor(info)


def write_index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards_are_joined(tmp_path: Path, write_safetensors: Callable[..., Path]) -> None:
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(4, np.float16)
    write_safetensors({"b": b}, "model-00002-of-00002.safetensors")
    write_safetensors({"a": a}, "model-00001-of-00002.safetensors")
    files = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write_index(tmp_path, files)

    infos = read_sharded_headers(tmp_path)

    assert list(infos) == ["a", "b"]
    np.testing.assert_array_equal(map_tensor(infos["a"]).array, a)
    np.testing.assert_array_equal(map_tensor(infos["b"]).array, b)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "gone.safetensors"}, r"shard gone\.safetensors .* missing"),
        ({"a": "one.safetensors", "z": "one.safetensors"}, "'z'"),
        ({"a": "../one.safetensors"}, "same folder"),
        ({"a": "/etc/one.safetensors"}, "same folder"),
        ({"a": "sub/one.safetensors"}, "same folder"),
        ({"a": "..\\one.safetensors"}, "same folder"),
        ({"a": "one.bin"}, "same folder"),
        ({"a": "one\0.safetensors"}, "same folder"),
        ({"a": 3}, "same folder"),
        ({}, "empty"),
        ([1], "weight_map"),
    ],
    ids=[
        "gone",
        "lacks",
        "up",
        "absolute",
        "below",
        "backslash",
        "pickle",
        "nul",
        "number",
        "empty",
        "list",
    ],
)
def test_lying_index_is_refused(
    weight_map: Any, message: str, tmp_path: Path, write_safetensors: Callable[..., Path]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_safetensors({"a": np.zeros(1, np.float32)}, "one.safetensors")  # outside the folder
    write_safetensors({"a": np.zeros(1, np.float32)}, "model/one.safetensors")
    write_index(folder, weight_map)
    with pytest.raises(CheckpointError, match=message):
        read_sharded_headers(folder)
