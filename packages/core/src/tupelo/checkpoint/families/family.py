"""What one architecture differs in from a plain Llama: a record that a family's file fills.

Imports no torch: ``plan``, ``doctor`` and the tokenizer read configurations too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from tupelo.checkpoint.fields import Fields, shown
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.layout import LLAMA
from tupelo.checkpoint.pooling import HeadLayer
from tupelo.errors import UnsupportedModel

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig

Refine = Callable[[Fields, "ModelConfig"], dict[str, Any]]


class Head(Protocol):
    """See ``Family.head``."""

    def __call__(
        self, fields: Fields, base: "ModelConfig", size: int, *, whole: bool
    ) -> list[HeadLayer]: ...


DECODER: Final = "tupelo.models.decoder:Decoder"
"""The class that computes whatever a ``ModelConfig`` can say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        model_type: Hugging Face's.
        defaults: values of fields that its configuration files may omit: those of its class in
            transformers.
        refine: from the fields and the configuration read as a plain Llama, the ``ModelConfig``
            fields to replace.
        quantised: quantisation methods whose layout it reads; the weights are decoded as they are
            loaded.
        mlp_ratio: where the MLP's size may be absent, its multiple of the hidden size; else 0.
        aliases: its names of fields that others spell alike, to the common spelling.
        nested_ropes: ``rope_parameters`` is keyed by layer type, or of another width than a head's;
            ``refine`` reads it and sets ``ropes``.
        section: of a model of text and more, the section of the configuration that is about text,
            which alone is served; "" where all of it is.
        gguf: how its GGUF files are written; None where they are not read.
        model: ``module:Class`` of what computes it, a callable ``(config, options) -> Model``.
        head: of an encoder, the layers of its classifier, from the fields, the configuration and
            the number of classes; ``whole``: of texts, not of single tokens. None for decoders.
        unused: of an encoder, beginnings of the names of tensors that may be there for nothing.
    """

    model_type: str
    defaults: Mapping[str, Any]
    refine: Refine
    quantised: tuple[str, ...] = ()
    mlp_ratio: int = 0
    aliases: Mapping[str, str] = field(default_factory=dict)
    nested_ropes: bool = field(default=False)
    section: str = ""
    gguf: GGUFForm | None = None
    model: str = DECODER
    head: Head | None = None
    unused: tuple[str, ...] = ()


COMMON: Final = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
"""Defaults that most classes of transformers share."""


_VISION: Final = ("vision_tower.", "vision_model.", "multi_modal_projector.")


def with_vision(family: Family, model_type: str) -> Family:
    """The family of models that see as well and whose text is a ``family``; it alone is served."""

    def refine(fields: Fields, base: "ModelConfig") -> dict[str, Any]:
        changes = family.refine(fields, base)
        layout, root = changes.get("layout", LLAMA), "language_model."
        names = ("prefix", "embedding", "layers", "norm", "head")
        below = {name: root + getattr(layout, name) for name in names}
        return {**changes, "layout": replace(layout, beside=_VISION, **below)}

    return replace(family, model_type=model_type, refine=refine, section="text_config")


def layer_windows(fields: Fields, num_layers: int, default: Callable[[int], bool]) -> list[bool]:
    """Which layers are windowed: by ``layer_types``, else by ``default`` of the layer's index.

    Raises:
        UnsupportedModel: a layer type that is neither full nor sliding attention.
        CheckpointError: a list of the wrong length.
    """
    types = fields.texts("layer_types")
    if not types:
        return [default(layer) for layer in range(num_layers)]
    if len(types) != num_layers:
        raise fields.error("layer_types", f"a list of {num_layers} entries, one per layer")
    for name in types:
        if name not in ("full_attention", "sliding_attention"):
            raise UnsupportedModel(
                f"{fields.where}: layer type {shown(repr(name))} is not supported; "
                "supported: full_attention, sliding_attention"
            )
    return [name == "sliding_attention" for name in types]
