"""What a checkpoint makes of a text besides more text, read from its ``config.json``.

A decoder's architecture says so by its ending, as in ``LlamaForSequenceClassification``; an encoder
never generates. Sentence-transformers' files beside it are ``sentence.py``'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from tupelo.checkpoint.fields import Fields, shown
from tupelo.errors import UnsupportedModel
from tupelo.pooling import PoolingKind, PoolingTask

if TYPE_CHECKING:
    from tupelo.checkpoint.model_config import ModelConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadLayer:
    """One linear layer of a head, and what follows it.

    Attributes:
        name: of the linear, without ``.weight``.
        activation: after the product: a name of ``HEAD_ACTIVATIONS``.
        norm: name of a layer norm after that; "" for none. norm_bias: whether it has a bias.
        rows: the rows of the tensor that are the layer's, out of ``num_rows``; empty means all.
    """

    name: str
    in_features: int
    out_features: int
    bias: bool
    activation: str = "identity"
    norm: str = ""
    norm_bias: bool = True
    rows: tuple[int, ...] = ()
    num_rows: int = 0


HEAD_ACTIVATIONS: Final = ("identity", "tanh", "relu", "gelu", "silu")


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingHead:
    """Hidden states, and the layers that they pass; none means that they are the vector."""

    kind: PoolingKind
    layers: tuple[HeadLayer, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolingConfig:
    """What a model pools, beside ``PoolingInfo``, whose words it shares.

    Attributes:
        heads: by name; "" is the usual one.
        unused: beginnings of the names of tensors that it has no use for.
    """

    task: PoolingTask
    heads: Mapping[str, PoolingHead] = field(hash=False)
    refused: Mapping[str, str] = field(default_factory=dict, hash=False)
    normalize: bool = False
    dimensions: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    activation: str = "identity"
    max_length: int = 0
    template: str = ""
    unused: tuple[str, ...] = ()

    @property
    def needs_whole(self) -> bool:
        """Whether the usual head needs the hidden states of a whole input at once."""
        return self.heads[""].kind in (PoolingKind.MEAN, PoolingKind.CLS)


ENDINGS: Final[dict[str, PoolingTask]] = {
    "ForMaskedLM": PoolingTask.EMBED,
    "ForSequenceClassification": PoolingTask.CLASSIFY,
    "ForTokenClassification": PoolingTask.CLASSIFY,
    "ForRewardModel": PoolingTask.CLASSIFY,
    "ForProcessRewardModel": PoolingTask.CLASSIFY,
    "Model": PoolingTask.EMBED,  # the last one, for others end in it too
}
"""Endings of the names of architectures that pool."""

_GENERATES: Final = ("ForCausalLM", "LMHeadModel")
_STEMS: Final = {"Gemma3Text": "Gemma3"}
_DECODER_UNUSED: Final = ("lm_head.",)


def split_name(architecture: str) -> tuple[str, str]:
    """Stem and ending, such as ``("Llama", "ForSequenceClassification")``; ending "" where it names
    no model that pools."""
    if architecture.endswith(_GENERATES):
        return architecture, ""
    for ending in ENDINGS:
        if architecture.endswith(ending) and architecture != ending:
            stem = architecture.removesuffix(ending)
            return _STEMS.get(stem, stem), ending
    return architecture, ""


def decoder_pooling(fields: Fields, architecture: str, hidden_size: int) -> PoolingConfig | None:
    """What a decoder of this architecture pools; None if it generates.

    Raises:
        CheckpointError: labels that are none. UnsupportedModel: see ``score_activation``.
    """
    _, ending = split_name(architecture)
    if not ending:
        return None
    if ENDINGS[ending] is PoolingTask.EMBED:
        return last_token(fields)
    labels = label_names(fields)
    size = len(labels)
    if ending in ("ForRewardModel", "ForProcessRewardModel"):
        layers = _reward_layers(fields, hidden_size, ending == "ForRewardModel")
        labels = labels[: layers[-1].out_features]
    else:
        bias = ending == "ForTokenClassification"
        layers = (HeadLayer(name="score", in_features=hidden_size, out_features=size, bias=bias),)
    per_token = ending in ("ForTokenClassification", "ForProcessRewardModel")
    kind = PoolingKind.TOKENS if per_token else PoolingKind.LAST
    return PoolingConfig(
        task=PoolingTask.CLASSIFY,
        heads={"": PoolingHead(kind=kind, layers=layers)},
        labels=labels,
        activation=score_activation(fields, len(labels)),
        unused=_DECODER_UNUSED,
    )


class HeadLayers(Protocol):
    """The layers of an encoder's classifier of ``size`` classes."""

    def __call__(self, size: int, *, whole: bool) -> list[HeadLayer]: ...


def encoder_pooling(
    fields: Fields, architecture: str, layers: HeadLayers, unused: tuple[str, ...]
) -> PoolingConfig:
    """What an encoder of this architecture pools.

    Raises:
        CheckpointError: labels that are none. UnsupportedModel: see ``score_activation``.
    """
    _, ending = split_name(architecture)
    if ENDINGS.get(ending, PoolingTask.EMBED) is PoolingTask.EMBED:
        return embedding(fields, PoolingKind.CLS, unused)
    labels, whole = label_names(fields), ending != "ForTokenClassification"
    kind = PoolingKind.TOKENS
    if whole:
        mean = fields.text("classifier_pooling", "cls") == "mean"
        kind = PoolingKind.MEAN if mean else PoolingKind.CLS
    return PoolingConfig(
        task=PoolingTask.CLASSIFY,
        heads={"": PoolingHead(kind=kind, layers=tuple(layers(len(labels), whole=whole)))},
        labels=labels,
        activation=score_activation(fields, len(labels)),
        unused=unused,
    )


def last_token(fields: Fields) -> PoolingConfig:
    """A decoder's embedding: the last token's hidden state."""
    return embedding(fields, PoolingKind.LAST, _DECODER_UNUSED)


def _reward_layers(fields: Fields, size: int, whole: bool) -> tuple[HeadLayer, ...]:
    """Qwen2's rewards: two products. Source: Qwen2.5-Math-RM-72B and Qwen2.5-Math-PRM-7B."""
    out = 1 if whole else fields.integer("num_labels", 2)
    return (
        HeadLayer(
            name="score.0", in_features=size, out_features=size, bias=True, activation="relu"
        ),
        HeadLayer(name="score.2", in_features=size, out_features=out, bias=True),
    )


def embedding(fields: Fields, kind: PoolingKind, unused: tuple[str, ...]) -> PoolingConfig:
    """Normalised vectors of ``kind``, where nothing else is said."""
    sizes = fields.values.get("matryoshka_dimensions") or ()
    if not isinstance(sizes, list | tuple) or not all(type(n) is int and n > 0 for n in sizes):
        raise fields.error("matryoshka_dimensions", "a list of whole numbers above 0")
    return PoolingConfig(
        task=PoolingTask.EMBED,
        heads={"": PoolingHead(kind=kind)},
        normalize=True,
        dimensions=tuple(sizes),
        unused=unused,
    )


def ranking(layer: HeadLayer, answers: tuple[str, ...]) -> PoolingConfig:
    """A decoder that ranks by how likely its last answer is among them, as the next token."""
    return PoolingConfig(
        task=PoolingTask.RANK,
        heads={"": PoolingHead(kind=PoolingKind.LAST, layers=(layer,))},
        labels=answers,
        activation="softmax",
        template="qwen3",
        unused=_DECODER_UNUSED,
    )


def embed_only(shape: "ModelConfig", pooling: PoolingConfig | None) -> PoolingConfig:
    """Hidden states as vectors, of a model that is for something else."""
    kind = PoolingKind.LAST if shape.encoder is None else PoolingKind.CLS
    layers = () if pooling is None else pooling.heads[""].layers
    named = tuple(name for layer in layers for name in (f"{layer.name}.", f"{layer.norm}."))
    unused = (*(_DECODER_UNUSED if pooling is None else pooling.unused), *named)
    return embedding(Fields(shape.raw, "config.json"), kind, tuple(n for n in unused if n != "."))


def label_names(fields: Fields) -> tuple[str, ...]:
    """The classes in order: ``id2label``, else as many as ``num_labels``, 2 by default.

    Raises:
        CheckpointError: keys that are not 0, 1, 2 and so on.
    """
    named = fields.section("id2label").values
    if not named:
        return tuple(f"LABEL_{i}" for i in range(fields.integer("num_labels", 2, high=65536)))
    try:
        by_id = {int(key): value for key, value in named.items()}
    except ValueError:
        by_id = {}
    if sorted(by_id) != list(range(len(named))) or not all(
        isinstance(label, str | int) for label in by_id.values()
    ):
        raise fields.error("id2label", "an object of names by number, from 0 on")
    return tuple(str(by_id[i]) for i in range(len(by_id)))


def score_activation(fields: Fields, num_labels: int) -> str:
    """What turns the head's numbers into scores: said by sentence-transformers or ``problem_type``,
    else the sigmoid of a single class, and softmax over several.

    Raises:
        UnsupportedModel: an activation that is neither.
    """
    said = fields.section("sentence_transformers").values.get("activation_fn")
    said = said or fields.values.get("sbert_ce_default_activation_function")
    if said is not None:
        name = str(said).rpartition(".")[2]
        known = {"Identity": "identity", "Sigmoid": "sigmoid", "Softmax": "softmax"}
        if name not in known:
            raise UnsupportedModel(
                f"{fields.where}: activation {shown(repr(said))} of scores is not supported; "
                f"supported: {', '.join(known)}"
            )
        return known[name]
    problem: Any = fields.values.get("problem_type")
    if problem == "regression":
        return "identity"
    if problem == "multi_label_classification" or num_labels == 1:
        return "sigmoid"
    return "softmax"
