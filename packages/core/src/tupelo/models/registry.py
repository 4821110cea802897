"""Architecture names, to factories that are imported on first use.

A distribution adds models through the entry-point group ``tupelo.models``: the entry's name is the
architecture, its value a callable ``(config, options) -> Model``. Core's own names cannot be taken.
"""

from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from tupelo.checkpoint import ModelConfig
from tupelo.errors import UnsupportedModel
from tupelo.layers import SINGLE, Parallel
from tupelo.models.model import BuildOptions, Model

ModelFactory = Callable[[ModelConfig, BuildOptions], Model]

ENTRY_POINT_GROUP = "tupelo.models"

MODELS: dict[str, tuple[str, str]] = {
    "LlamaForCausalLM": ("tupelo.models.llama", "Llama"),
    "MistralForCausalLM": ("tupelo.models.llama", "Mistral"),
    "Qwen2ForCausalLM": ("tupelo.models.qwen2", "Qwen2"),
    "Qwen3ForCausalLM": ("tupelo.models.qwen3", "Qwen3"),
    "Gemma3ForCausalLM": ("tupelo.models.gemma3", "Gemma3"),
}
"""Architecture, to module and class."""


def find_model(architecture: str, *, points: Iterable[EntryPoint] | None = None) -> ModelFactory:
    """The factory of an architecture.

    Args:
        points: third-party models; by default those installed.

    Raises:
        UnsupportedModel: nobody brings it; lists those that are there.
    """
    if architecture in MODELS:
        module, name = MODELS[architecture]
        factory: ModelFactory = getattr(import_module(module), name)
        return factory
    found = {p.name: p for p in points or entry_points(group=ENTRY_POINT_GROUP)}
    if architecture in found:
        loaded: ModelFactory = found[architecture].load()
        return loaded
    raise UnsupportedModel(
        f"architecture {architecture!r} has no implementation; "
        f"supported: {', '.join(sorted({*MODELS, *found}))}"
    )


def build_model(
    config: ModelConfig,
    *,
    dtype: str = "float32",
    kv_dtype: str = "",
    max_length: int = 0,
    parallel: Parallel = SINGLE,
) -> Model:
    """A model without weights; nothing is allocated. Arguments as in ``BuildOptions``.

    Raises:
        UnsupportedModel: no implementation of the architecture, or of something that it asks for.
        ConfigError: it cannot be split over that many ranks.
    """
    options = BuildOptions(dtype=dtype, kv_dtype=kv_dtype, max_length=max_length, parallel=parallel)
    return find_model(config.architecture)(config, options)
