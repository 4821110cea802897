"""A model on disk, whatever its format, behind one door: ``open_checkpoint``.

Nothing is loaded when a checkpoint is opened: headers and JSON are read and checked, tensors are
mapped when they are asked for. Pickled weights are refused, and code that a model brings is never
imported.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from tupelo.checkpoint.fields import Fields, read_json, shown
from tupelo.checkpoint.generation import GenerationDefaults, parse_generation
from tupelo.checkpoint.gguf import GGUFHeader, read_gguf_header
from tupelo.checkpoint.gguf_models import GGUFModel, read_gguf_model
from tupelo.checkpoint.model_config import ModelConfig, parse_hf_config
from tupelo.checkpoint.mxfp4 import Mxfp4Info, pair_blocks, read_blocks
from tupelo.checkpoint.names import canonical_names
from tupelo.checkpoint.pooling import PoolingConfig, last_token
from tupelo.checkpoint.safetensors import INDEX_NAME, read_safetensors_header, read_sharded_headers
from tupelo.checkpoint.sentence import MODULES, read_extra_heads, read_modules
from tupelo.checkpoint.tensors import HostTensor, TensorInfo, map_bytes, map_tensor
from tupelo.errors import CheckpointError
from tupelo.pooling import PoolingTask
from tupelo.specs import dtype_bytes

_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "tokenizer_config.json",
)
_CODE_DECLARING: Final = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
_SAMPLE_BYTES = 4096  # of each tensor, for the digest
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.gguf")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened model. Holds no file open; safe to share between threads.

    Attributes:
        format: how the weights are stored.
        path: the folder, or the GGUF file (of a split one, its first part).
        config: the model's shape; ``eos_token_ids`` includes those of ``generation_config.json``.
        tensors: by Hugging Face name, in file order. Buffers that a model computes itself, and
            layers that predict further tokens at once, are left out.
        generation: the authors' sampling defaults.
        tokenizer_path: the folder with tokenizer files, or the GGUF file; None where there is no
            tokenizer.
        needs_remote_code: the model declares Python code of its own (``auto_map``), which is never
            run.
        gguf: header and translation, for readers of its metadata; None for safetensors.
    """

    format: Literal["safetensors", "gguf"]
    path: Path
    config: ModelConfig
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    generation: GenerationDefaults
    tokenizer_path: Path | None
    needs_remote_code: bool
    gguf: GGUFModel | None = field(default=None, repr=False)

    def read(self, name: str) -> HostTensor:
        """The tensor ``name``: a read-only view of the file, or a quantised type's float32 values.

        Raises:
            CheckpointError: no such tensor, or the file changed since it was opened.
            UnsupportedModel: a GGUF type without dequantiser.
        """
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} has no tensor {shown(repr(name))}")
        if self.gguf is not None:
            return self.gguf.read(name)
        info = self.tensors[name]
        return read_blocks(info) if isinstance(info, Mxfp4Info) else map_tensor(info)

    def iter_tensors(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, HostTensor]]:
        """Read ``names`` (default: all) in file order, one at a time; drop each to free it.

        Raises:
            CheckpointError, UnsupportedModel: as ``read``.
        """
        wanted = list(self.tensors) if names is None else list(dict.fromkeys(names))
        order = {name: position for position, name in enumerate(self.tensors)}
        for name in sorted(wanted, key=lambda n: order.get(n, -1)):
            yield name, self.read(name)

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all weights when held in ``dtype``; a tied output head counts once.

        Raises:
            ConfigError: an unknown dtype.
        """
        tied, head = self.config.tie_word_embeddings, f"{self.config.layout.head}.weight"
        num_elements = sum(
            info.num_elements for name, info in self.tensors.items() if not (tied and name == head)
        )
        return num_elements * dtype_bytes(dtype)

    @cached_property
    def files_digest(self) -> str:
        """A key that changes with the model, for caches; no proof that the weights are intact.

        SHA-256 over its small files, its headers, the files' sizes and the first bytes of each
        tensor.

        Raises:
            CheckpointError: the files changed since they were opened.
        """
        digest = hashlib.sha256()
        if self.path.is_dir():
            for path in sorted(
                p for p in self.path.iterdir() if p.suffix in (".json", ".model", ".jinja")
            ):
                digest.update(
                    f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest()
                )
        for file in sorted({info.file for info in self.tensors.values()}):
            first = min(info.offset for info in self.tensors.values() if info.file == file)
            with file.open("rb") as stream:
                digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
                digest.update(hashlib.sha256(stream.read(first)).digest())
        for info in self.tensors.values():
            sample = replace(info, num_bytes=min(info.num_bytes, _SAMPLE_BYTES))
            digest.update(map_bytes(sample).tobytes())
        return digest.hexdigest()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a folder in Hugging Face's layout, a folder with one GGUF file, or a GGUF file.

    Raises:
        CheckpointError: nothing there, only pickled weights, or a broken or contradictory file.
        UnsupportedModel: a model that has no implementation.
    """
    path = Path(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise CheckpointError(
                f"{path} is no GGUF file; for safetensors, pass the folder it is in"
            )
        return _open_gguf(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist; pass a model folder or a .gguf file")
    names = sorted(p.name for p in path.iterdir())
    if any(name.endswith(".safetensors") for name in names) or INDEX_NAME in names:
        return _open_safetensors(path, names)
    if any(name.endswith(".gguf") for name in names):
        return _open_gguf(path / _single_gguf([n for n in names if n.endswith(".gguf")], path))
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise CheckpointError(
            f"{path} holds only pickled weights ({pickles[0]}). Loading them could run code from "
            "the file, so they are refused; use a safetensors version of the model, or convert it"
        )
    raise CheckpointError(f"{path} holds no weights: neither *.safetensors nor *.gguf is in it")


def _open_safetensors(path: Path, names: list[str]) -> Checkpoint:
    config = parse_hf_config(read_json(path / "config.json"), where=str(path / "config.json"))
    found = pair_blocks(_safetensors_headers(path, names))
    if config.encoder is not None:
        found = canonical_names(config.encoder, found)
    further = _further_layers(config, str(path / "config.json"))
    tensors = {n: i for n, i in found.items() if not _is_buffer(n) and not n.startswith(further)}
    if config.pooling is None or config.pooling.task is PoolingTask.EMBED:
        config, modules = _with_modules(path, names, config)
        tensors |= modules
    generation = GenerationDefaults()
    if "generation_config.json" in names:
        file = path / "generation_config.json"
        generation = parse_generation(read_json(file), str(file))
    eos = tuple(dict.fromkeys(config.eos_token_ids + generation.eos_token_ids))
    if not {"dtype", "torch_dtype"} & config.raw.keys():
        config = replace(config, dtype=_main_dtype(tensors))
    return Checkpoint(
        format="safetensors",
        path=path,
        config=replace(config, eos_token_ids=eos),
        tensors=tensors,
        generation=generation,
        tokenizer_path=path if any(name in names for name in _TOKENIZER_FILES) else None,
        needs_remote_code=any(
            _declares_code(read_json(path / name)) for name in _CODE_DECLARING if name in names
        ),
    )


def _with_modules(
    path: Path, names: list[str], config: ModelConfig
) -> tuple[ModelConfig, dict[str, TensorInfo]]:
    """The configuration with what the files beside it say of embeddings, and their tensors."""
    fields, size = Fields(config.raw, str(path / "config.json")), config.hidden_size
    pooling: PoolingConfig | None = config.pooling
    tensors: dict[str, TensorInfo] = {}
    if MODULES in names:
        pooling, tensors = read_modules(path, pooling or last_token(fields), size)
    if pooling is not None:
        pooling, more = read_extra_heads(path, pooling, size)
        tensors |= more
    return replace(config, pooling=pooling), tensors


def _safetensors_headers(path: Path, names: list[str]) -> dict[str, TensorInfo]:
    if INDEX_NAME in names:
        return read_sharded_headers(path)
    files = [name for name in names if name.endswith(".safetensors")]
    if "model.safetensors" in files:
        files = ["model.safetensors"]  # others hold further heads, or the same in another type
    if len(files) > 1:
        raise CheckpointError(
            f"{path} holds {len(files)} safetensors files but no {INDEX_NAME}; download it again"
        )
    return read_safetensors_header(path / files[0])


def _open_gguf(path: Path) -> Checkpoint:
    header = _join_parts(path, read_gguf_header(path))
    model = read_gguf_model(header, str(path))
    return Checkpoint(
        format="gguf",
        path=path,
        config=model.config,
        tensors=model.tensors,
        generation=GenerationDefaults(),
        tokenizer_path=path if "tokenizer.ggml.model" in header.metadata else None,
        needs_remote_code=False,
        gguf=model,
    )


def _join_parts(path: Path, header: GGUFHeader) -> GGUFHeader:
    """``header``, with the tensors of the further parts where ``path`` is the first of several."""
    count = header.metadata.get("split.count", 1)
    if count in (0, 1):
        return header
    match = _SPLIT.fullmatch(path.name)
    if match is None or int(match["part"]) != 1 or int(match["parts"]) != count:
        raise CheckpointError(
            f"{path} is one of {shown(count)} parts; pass the first, whose name ends in "
            "-00001-of-<number of parts>.gguf, with the others beside it"
        )
    tensors = dict(header.tensors)
    for part in range(2, count + 1):
        sibling = path.with_name(f"{match['stem']}-{part:05d}-of-{count:05d}.gguf")
        if not sibling.is_file():
            raise CheckpointError(
                f"part {sibling.name} of {path.name} is missing; download it again"
            )
        for name, info in read_gguf_header(sibling).tensors.items():
            if name in tensors:
                raise CheckpointError(f"tensor {shown(repr(name))} is in two parts of {path.name}")
            tensors[name] = info
    return replace(header, tensors=tensors)


def _single_gguf(names: list[str], path: Path) -> str:
    """The one GGUF model of a folder, a split one counting once by its first part."""
    matches = {name: _SPLIT.fullmatch(name) for name in names}
    heads = [n for n, m in matches.items() if m is None or int(m["part"]) == 1]
    if len(heads) != 1:
        raise CheckpointError(
            f"{path} holds {len(heads)} GGUF models; pass the path of one: "
            f"{shown(', '.join(names))}"
        )
    return heads[0]


def _is_buffer(name: str) -> bool:
    """Rope frequencies, which old checkpoints saved though they follow from the configuration."""
    return name.endswith((".rotary_emb.inv_freq", ".masked_bias"))


def _further_layers(config: ModelConfig, where: str) -> tuple[str, ...]:
    """How names begin of layers behind the last, which predict further tokens at once
    (DeepSeek-V3, GLM-4.5)."""
    count = Fields(config.raw, where).integer("num_nextn_predict_layers", 0, low=0, high=64)
    begin = config.num_layers
    return tuple(f"{config.layout.layers}.{n}." for n in range(begin, begin + count))


def _main_dtype(tensors: Mapping[str, TensorInfo]) -> str:
    """The floating type of most elements, for configurations that do not say."""
    sizes = dict.fromkeys(("float32", "float16", "bfloat16"), 0)
    for info in tensors.values():
        if info.dtype in sizes:
            sizes[info.dtype] += info.num_elements
    return max(sizes, key=sizes.__getitem__)


def _declares_code(value: object) -> bool:
    """Whether ``auto_map`` occurs at any depth. The JSON's depth is bounded by its parser."""
    if isinstance(value, dict):
        return bool(value.get("auto_map")) or any(_declares_code(v) for v in value.values())
    return isinstance(value, list) and any(_declares_code(v) for v in value)
