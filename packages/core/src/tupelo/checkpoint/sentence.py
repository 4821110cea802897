"""Sentence-transformers' files beside a model: how its hidden states become a vector.

``modules.json`` lists what follows the transformer; a module that is not known here is refused, for
a vector without it would be another one. Only JSON and safetensors are read.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

from tupelo.checkpoint.fields import Fields, read_json, shown
from tupelo.checkpoint.pooling import HeadLayer, PoolingConfig, PoolingHead
from tupelo.checkpoint.safetensors import read_safetensors_header
from tupelo.checkpoint.tensors import TensorInfo
from tupelo.errors import CheckpointError, UnsupportedModel
from tupelo.pooling import PoolingKind, PoolingTask

MODULES: Final = "modules.json"
_KINDS: Final = {
    "cls": PoolingKind.CLS,
    "cls_token": PoolingKind.CLS,
    "mean": PoolingKind.MEAN,
    "mean_tokens": PoolingKind.MEAN,
    "lasttoken": PoolingKind.LAST,
}
_ACTIVATIONS: Final = {"Identity": "identity", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu"}
_EXTRA_HEADS: Final = {
    "sparse": ("sparse_linear", "relu"),
    "colbert": ("colbert_linear", "identity"),
}
"""BGE-M3's further outputs, a linear layer each: the file's name, and what follows the product."""

Tensors = dict[str, TensorInfo]


def read_modules(
    folder: Path, base: PoolingConfig, hidden_size: int
) -> tuple[PoolingConfig, Tensors]:
    """What ``folder``, which has a ``modules.json``, makes of ``base``; and its modules' tensors.

    Raises:
        UnsupportedModel: a module, a way of pooling or a file format that is not read here.
        CheckpointError: a broken file.
    """
    kind, layers, tensors, normalize = base.heads[""].kind, [], {}, False
    size = hidden_size
    for module in _listed(folder):
        name = module.text("type", "").rpartition(".")[2]
        path = _inside(folder, module)
        if name == "Pooling":
            kind = _kind(Fields(read_json(path / "config.json"), str(path / "config.json")))
        elif name == "Normalize":
            normalize = True
        elif name == "Dense":
            layer, found = _dense(path, size)
            layers.append(layer)
            tensors.update(found)
            size = layer.out_features
        elif name != "Transformer":
            raise UnsupportedModel(
                f"{folder / MODULES}: the module {shown(repr(name))} is not supported; "
                "supported: Transformer, Pooling, Dense, Normalize"
            )
    head = PoolingHead(kind=kind, layers=tuple(layers))
    return (
        replace(
            base,
            task=PoolingTask.EMBED,
            heads={**base.heads, "": head},
            normalize=normalize,
            labels=(),
            activation="identity",
            max_length=_max_length(folder),
        ),
        tensors,
    )


def read_extra_heads(
    folder: Path, base: PoolingConfig, hidden_size: int
) -> tuple[PoolingConfig, Tensors]:
    """Heads in files of their own beside the model; one that is pickled is left out, with the
    reason for whoever asks for it."""
    heads, refused, tensors = dict(base.heads), dict(base.refused), {}
    for head, (stem, activation) in _EXTRA_HEADS.items():
        file = folder / f"{stem}.safetensors"
        if file.is_file():
            found = {f"{stem}.{n}": i for n, i in read_safetensors_header(file).items()}
            layer = _linear(file, stem, found, hidden_size, activation)
            heads[head] = PoolingHead(kind=PoolingKind.TOKENS, layers=(layer,))
            tensors.update(found)
        elif (folder / f"{stem}.pt").is_file():
            refused[head] = (
                f"{stem}.pt is pickled, and loading it could run code from the file, so it is not "
                f"read; save its tensors as {stem}.safetensors beside it"
            )
    return replace(base, heads=heads, refused=refused), tensors


def _listed(folder: Path) -> list[Fields]:
    """The modules, whose file is a list, in their order."""
    file = folder / MODULES
    found = read_json(file, inside="modules")["modules"]
    if not isinstance(found, list) or not all(isinstance(m, dict) for m in found):
        raise CheckpointError(f"{file} must hold a list of modules")
    return [Fields(module, str(file)) for module in found]


def _inside(folder: Path, module: Fields) -> Path:
    """The module's own folder, which lies in the model's.

    Raises:
        CheckpointError: it does not.
    """
    path = module.text("path", "")
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise module.error("path", "a folder inside the model's")
    return folder / path


def _kind(fields: Fields) -> PoolingKind:
    """The one way of pooling that is switched on, in the older or the newer spelling."""
    chosen = [
        name.removeprefix("pooling_mode_")
        for name, value in fields.values.items()
        if name.startswith("pooling_mode_") and value is True
    ]
    if not chosen:
        chosen = [fields.text("pooling_mode", "mean")]
    if len(chosen) != 1 or chosen[0] not in _KINDS:
        raise UnsupportedModel(
            f"{fields.where}: pooling by {shown(' and '.join(chosen))} is not supported; "
            "supported, one at a time: cls_token, mean_tokens, lasttoken"
        )
    return _KINDS[chosen[0]]


def _dense(path: Path, in_features: int) -> tuple[HeadLayer, Tensors]:
    fields = Fields(read_json(path / "config.json"), str(path / "config.json"))
    said = fields.text("activation_function", "Tanh").rpartition(".")[2]
    if said not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"{fields.where}: activation {shown(repr(said))} is not supported; "
            f"supported: {', '.join(_ACTIVATIONS)}"
        )
    file = path / "model.safetensors"
    if not file.is_file():
        raise CheckpointError(
            f"{path} holds no model.safetensors. Pickled weights could run code when they are "
            "loaded, so they are refused; use a safetensors version of the model, or convert it"
        )
    prefix = path.name
    found = {f"{prefix}.{n}": i for n, i in read_safetensors_header(file).items()}
    return _linear(file, f"{prefix}.linear", found, in_features, _ACTIVATIONS[said]), found


def _linear(
    file: Path, name: str, tensors: Tensors, in_features: int, activation: str
) -> HeadLayer:
    weight = tensors.get(f"{name}.weight")
    if weight is None or len(weight.shape) != 2 or weight.shape[1] != in_features:
        raise CheckpointError(
            f"{file} must hold a weight of (any, {in_features}); it holds "
            f"{shown(', '.join(f'{n} {list(i.shape)}' for n, i in tensors.items()))}"
        )
    return HeadLayer(
        name=name,
        in_features=in_features,
        out_features=weight.shape[0],
        bias=f"{name}.bias" in tensors,
        activation=activation,
    )


def _max_length(folder: Path) -> int:
    """Tokens that the authors cut inputs to; 0 where they say nothing.

    Raises:
        UnsupportedModel: texts are to be made lower case, beyond what the tokenizer does.
    """
    file = folder / "sentence_bert_config.json"
    if not file.is_file():
        return 0
    fields = Fields(read_json(file), str(file))
    if fields.flag("do_lower_case", False):
        raise UnsupportedModel(f"{file}: do_lower_case is not supported")
    return fields.optional_integer("max_seq_length") or 0
