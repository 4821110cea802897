"""The hardware contract and its defaults; what a vendor's package imports."""

from tupelo.backend.attention import AttentionBackend, HeadSplit, Latent, Plan, ReferenceAttention
from tupelo.backend.collectives import Collectives, TorchCollectives
from tupelo.backend.contract import (
    CONTRACT_VERSION,
    Backend,
    Capabilities,
    GraphGrade,
    Unavailable,
    check_attention,
    check_part,
)
from tupelo.backend.discovery import Candidate, find_backend, probe
from tupelo.backend.kv_pool import KVPool, TorchKVPool
from tupelo.backend.runner import EagerRunner, Forward, Runner, RunnerParts, StepModel
from tupelo.backend.runtime import Done, Event, Mapped, Profile, Runtime, Ticket, TorchRuntime
from tupelo.backend.sampler import Sampled, Sampler, TorchSampler, score, uniform
from tupelo.backend.step import StepInputs
from tupelo.ops import Kernel, LinearWeight, OpCall, OpTable, Tier

__all__ = [
    "CONTRACT_VERSION",
    "AttentionBackend",
    "Backend",
    "Candidate",
    "Capabilities",
    "Collectives",
    "Done",
    "EagerRunner",
    "Event",
    "Forward",
    "GraphGrade",
    "HeadSplit",
    "KVPool",
    "Kernel",
    "Latent",
    "LinearWeight",
    "Mapped",
    "OpCall",
    "OpTable",
    "Plan",
    "Profile",
    "ReferenceAttention",
    "Runner",
    "RunnerParts",
    "Runtime",
    "Sampled",
    "Sampler",
    "StepInputs",
    "StepModel",
    "Ticket",
    "Tier",
    "TorchCollectives",
    "TorchKVPool",
    "TorchRuntime",
    "TorchSampler",
    "Unavailable",
    "check_attention",
    "check_part",
    "find_backend",
    "probe",
    "score",
    "uniform",
]
