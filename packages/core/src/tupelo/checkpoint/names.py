"""One spelling of tensor names where a model's files have several.

The same layers are saved with a prefix below a head (``bert.encoder…``, ``model.layers…``) and
without one alone (``encoder…``, ``layers…``); old files call the parts of a norm gamma and beta.
"""

from collections.abc import Mapping
from dataclasses import replace

from tupelo.checkpoint.model_config import ModelConfig
from tupelo.checkpoint.tensors import TensorInfo

_OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}


def canonical_names(
    config: ModelConfig, tensors: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """``tensors`` under the names that the model asks for: an encoder's without prefix, a decoder's
    with it."""
    if config.encoder is not None:
        renamed = {name: _bare(name, config.encoder.prefix) for name in tensors}
    else:
        renamed = _prefixed(config, tensors)
    return {
        renamed.get(name, name): replace(info, name=renamed.get(name, name))
        for name, info in tensors.items()
    }


def _bare(name: str, prefix: str) -> str:
    name = name.removeprefix(prefix)
    for old, new in _OLD_ENDINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _prefixed(config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """New names of a decoder's tensors that were saved without what stands above its layers."""
    layout = config.layout
    prefix, dot, embedding = layout.embedding.rpartition(".")
    if not dot or f"{layout.embedding}.weight" in tensors or f"{embedding}.weight" not in tensors:
        return {}
    above = f"{prefix}."
    roots = tuple(
        f"{root.removeprefix(above)}." for root in (layout.embedding, layout.layers, layout.norm)
    )
    return {name: above + name for name in tensors if name.startswith(roots)}
