"""Models on disk: found, opened and checked without torch; tensors are mapped on demand."""

from tupelo.checkpoint.checkpoint import Checkpoint, open_checkpoint
from tupelo.checkpoint.demo import demo_model
from tupelo.checkpoint.encoder import EncoderLayout
from tupelo.checkpoint.experts import ExpertConfig
from tupelo.checkpoint.families import ENCODERS, FAMILIES, Family, find_family
from tupelo.checkpoint.generation import GenerationDefaults
from tupelo.checkpoint.latent import LatentConfig
from tupelo.checkpoint.layout import Layout
from tupelo.checkpoint.locate import locate
from tupelo.checkpoint.model_config import ModelConfig, parse_hf_config
from tupelo.checkpoint.pooling import HeadLayer, PoolingConfig, PoolingHead
from tupelo.checkpoint.rope import QueryGrowth, RopeConfig
from tupelo.checkpoint.tensors import HostTensor, TensorInfo

__all__ = [
    "ENCODERS",
    "FAMILIES",
    "Checkpoint",
    "EncoderLayout",
    "ExpertConfig",
    "Family",
    "GenerationDefaults",
    "HeadLayer",
    "HostTensor",
    "LatentConfig",
    "Layout",
    "ModelConfig",
    "PoolingConfig",
    "PoolingHead",
    "QueryGrowth",
    "RopeConfig",
    "TensorInfo",
    "demo_model",
    "find_family",
    "locate",
    "open_checkpoint",
    "parse_hf_config",
]
