"""One spelling of an encoder's tensor names where its files have several.

The same layers are saved with a prefix below a head (``bert.encoder…``) and without one alone
(``encoder…``); old files call the parts of a norm gamma and beta.
"""

from collections.abc import Mapping
from dataclasses import replace

from tupelo.checkpoint.encoder import EncoderLayout
from tupelo.checkpoint.tensors import TensorInfo

_OLD_ENDINGS = {".gamma": ".weight", ".beta": ".bias"}


def canonical_names(
    layout: EncoderLayout, tensors: Mapping[str, TensorInfo]
) -> dict[str, TensorInfo]:
    """``tensors`` under the names that the model asks for: without the prefix."""
    renamed = {_bare(name, layout.prefix): info for name, info in tensors.items()}
    return {name: replace(info, name=name) for name, info in renamed.items()}


def _bare(name: str, prefix: str) -> str:
    name = name.removeprefix(prefix)
    for old, new in _OLD_ENDINGS.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
