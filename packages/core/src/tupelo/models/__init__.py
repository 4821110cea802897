"""Models: a generic decoder, and what no configuration of it can say; found by architecture."""

from tupelo.models.model import BuildOptions, Model
from tupelo.models.registry import ModelFactory, build_model, find_model

__all__ = ["BuildOptions", "Model", "ModelFactory", "build_model", "find_model"]
