"""The door for models without a family here: whatever causal model the installed transformers has.

Such a model runs through transformers' own modules, with our attention, cache and scheduler; see
``tupelo.models.door``. Found without importing transformers, which would import torch.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tupelo.checkpoint.families.family import COMMON, Family
from tupelo.checkpoint.fields import Fields
from tupelo.checkpoint.rope import no_rope
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,80}")
_ATTENTION: Final = re.compile(r"^class \w*Attention\w*\(", re.MULTILINE)
_INTERFACE: Final = "ALL_ATTENTION_FUNCTIONS"


def door_for(architecture: str, model_type: str, where: str, near: str) -> Family | None:
    """``DOOR``, if the installed transformers defines this class for this ``model_type``.

    Raises:
        UnsupportedModel: its attention is its own, and not the interface's; names ``where`` that
            was said, and ``near``, the nearest architecture that is supported.
    """
    source = _source(model_type)
    if not _NAME.fullmatch(architecture) or f"\nclass {architecture}(" not in source:
        return None
    if _ATTENTION.search(source) and _INTERFACE not in source:
        raise UnsupportedModel(
            f"{where}: {architecture} does not attend through transformers' attention interface, "
            f"so it cannot be served; the nearest supported architecture is {near}"
        )
    return DOOR


def _source(model_type: str) -> str:
    """The program text of a ``model_type``'s modules; "" where the installed transformers has
    none."""
    if not _NAME.fullmatch(model_type):
        return ""
    spec = find_spec("transformers")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        file = Path(folder) / "models" / model_type / f"modeling_{model_type}.py"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    return ""


def _refine(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
    """Rotations are the modules' own business."""
    return {
        "model_type": fields.text("model_type"),
        "ropes": {"global": no_rope(base.head_dim, base.max_position_embeddings)},
    }


DOOR: Final = Family(
    model_type="",
    defaults={**COMMON, "intermediate_size": 1, "max_position_embeddings": 2048},
    refine=_refine,
    nested_ropes=True,
    model="tupelo.models.door:TransformersModel",
    aliases={
        "n_embd": "hidden_size",
        "d_model": "hidden_size",
        "n_layer": "num_hidden_layers",
        "num_layers": "num_hidden_layers",
        "n_layers": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_heads": "num_attention_heads",
        "num_kv_heads": "num_key_value_heads",
        "n_positions": "max_position_embeddings",
        "n_ctx": "max_position_embeddings",
        "max_seq_len": "max_position_embeddings",
    },
)
