"""How llama.cpp's converter writes a family: a record beside the family's own.

Names of tensors need no entry: they follow from the family's ``Layout``, see ``gguf_names``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.gguf import GGUFHeader

Config = Callable[[GGUFHeader, Fields], dict[str, Any]]


def nothing_more(_: GGUFHeader, __: Fields) -> dict[str, Any]:
    """Of families whose files say nothing beyond what all say."""
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class GGUFForm:
    """One ``general.architecture``; several families may share it.

    Attributes:
        architecture: its name in GGUF files.
        config: from the header, and the metadata of this architecture without its prefix, the
            Hugging Face fields beyond those that all families share; with ``architectures`` where
            the name alone does not tell the family.
        rope_scaling: Hugging Face fields of a scaled rope that files leave out.
        latent: heads are compressed, and ``attention.key_length`` is not that of a head.
        unpermute: q and k rows are stored with each head's halves interleaved.
        norm_offset: what the file adds to the weights of norms.
    """

    architecture: str
    config: Config = nothing_more
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    latent: bool = False
    unpermute: bool = False
    norm_offset: float = 0.0


def window(_: GGUFHeader, fields: Fields) -> dict[str, Any]:
    """The ``Config`` of families of which some files have a window; 0 stands for none."""
    return {"sliding_window": fields.integer("attention.sliding_window", 0, low=0) or None}


def layer_types(fields: Fields) -> dict[str, Any]:
    """``layer_types`` where newer files have a flag for each layer, whether it is windowed; the
    period where they have a number; nothing where they are silent."""
    pattern = fields.values.get("attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray):
        types = ("full_attention", "sliding_attention")
        return {"layer_types": [types[bool(windowed)] for windowed in pattern]}
    return {} if pattern is None else {"sliding_window_pattern": pattern}
