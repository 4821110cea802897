"""GGUF files in Hugging Face's terms: configuration, tensor names, and values stored differently.

Which architectures there are, the families say: see ``Family.gguf``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tupelo.checkpoint.families import gguf_forms
from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.gguf import GGUFHeader, decode, map_rows
from tupelo.checkpoint.gguf_config import gguf_config
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.gguf_names import JoinedInfo, translate
from tupelo.checkpoint.model_config import ModelConfig
from tupelo.checkpoint.tensors import Array, HostTensor, TensorInfo
from tupelo.errors import CheckpointError, UnsupportedModel

Rows = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, slots=True)
class GGUFModel:
    """A GGUF file's model in Hugging Face's names.

    Attributes:
        config: its shape.
        header: of its (first) file.
        form: of its architecture.
        tensors: by Hugging Face name, in file order; dtypes and offsets as in the file.
    """

    config: ModelConfig
    header: GGUFHeader
    form: GGUFForm
    tensors: Mapping[str, TensorInfo]

    def read(self, name: str) -> HostTensor:
        """The tensor ``name`` with Hugging Face's values; quantised types become float32.

        Raises:
            UnsupportedModel: a type without dequantiser.
            CheckpointError: the file changed since its header was read.
        """
        info = self.tensors[name]
        if isinstance(info, JoinedInfo):
            return _join(info)
        values = decode(self.read_rows(name), info.dtype, info.shape)
        offset = self.form.norm_offset
        if offset and name.endswith("norm.weight"):
            return HostTensor(values.array.astype(np.float32) - np.float32(offset), "float32")
        return values

    def read_rows(self, name: str) -> Rows:
        """The tensor's stored bytes, (rows, bytes per row), its rows in Hugging Face's order.

        Blocks of a quantised type never span rows, so that rows may be split or repacked as they
        are.
        """
        rows = map_rows(self.tensors[name])
        if not self.form.unpermute:
            return rows
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            return _unpermute(rows, self.config.num_heads, self.tensors[name])
        if name.endswith(("k_proj.weight", "k_proj.bias")):
            return _unpermute(rows, self.config.num_kv_heads, self.tensors[name])
        return rows


def read_gguf_model(header: GGUFHeader, where: str) -> GGUFModel:
    """Translate ``header``; ``where`` names the file in errors.

    Raises:
        UnsupportedModel: an architecture, or a tensor, that has no translation.
        CheckpointError: a missing or nonsensical key.
    """
    name = Fields(header.metadata, where).text("general.architecture")
    forms = gguf_forms()
    if name not in forms:
        raise UnsupportedModel(
            f"{where}: GGUF architecture {shown(repr(name))} is not supported; "
            f"supported: {', '.join(sorted(forms))}"
        )
    architecture, form = forms[name]
    config = gguf_config(header, form, architecture, where)
    tensors = translate(header.tensors, config.layout, config.num_layers, where)
    return GGUFModel(config=config, header=header, form=form, tensors=tensors)


def _join(info: JoinedInfo) -> HostTensor:
    """``kv_b_proj``: of each head the rows of its keys, which are stored transposed, and values."""
    keys, values = (_float32(part) for part in (info.keys, info.values))
    rows = np.concatenate((keys.swapaxes(1, 2), values), axis=1)
    return HostTensor(rows.reshape(info.shape), "float32")


def _float32(info: TensorInfo) -> npt.NDArray[np.float32]:
    array: Array
    array, dtype = decode(map_rows(info), info.dtype, info.shape)
    if dtype == "bfloat16":  # its bits are the upper ones of a float32
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def _unpermute(rows: Rows, num_heads: int, info: TensorInfo) -> Rows:
    """Undo the converter's reordering of the rows of each head.

    Hugging Face rotates element i of a head with i + head_dim / 2, GGUF's llama 2 i with 2 i + 1:
    row ``2 i + h`` of a head in the file is row ``h * head_dim / 2 + i``. A bias has its rows along
    its only axis.
    """
    if len(info.shape) == 1:
        rows = rows.reshape(info.shape[0], info.num_bytes // max(1, info.shape[0]))
    num_rows, row_bytes = rows.shape
    if num_rows % (2 * num_heads):
        raise CheckpointError(f"tensor {info.name}: {num_rows} rows are not {num_heads} even heads")
    split = rows.reshape(num_heads, num_rows // num_heads // 2, 2, row_bytes)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(num_rows, row_bytes)
