"""GGUF headers and dequantisation against the ``gguf`` package; broken headers refused."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from tupelo.checkpoint.gguf import (
    PLAIN_TYPES,
    QUANTISED_TYPES,
    dequantize,
    read_gguf_header,
)
from tupelo.checkpoint.tensors import map_tensor
from tupelo.errors import CheckpointError, UnsupportedModel


def test_metadata_equals_what_the_reference_reads(write_gguf: Callable[..., Path]) -> None:
    keys: dict[str, Any] = {
        "a.int": 7,
        "a.float": 0.5,
        "a.flag": True,
        "a.text": "grüße",
        "a.strings": ["one", "zwei", "", "四"],
        "a.ints": [1, -2, 3],
        "a.floats": [0.25, 1.5],
        "a.flags": [True, False],
    }
    path = write_gguf("llama", keys, {"t": np.zeros((2, 3), np.float32)})

    header = read_gguf_header(path)

    reference = gguf.GGUFReader(path)
    assert header.data_offset == reference.data_offset
    for key in keys:
        expected = reference.fields[key].contents()
        got = header.metadata[key]
        assert (list(got) if isinstance(expected, list) else got) == expected
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["a.strings"][1:3] == ["zwei", ""]


def test_tensors_equal_what_the_reference_reads(write_gguf: Callable[..., Path]) -> None:
    rng = np.random.default_rng(1)
    tensors = {
        "f32": rng.standard_normal((3, 5), dtype=np.float32),
        "f16": rng.standard_normal((2, 3, 4)).astype(np.float16),
        "i32": rng.integers(-9, 9, 11, dtype=np.int32),
        "f64": rng.standard_normal(3),
    }
    path = write_gguf("llama", {}, tensors)

    header = read_gguf_header(path)

    for name, expected in tensors.items():
        read = map_tensor(header.tensors[name])
        assert read.dtype == expected.dtype.name
        np.testing.assert_array_equal(read.array, expected)


@pytest.mark.parametrize("quant", QUANTISED_TYPES)
@pytest.mark.parametrize("rows", [1, 3, 700])
def test_dequantisation_equals_the_reference(quant: str, rows: int) -> None:
    kind = GGMLQuantizationType[quant]
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(2).integers(0, 256, (rows, 2 * block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # random scales include NaN and infinities
        expected = quants.dequantize(raw, kind)
        got = dequantize(raw, quant)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got.reshape(rows, 2 * block_size), expected)


def test_every_type_that_the_reference_dequantises_is_offered() -> None:
    raw = {kind: np.zeros((1, size), np.uint8) for kind, (_, size) in GGML_QUANT_SIZES.items()}
    dequantised = set()
    for kind, block in raw.items():
        try:
            quants.dequantize(block, kind)
        except NotImplementedError:
            continue
        dequantised.add(kind.name)
    assert dequantised - {"F32", "F16", "BF16"} == set(QUANTISED_TYPES)


def test_type_without_dequantiser_is_named(write_gguf: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModel, match="Q8_1"):
        dequantize(np.zeros((1, 40), np.uint8), "Q8_1")


def test_empty_tensor_dequantises_to_nothing() -> None:
    assert dequantize(np.zeros((0, 18), np.uint8), "Q4_0").shape == (0,)


def test_plain_types_are_known_to_the_reference() -> None:
    assert set(PLAIN_TYPES) <= set(GGMLQuantizationType.__members__)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def head(
    num_tensors: int = 0, num_keys: int = 0, *, magic: bytes = b"GGUF", version: int = 3
) -> bytes:
    return magic + struct.pack("<IQQ", version, num_tensors, num_keys)


def tensor(name: str = "t", shape: tuple[int, ...] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + dims + struct.pack("<IQ", kind, offset)


def padded(header: bytes, data: int) -> bytes:
    return header + b"\0" * (-len(header) % 32 + data)


def array_key(kind: int, count: int) -> bytes:
    return text("k") + struct.pack("<IIQ", 9, kind, count)


BROKEN = {
    "empty": b"",
    "magic": head(magic=b"GGML"),
    "version-1": head(version=1),
    "big-endian": head(version=3 << 24),
    "cut-counts": head()[:-3],
    "keys-claimed": head(num_keys=2**63),
    "tensors-claimed": head(num_tensors=2**63),
    "key-length": head(num_keys=1) + struct.pack("<Q", 2**62),
    "key-not-utf8": head(num_keys=1) + text(b"\xff\xfe") + struct.pack("<IB", 0, 1),
    "value-type": head(num_keys=1) + text("k") + struct.pack("<I", 99),
    "string-length": head(num_keys=1) + text("k") + struct.pack("<IQ", 8, 2**40),
    "array-type": head(num_keys=1) + array_key(77, 1) + b"\0" * 64,
    "array-count": head(num_keys=1) + array_key(5, 2**61) + b"\0" * 64,
    "strings-count": head(num_keys=1) + array_key(8, 2**60) + b"\0" * 64,
    "strings-length": head(num_keys=1)
    + array_key(8, 2)
    + struct.pack("<Q", 2**64 - 1)
    + b"\0" * 64,
    "nested": head(num_keys=1) + array_key(9, 1) + struct.pack("<IQB", 0, 1, 1),
    "keys-missing": head(num_keys=9) + text("k") + struct.pack("<IB", 0, 9),
    "tensors-missing": padded(head(9) + tensor(), 64),
    "twice": head(num_keys=2) + (text("k") + struct.pack("<IB", 0, 1)) * 2,
    "alignment-odd": head(num_keys=1) + text("general.alignment") + struct.pack("<II", 4, 33),
    "alignment-zero": head(num_keys=1) + text("general.alignment") + struct.pack("<II", 4, 0),
    "alignment-huge": head(num_keys=1) + text("general.alignment") + struct.pack("<II", 4, 1 << 31),
    "alignment-text": head(num_keys=1)
    + text("general.alignment")
    + struct.pack("<I", 8)
    + text("x"),
    "axes": padded(head(1) + tensor(shape=(1,) * 5), 64),
    "axes-claimed": head(1) + text("t") + struct.pack("<I", 2**31),
    "overflow": padded(head(1) + tensor(shape=(2**40, 2**40)), 64),
    "wraps-to-small": padded(head(1) + tensor(shape=(2**63, 2**63, 4)), 64),
    "tensor-type": padded(head(1) + tensor(kind=12345), 64),
    "scalar-block": padded(head(1) + tensor(shape=(), kind=2), 64),
    "half-block": padded(head(1) + tensor(shape=(33,), kind=2), 64),
    "past-end": padded(head(1) + tensor(shape=(64,)), 64),
    "offset-past-end": padded(head(1) + tensor(offset=2**40), 64),
    "offset-unaligned": padded(head(1) + tensor(offset=4), 64),
    "overlap": padded(head(2) + tensor("a") + tensor("b"), 64),
    "tensor-twice": padded(head(2) + tensor("a") + tensor("a", offset=32), 64),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_header_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(BROKEN[name])
    with pytest.raises(CheckpointError) as error:
        read_gguf_header(path)
    assert str(path) in str(error.value)


def test_the_pieces_of_the_broken_headers_are_sound(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    key = text("k") + struct.pack("<IB", 0, 9)
    path.write_bytes(padded(head(2, 1) + key + tensor("a") + tensor("b", offset=32), 64))
    header = read_gguf_header(path)
    assert header.metadata == {"k": 9}
    assert [info.offset - header.data_offset for info in header.tensors.values()] == [0, 32]


def test_strings_that_are_not_utf8_are_refused_when_used(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(head(num_keys=1) + array_key(8, 2) + text("fine") + text(b"\xff"))
    strings = read_gguf_header(path).metadata["k"]
    assert len(strings) == 2
    with pytest.raises(CheckpointError, match="entry 1"):
        list(strings)


def test_demo_header_equals_what_the_reference_reads(
    demo_gguf: Path, demo_reader: gguf.GGUFReader
) -> None:
    header = read_gguf_header(demo_gguf)
    reference = demo_reader
    for key, expected in reference.fields.items():
        if not key.startswith("GGUF."):
            got = header.metadata[key]
            contents = expected.contents()
            assert (list(got) if isinstance(contents, list) else got) == contents, key
    assert len(header.tensors) == len(reference.tensors)
    for theirs in reference.tensors:
        ours = header.tensors[theirs.name]
        assert ours.shape == tuple(theirs.shape.tolist())[::-1]
        assert (ours.offset, ours.num_bytes) == (theirs.data_offset, theirs.n_bytes)
