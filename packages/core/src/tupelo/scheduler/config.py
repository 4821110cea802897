"""What the scheduler is told once, and what it counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tupelo.pooling import PoolingKind
from tupelo.specs import PageGroup


@dataclass(frozen=True, kw_only=True, slots=True)
class SchedulerConfig:
    """What the scheduler is told once.

    Attributes:
        groups: page groups. page_size: tokens a page. context_length: longest prompt + output.
        eos_token_ids: the model's end tokens.
        max_running, max_queued: requests. chunk_tokens: prompt tokens a step; 0 means whole
            prompts.
        policy, eviction: names. radix: whether prefixes are shared.
        same_step_sharing: rows may read pages that another row of the same step fills.
        worth_waiting_tokens: a shared prefix at least this long is waited for.
        prefix_group_tokens: see ``Capabilities``; 0 names no groups.
        seed: for requests that bring none, and for the random policy.
        jump_forward: tokens that a grammar forces are appended without being sampled.
        step_s: longest step, as predicted, while a streamed request decodes and few requests wait;
            0.0: no bound.
        heads: of a model that pools: which hidden states each head sees.
        token_types: the model tells the two texts of a pair apart.
    """

    groups: tuple[PageGroup, ...]
    page_size: int
    context_length: int
    eos_token_ids: tuple[int, ...] = ()
    max_running: int = 64
    max_queued: int = 1024
    chunk_tokens: int = 512
    policy: str = "fcfs"
    eviction: str = "lru"
    radix: bool = True
    same_step_sharing: bool = False
    worth_waiting_tokens: int = 32
    prefix_group_tokens: int = 0
    seed: int = 0
    jump_forward: bool = True
    step_s: float = 0.0
    heads: Mapping[str, PoolingKind] = field(default_factory=dict, hash=False)
    token_types: bool = False


@dataclass(slots=True)
class Counters:
    """What has happened since the start; monotonic."""

    steps: int = 0
    prefill_tokens: int = 0
    cached_tokens: int = 0
    decode_tokens: int = 0
    forced_tokens: int = 0
    retractions: int = 0
    finished: int = 0
    aborted: int = 0
    waits: int = 0
