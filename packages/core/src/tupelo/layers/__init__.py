"""Building blocks of models: parameters that know how they are filled, bound to ops once."""

from tupelo.layers.attention import Attention, AttentionKind, Uncached
from tupelo.layers.decoder import (
    DecoderLayer,
    Norms,
    ParallelLayer,
    PostNormLayer,
    SandwichLayer,
    ScaledLayer,
)
from tupelo.layers.embedding import Embedding, Head
from tupelo.layers.expert_weights import ExpertNames
from tupelo.layers.latent import LatentAttention, LatentParts
from tupelo.layers.linear import Linear, Part
from tupelo.layers.mlp import MLP, GatedMLP, PlainMLP
from tupelo.layers.moe import MoE
from tupelo.layers.norm import LayerNorm, Norm, RMSNorm, bind_add_norm
from tupelo.layers.parallel import SINGLE, Parallel
from tupelo.layers.parameter import Parameter, Source, whole
from tupelo.layers.pool_head import PoolHead
from tupelo.layers.rotary import RotaryTable

__all__ = [
    "MLP",
    "SINGLE",
    "Attention",
    "AttentionKind",
    "DecoderLayer",
    "Embedding",
    "ExpertNames",
    "GatedMLP",
    "Head",
    "LatentAttention",
    "LatentParts",
    "LayerNorm",
    "Linear",
    "MoE",
    "Norm",
    "Norms",
    "Parallel",
    "ParallelLayer",
    "Parameter",
    "Part",
    "PlainMLP",
    "PoolHead",
    "PostNormLayer",
    "RMSNorm",
    "RotaryTable",
    "SandwichLayer",
    "ScaledLayer",
    "Source",
    "Uncached",
    "bind_add_norm",
    "whole",
]
