"""The supported model families: architecture names, to the record of what is different.

To add one: a file beside this one that fills a ``Family``, and a line in ``FAMILIES``. Another
distribution adds its own through the entry-point group ``tupelo.models``: the entry's name is the
architecture, its value a ``Family``. Core's own names cannot be taken.
"""

import difflib
import functools
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from tupelo.checkpoint.families.door import door_for
from tupelo.checkpoint.families.family import DECODER, Family
from tupelo.checkpoint.fields import shown
from tupelo.checkpoint.gguf_form import GGUFForm
from tupelo.checkpoint.pooling import split_name
from tupelo.errors import UnsupportedModel

__all__ = [
    "DECODER",
    "ENCODERS",
    "ENTRY_POINT_GROUP",
    "FAMILIES",
    "Family",
    "find_family",
    "gguf_forms",
    "name_of_type",
]

ENTRY_POINT_GROUP: Final = "tupelo.models"

FAMILIES: Final[dict[str, str]] = {
    "LlamaForCausalLM": "llama:LLAMA",
    "MistralForCausalLM": "llama:MISTRAL",
    "Mistral3ForConditionalGeneration": "llama:MISTRAL3",
    "Llama4ForCausalLM": "llama4:LLAMA4",
    "Llama4ForConditionalGeneration": "llama4:LLAMA4_WITH_VISION",
    "Qwen2ForCausalLM": "qwen:QWEN2",
    "Qwen3ForCausalLM": "qwen:QWEN3",
    "GemmaForCausalLM": "gemma:GEMMA",
    "Gemma2ForCausalLM": "gemma:GEMMA2",
    "Gemma3ForCausalLM": "gemma:GEMMA3",
    "Gemma3ForConditionalGeneration": "gemma:GEMMA3_WITH_VISION",
    "Phi3ForCausalLM": "phi3:PHI3",
    "GraniteForCausalLM": "granite:GRANITE",
    "Olmo2ForCausalLM": "olmo2:OLMO2",
    "Olmo3ForCausalLM": "olmo3:OLMO3",
    "GlmForCausalLM": "glm:GLM",
    "Glm4ForCausalLM": "glm:GLM4",
    "Starcoder2ForCausalLM": "starcoder2:STARCODER2",
    "CohereForCausalLM": "cohere:COHERE",
    "Cohere2ForCausalLM": "cohere:COHERE2",
    "GPT2LMHeadModel": "gpt2:GPT2",
    "MixtralForCausalLM": "mixtral:MIXTRAL",
    "Qwen2MoeForCausalLM": "qwen_moe:QWEN2_MOE",
    "Qwen3MoeForCausalLM": "qwen_moe:QWEN3_MOE",
    "Glm4MoeForCausalLM": "glm4_moe:GLM4_MOE",
    "DeepseekV2ForCausalLM": "deepseek:DEEPSEEK_V2",
    "DeepseekV3ForCausalLM": "deepseek:DEEPSEEK_V3",
    "MiniCPM3ForCausalLM": "deepseek:MINICPM3",
    "GptOssForCausalLM": "gpt_oss:GPT_OSS",
    "InternLM3ForCausalLM": "internlm3:INTERNLM3",
}
"""Architecture, to file and record."""

ENCODERS: Final[dict[str, str]] = {
    "BertModel": "bert:BERT",
    "RobertaModel": "bert:ROBERTA",
    "XLMRobertaModel": "bert:XLM_ROBERTA",
    "ModernBertModel": "modernbert:MODERNBERT",
}
"""The same for those that never generate."""


def find_family(
    architecture: str,
    *,
    model_type: str = "",
    where: str = "config.json",
    points: Iterable[EntryPoint] | None = None,
) -> Family:
    """The record of an architecture: of ``LlamaForSequenceClassification`` that of Llama; that of
    transformers' own modules where only these have it.

    Args:
        model_type: with it, classes of the installed transformers are found too.
        where: what to call the configuration in errors.
        points: other distributions' families; by default those installed.

    Raises:
        UnsupportedModel: nobody brings it; names the nearest one and lists those that are there. Or
            only transformers has it, and its attention cannot be ours.
    """
    stem, ending = split_name(architecture)
    bases = ("ForCausalLM", "LMHeadModel", "Model") if ending else ()
    names = (architecture, *(stem + base for base in bases))
    for name in names:
        if name in FAMILIES or name in ENCODERS:
            return _own(name)
    found = {p.name: p for p in points or entry_points(group=ENTRY_POINT_GROUP)}
    for name in names:
        if name in found:
            return _loaded(found[name], where)
    known = sorted({*FAMILIES, *ENCODERS, *found})
    near = difflib.get_close_matches(architecture, known, n=1, cutoff=0.0)[0]
    if not ending and (door := door_for(architecture, model_type, where, near)) is not None:
        return door
    raise UnsupportedModel(
        f"{where}: architecture {shown(repr(architecture))} is not supported; "
        f"the nearest supported one is {near}. Supported: {', '.join(known)}"
    )


def name_of_type(model_type: str) -> str | None:
    """Core's first architecture of a ``model_type``, for configurations that name no
    architecture."""
    names = (*FAMILIES, *ENCODERS)
    return next((name for name in names if _own(name).model_type == model_type), None)


@functools.cache
def gguf_forms() -> dict[str, tuple[str, GGUFForm]]:
    """By ``general.architecture`` of GGUF files: the first architecture of that form, and it."""
    forms: dict[str, tuple[str, GGUFForm]] = {}
    for name in FAMILIES:
        if (form := _own(name).gguf) is not None:
            forms.setdefault(form.architecture, (name, form))
    return forms


def _loaded(point: EntryPoint, where: str) -> Family:
    family = point.load()
    if not isinstance(family, Family):
        raise UnsupportedModel(
            f"{where}: the installed entry point for {point.name!r} ({point.value}) is no "
            "tupelo.checkpoint.Family"
        )
    return family


def _own(architecture: str) -> Family:
    module, name = (FAMILIES | ENCODERS)[architecture].split(":")
    family: Family = getattr(import_module(f"{__name__}.{module}"), name)
    return family
