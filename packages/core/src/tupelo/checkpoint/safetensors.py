"""Headers of safetensors files, single or sharded, read without trusting them.

Source: the format's specification, https://github.com/huggingface/safetensors#format
"""

import struct
from pathlib import Path
from typing import Any, Final

from tupelo.checkpoint.fields import (
    MAX_JSON_BYTES,
    Fields,
    parse_json_object,
    read_json,
    shown,
)
from tupelo.checkpoint.tensors import NUMPY_TYPES, TensorInfo, checked_elements
from tupelo.errors import CheckpointError, UnsupportedModel

INDEX_NAME: Final = "model.safetensors.index.json"
_LFS_POINTER: Final = b"version "  # how the text begins that stands for a file in a repository
_DTYPES: Final = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_safetensors_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one file by name, in the order of their data.

    Raises:
        CheckpointError: truncated, or a header that contradicts itself or the file; the message
            says how.
        UnsupportedModel: an element type that is not read.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise CheckpointError(f"{path} is truncated: {size} bytes are no safetensors file")
            if prefix == _LFS_POINTER:
                raise CheckpointError(
                    f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull`, or "
                    "download it again"
                )
            (length,) = struct.unpack("<Q", prefix)
            if length > MAX_JSON_BYTES or 8 + length > size:
                raise CheckpointError(
                    f"{path} claims a header of {length} bytes in a file of {size}: "
                    "it is truncated or no safetensors file"
                )
            header = parse_json_object(file.read(length), f"the header of {path}")
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    header.pop("__metadata__", None)
    infos = [_tensor_info(name, entry, path, 8 + length) for name, entry in header.items()]
    infos.sort(key=lambda info: (info.offset, info.num_bytes))
    _check_layout(infos, path, 8 + length, size)
    return {info.name: info for info in infos}


def read_sharded_headers(folder: Path) -> dict[str, TensorInfo]:
    """The tensors of all shards that the folder's index names, shard by shard.

    Raises:
        CheckpointError: a shard that is missing, is named outside the folder, or lacks a tensor.
    """
    index_path = folder / INDEX_NAME
    weight_map = Fields(read_json(index_path), str(index_path)).section("weight_map").values
    if not weight_map:
        raise CheckpointError(f"{index_path}: weight_map is missing or empty")
    shards: dict[str, dict[str, TensorInfo]] = {}
    tensors: dict[str, TensorInfo] = {}
    for file_name in sorted({_shard_name(name, index_path) for name in weight_map.values()}):
        shard = folder / file_name
        if not shard.is_file():
            raise CheckpointError(
                f"the shard {file_name} that {index_path} names is missing; download it again"
            )
        shards[file_name] = read_safetensors_header(shard)
        mine = {n: i for n, i in shards[file_name].items() if weight_map.get(n) == file_name}
        tensors.update(mine)
    if absent := [name for name in weight_map if name not in tensors]:
        raise CheckpointError(
            f"{index_path} places {shown(repr(absent[0]))} in {shown(weight_map[absent[0]])}, "
            f"which does not hold it ({len(absent)} such tensors)"
        )
    return tensors


def _shard_name(name: Any, index_path: Path) -> str:
    """A plain file name: a path could lead out of the folder."""
    if (
        not isinstance(name, str)
        or not name.endswith(".safetensors")
        or any(c in name for c in "/\\:\0")
        or name.startswith(".")
    ):
        raise CheckpointError(
            f"{index_path}: weight_map names {shown(repr(name))}; "
            "shards must be *.safetensors files of the same folder"
        )
    return name


def _tensor_info(name: str, entry: object, path: Path, start: int) -> TensorInfo:
    where = f"{path}: tensor {shown(repr(name))}"
    if not isinstance(entry, dict):
        raise CheckpointError(f"{where}: its entry is no object")
    fields = Fields(entry, where)
    dtype = _DTYPES.get(fields.text("dtype"))
    if dtype is None:
        raise UnsupportedModel(
            f"{where}: type {shown(entry['dtype'])} is not read; types: {', '.join(_DTYPES)}"
        )
    shape = _whole_numbers(entry.get("shape"), where)
    offsets = _whole_numbers(entry.get("data_offsets"), where)
    if len(offsets) != 2:
        raise CheckpointError(f"{where}: data_offsets must be two numbers, got {shown(offsets)}")
    begin, end = offsets
    itemsize = NUMPY_TYPES[dtype]().itemsize
    num_bytes = checked_elements(tuple(shape), where) * itemsize
    if end - begin != num_bytes:
        raise CheckpointError(
            f"{where}: {dtype} {shown(shape)} takes {num_bytes} bytes, "
            f"data_offsets {shown(offsets)} span {shown(end - begin)}"
        )
    return TensorInfo(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        num_bytes=num_bytes,
        file=path,
        offset=start + begin,
    )


def _whole_numbers(value: object, where: str) -> list[int]:
    if not isinstance(value, list) or not all(type(n) is int and n >= 0 for n in value):
        raise CheckpointError(f"{where}: shape and data_offsets must be lists of whole numbers")
    return value


def _check_layout(infos: list[TensorInfo], path: Path, start: int, size: int) -> None:
    """Tensors must cover the data without gap or overlap, as the specification demands."""
    end = start
    for info in infos:
        if info.offset != end:
            what = "overlaps the tensor before it" if info.offset < end else "follows a gap"
            raise CheckpointError(f"{path}: tensor {shown(repr(info.name))} {what}")
        end = info.offset + info.num_bytes
    if end != size:
        state = "truncated; download it again" if end > size else "followed by unknown bytes"
        raise CheckpointError(f"{path} has {size} bytes where its header says {end}: it is {state}")
