"""Architecture names, to the classes that compute them, imported on first use."""

from collections.abc import Callable
from importlib import import_module

from tupelo.checkpoint import ModelConfig, find_family
from tupelo.layers import SINGLE, Parallel
from tupelo.models.model import BuildOptions, Model

ModelFactory = Callable[[ModelConfig, BuildOptions], Model]


def find_model(architecture: str, model_type: str = "") -> ModelFactory:
    """What builds an architecture: the class that its family names; see ``find_family``.

    Raises:
        UnsupportedModel: nobody brings it; lists those that are there.
    """
    module, name = find_family(architecture, model_type=model_type).model.split(":")
    factory: ModelFactory = getattr(import_module(module), name)
    return factory


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
    return find_model(config.architecture, config.model_type)(config, options)
