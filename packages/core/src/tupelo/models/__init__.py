"""Models: one thin file per family over the generic decoder, found by architecture."""

from tupelo.models.model import BuildOptions, Model
from tupelo.models.registry import ENTRY_POINT_GROUP, MODELS, ModelFactory, build_model, find_model

__all__ = [
    "ENTRY_POINT_GROUP",
    "MODELS",
    "BuildOptions",
    "Model",
    "ModelFactory",
    "build_model",
    "find_model",
]
