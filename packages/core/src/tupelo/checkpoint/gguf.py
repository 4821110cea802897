"""Headers and tensors of GGUF files, read without trusting them.

The ``gguf`` package's reader makes several Python objects for every token of the vocabulary and
takes seconds; this one walks past string arrays and decodes them on first use. Dequantisation is
that package's.

Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, overload

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize

from tupelo.checkpoint.fields import shown
from tupelo.checkpoint.tensors import (
    NUMPY_TYPES,
    Array,
    HostTensor,
    TensorInfo,
    checked_elements,
    map_bytes,
)
from tupelo.errors import CheckpointError, UnsupportedModel

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_TENSOR_TAIL = struct.Struct("<IQ")  # type, offset
_STRING, _ARRAY = 8, 9
_SCALARS: Final[dict[int, np.dtype[Any]]] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_MAX_NAME_BYTES = 65535  # of a key, in the specification; tensor names are shorter still
_MAX_TENSOR_DIMS = 4
_MAX_KEYS, _MAX_TENSORS = 1 << 16, 1 << 18  # each costs some hundred bytes of objects
_MAX_ALIGNMENT = 1 << 20
_ELEMENTS_PER_ROW = 1 << 16  # of the dequantiser's work, see ``dequantize``

PLAIN_TYPES: Final = {
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F64": "float64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
}
_CANDIDATES: Final = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"),
    *("TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
)
# The installed ``gguf`` may be older than the newest of these.
QUANTISED_TYPES: Final = tuple(n for n in _CANDIDATES if n in GGMLQuantizationType.__members__)


class GGUFStrings(Sequence[str]):
    """An array of strings, decoded on first use. Owns a copy of its bytes, not the file.

    Raises (on first use):
        CheckpointError: an entry is not UTF-8.
    """

    def __init__(self, data: bytes, count: int, where: str) -> None:
        self._data = data
        self._count = count
        self._where = where
        self._decoded: list[str] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._strings()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._strings())

    def _strings(self) -> list[str]:
        if self._decoded is None:
            data, at, strings = self._data, 0, []
            length_at = _U64.unpack_from
            try:
                for _ in range(self._count):
                    end = at + 8 + length_at(data, at)[0]
                    strings.append(data[at + 8 : end].decode())
                    at = end
            except UnicodeDecodeError:
                raise CheckpointError(f"{self._where}: entry {len(strings)} is not UTF-8") from None
            self._decoded, self._data = strings, b""
        return self._decoded


@dataclass(frozen=True, kw_only=True, slots=True)
class GGUFHeader:
    """What stands before a GGUF file's tensors.

    Attributes:
        metadata: by key: int, float, bool, str, a numpy array of numbers, or
            ``GGUFStrings``.
        tensors: by the name in the file, in file order; shapes outermost axis first.
        alignment: of tensor data, in bytes.
        data_offset: where tensor data begins.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    alignment: int
    data_offset: int


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read and check the header of ``path``.

    No count in the file is believed before its bytes are seen, so memory is bounded by the file's
    size and a limit on the number of entries.

    Raises:
        CheckpointError: not a GGUF file, truncated, or inconsistent; the message says where.
        UnsupportedModel: a version or byte order that is not read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Parser(data, path).header()
    except (OSError, ValueError) as error:  # an empty file cannot be mapped: ValueError
        raise CheckpointError(f"cannot read {path}: {error}") from error


class _Parser:
    """One pass over a header; ``at`` is the position of the next byte."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data = data
        self.size = len(data)
        self.path = path
        self.at = 0

    def header(self) -> GGUFHeader:
        self._check_magic()
        num_tensors, num_keys = self._u64(), self._u64()
        if num_tensors > _MAX_TENSORS or num_keys > _MAX_KEYS:
            raise self._broken(f"it claims {num_tensors} tensors and {num_keys} keys")
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._text("a key", _MAX_NAME_BYTES)
            if key in metadata:
                raise self._broken(f"key {shown(repr(key))} occurs twice")
            metadata[key] = self._value(self._u32(), key)
        alignment = self._alignment(metadata.get("general.alignment", 32))
        entries = [self._tensor_entry() for _ in range(num_tensors)]
        start = -(-self.at // alignment) * alignment
        tensors = self._place(entries, start, alignment)
        return GGUFHeader(
            metadata=metadata, tensors=tensors, alignment=alignment, data_offset=start
        )

    def _check_magic(self) -> None:
        if self.data[:4] != b"GGUF":
            raise CheckpointError(f"{self.path} is not a GGUF file: it does not begin with 'GGUF'")
        self.at = 4
        version = self._u32()
        if version not in (2, 3):
            swapped = version & 0xFFFF == 0
            what = "big-endian" if swapped else f"version {version}"
            raise UnsupportedModel(f"{self.path}: GGUF of {what} is not read; only 2 and 3 are")

    def _alignment(self, value: object) -> int:
        if type(value) is not int or not 0 < value <= _MAX_ALIGNMENT or value & (value - 1):
            raise self._broken(f"general.alignment must be a power of two, got {shown(value)}")
        return value

    def _value(self, kind: int, key: str) -> Any:
        if kind in _SCALARS:
            return self._numbers(_SCALARS[kind], 1)[0].item()
        if kind == _STRING:
            return self._text(key, self.size)
        if kind == _ARRAY:
            return self._array(key)
        raise self._broken(f"{shown(key)} has the unknown value type {kind}")

    def _array(self, key: str) -> Array | GGUFStrings:
        kind, count = self._u32(), self._u64()
        if kind in _SCALARS:
            return self._numbers(_SCALARS[kind], count)
        if kind == _STRING:
            return self._strings(key, count)
        raise self._broken(f"{shown(key)} is an array of type {kind}; numbers and strings are read")

    def _numbers(self, dtype: np.dtype[Any], count: int) -> Array:
        num_bytes = dtype.itemsize * count
        self._need(num_bytes)
        raw = self.data[self.at : self.at + num_bytes]
        self.at += num_bytes
        return np.frombuffer(raw, dtype)

    def _strings(self, key: str, count: int) -> GGUFStrings:
        self._need(8 * count)
        data, at, length_at = self.data, self.at, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + length_at(data, at)[0]
        except (struct.error, OverflowError):
            at = self.size + 1
        if at > self.size:
            raise self._broken(f"the strings of {shown(key)} go past the end of the file")
        raw, self.at = data[self.at : at], at
        return GGUFStrings(raw, count, f"{self.path}: {shown(key)}")

    def _text(self, what: str, limit: int) -> str:
        length = self._u64()
        if length > limit:
            raise self._broken(f"{shown(what)} has a length of {length} bytes")
        self._need(length)
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise self._broken(f"{shown(what)} is not UTF-8") from None

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], str, int, int]:
        """Name, shape (outermost first), type's name, bytes, offset within the data."""
        name = self._text("a tensor's name", _MAX_NAME_BYTES)
        where = f"{self.path}: tensor {shown(repr(name))}"
        num_dims = self._u32()
        if num_dims > _MAX_TENSOR_DIMS:
            raise CheckpointError(f"{where}: {num_dims} axes; GGUF has at most {_MAX_TENSOR_DIMS}")
        shape = tuple(self._u64() for _ in range(num_dims))[::-1]
        self._need(_TENSOR_TAIL.size)
        kind, offset = _TENSOR_TAIL.unpack_from(self.data, self.at)
        self.at += _TENSOR_TAIL.size
        num_elements = checked_elements(shape, where)
        try:
            quant = GGMLQuantizationType(kind)
        except ValueError:
            raise UnsupportedModel(f"{where}: tensor type {kind} is not known") from None
        block_size, block_bytes = GGML_QUANT_SIZES[quant]
        row = shape[-1] if shape else 1
        if row % block_size:
            raise CheckpointError(f"{where}: rows of {row} do not fill {quant.name} blocks")
        return name, shape, quant.name, num_elements // block_size * block_bytes, offset

    def _place(
        self, entries: list[tuple[str, tuple[int, ...], str, int, int]], start: int, alignment: int
    ) -> dict[str, TensorInfo]:
        """Tensor infos in file order, each inside the file and none over another."""
        tensors: dict[str, TensorInfo] = {}
        end = start
        for name, shape, kind, num_bytes, offset in sorted(entries, key=lambda entry: entry[4]):
            where = f"{self.path}: tensor {shown(repr(name))}"
            if name in tensors:
                raise CheckpointError(f"{where} occurs twice")
            if offset % alignment:
                raise CheckpointError(f"{where}: offset {offset} is not aligned to {alignment}")
            if start + offset < end:
                raise CheckpointError(f"{where} overlaps the tensor before it")
            end = start + offset + num_bytes
            if end > self.size:
                raise CheckpointError(
                    f"{where} ends at byte {end}, the file at {self.size}: "
                    "it is truncated; download it again"
                )
            tensors[name] = TensorInfo(
                name=name,
                dtype=PLAIN_TYPES.get(kind, kind),
                shape=shape,
                num_bytes=num_bytes,
                file=self.path,
                offset=start + offset,
            )
        return tensors

    def _u32(self) -> int:
        self._need(4)
        (value,) = _U32.unpack_from(self.data, self.at)
        self.at += 4
        return int(value)

    def _u64(self) -> int:
        self._need(8)
        (value,) = _U64.unpack_from(self.data, self.at)
        self.at += 8
        return int(value)

    def _need(self, num_bytes: int) -> None:
        if num_bytes > self.size - self.at:
            raise self._broken(f"{num_bytes} bytes needed, {self.size - self.at} left: truncated")

    def _broken(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: broken GGUF header near byte {self.at}: {what}")


def map_rows(info: TensorInfo) -> npt.NDArray[np.uint8]:
    """The tensor's bytes as (rows, bytes per row), read-only; rows run over all axes but the last.

    Raises:
        CheckpointError: the file changed since its header was read.
    """
    rows = math.prod(info.shape[:-1])
    return map_bytes(info).reshape(rows, info.num_bytes // rows if rows else 0)


def decode(raw: npt.NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> HostTensor:
    """Bytes of a tensor as values: plain types as they are (a view), quantised ones as float32.

    Raises:
        UnsupportedModel: a type that has no dequantiser.
    """
    if dtype in NUMPY_TYPES:
        return HostTensor(raw.reshape(-1).view(NUMPY_TYPES[dtype]).reshape(shape), dtype)
    return HostTensor(dequantize(raw, dtype).reshape(shape), "float32")


def dequantize(raw: npt.NDArray[np.uint8], quant: str) -> npt.NDArray[np.float32]:
    """Whole blocks of the GGUF type ``quant``, of any shape, as a flat float32 array.

    Raises:
        UnsupportedModel: a type that has no dequantiser.
    """
    if quant not in QUANTISED_TYPES:
        raise UnsupportedModel(
            f"GGUF tensors of type {quant} cannot be dequantised; "
            f"supported: {', '.join((*PLAIN_TYPES, *QUANTISED_TYPES))}"
        )
    kind = GGMLQuantizationType[quant]
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = raw.reshape(-1, block_bytes)
    # The package works in groups of 16 rows whatever their length: long rows spare Python calls.
    per_row = _ELEMENTS_PER_ROW // block_size
    whole = len(blocks) // per_row * per_row
    parts = [
        gguf_dequantize(part, kind).reshape(-1)
        for part in (
            blocks[:whole].reshape(-1, per_row * block_bytes),
            blocks[whole:].reshape(1, -1),
        )
        if part.size
    ]
    if not parts:
        return np.empty(0, np.float32)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
