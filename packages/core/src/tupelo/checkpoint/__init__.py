"""Models on disk: found, opened and checked without torch; tensors are mapped on demand."""

from tupelo.checkpoint.checkpoint import Checkpoint, open_checkpoint
from tupelo.checkpoint.demo import demo_model
from tupelo.checkpoint.generation import GenerationDefaults
from tupelo.checkpoint.locate import locate
from tupelo.checkpoint.model_config import ModelConfig, parse_hf_config
from tupelo.checkpoint.rope import RopeConfig
from tupelo.checkpoint.tensors import HostTensor, TensorInfo

__all__ = [
    "Checkpoint",
    "GenerationDefaults",
    "HostTensor",
    "ModelConfig",
    "RopeConfig",
    "TensorInfo",
    "demo_model",
    "locate",
    "open_checkpoint",
    "parse_hf_config",
]
