"""Tensors onto the device: from a checkpoint, or made up; and how many bytes they take."""

from tupelo.weights.dummy import dummy_weights
from tupelo.weights.loader import LoadReport, check_weights, load_weights
from tupelo.weights.sizes import WeightSizes, weight_sizes

__all__ = [
    "LoadReport",
    "WeightSizes",
    "check_weights",
    "dummy_weights",
    "load_weights",
    "weight_sizes",
]
