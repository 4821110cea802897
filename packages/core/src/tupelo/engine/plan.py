"""How memory is divided, from headers alone: weights, workspace, and K/V pages with what is left.

``tupelo plan`` prints this and ``serve`` refuses by it, with the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tupelo.backend import Backend, Runtime
from tupelo.checkpoint import ModelConfig
from tupelo.config import EngineConfig
from tupelo.errors import ConfigError, OutOfMemory
from tupelo.models import Model
from tupelo.ops import OPS, OpTable
from tupelo.specs import KVSpec, MemoryPlan, PageGroup, dtype_bytes
from tupelo.weights import weight_sizes

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePlan:
    """What an engine will be built with.

    Attributes:
        memory: bytes. groups: pages of each group. context_length: longest prompt + output.
    """

    memory: MemoryPlan
    groups: tuple[PageGroup, ...]
    context_length: int


def choose_dtype(config: EngineConfig, checkpoint_dtype: str, backend: Backend) -> str:
    """The compute type: as configured, or the checkpoint's if backend and checkpoint are 16-bit.

    Raises:
        ConfigError: the backend does not have the configured one.
    """
    dtypes = backend.capabilities.dtypes
    if config.dtype != "auto":
        if config.dtype not in dtypes:
            raise ConfigError(
                f"--dtype: backend {backend.name!r} has no {config.dtype}; it has {dtypes}"
            )
        return config.dtype
    narrow = dtype_bytes(dtypes[0]) == 2 and dtype_bytes(checkpoint_dtype) == 2
    return checkpoint_dtype if narrow and checkpoint_dtype in dtypes else dtypes[0]


def plan_engine(
    config: EngineConfig, model: Model, backend: Backend, runtime: Runtime
) -> EnginePlan:
    """Divide memory for a model as built, without weights, under a resolved config.

    The budget is ``mem_fraction_static`` of all memory, but no more than is free. Weights and
    workspace are taken off; the rest holds K/V, at most what all slots could use at full context.

    Raises:
        OutOfMemory: weights, workspace and the K/V of one shortest useful context do not fit, or an
            explicit ``max_total_tokens`` or ``context_length`` does not; says all figures.
    """
    free, total = runtime.memory()
    fraction = config.mem_fraction_static
    budget = min(int(total * fraction), free)
    table = OpTable(OPS, backend.kernels, fallback=config.kernel_fallback)
    weights = weight_sizes(model, table).total_bytes
    context = longest_input(config, model.config)
    workspace = workspace_bytes(config, model, context)
    room = max(0, budget - weights - workspace)
    groups = _divide(config, model.kv_specs, room, context)
    page_bytes = [spec.bytes_per_token() * config.page_size for spec in model.kv_specs]
    if not groups:
        return _without_kv(weights, workspace, budget, context)
    kv_bytes = sum(g.num_pages * b for g, b in zip(groups, page_bytes, strict=True))
    whole = [g.num_pages for g in groups if g.window is None] or [g.num_pages for g in groups]
    kv_tokens = min(whole) * config.page_size
    memory = MemoryPlan(
        weight_bytes=weights,
        kv_bytes=kv_bytes + sum(page_bytes),  # one scratch page a group
        workspace_bytes=workspace,
        kv_tokens=kv_tokens,
        bytes_per_token=sum(spec.bytes_per_token() for spec in model.kv_specs),
        notes=(
            f"{total / GIB:.2f} GiB of memory, {free / GIB:.2f} free; budget "
            f"{budget / GIB:.2f} ({fraction:.0%} of all, at most what is free)",
        ),
    )
    _refuse_what_does_not_fit(config, memory, room, context)
    return EnginePlan(memory=memory, groups=groups, context_length=min(context, kv_tokens))


def _without_kv(weights: int, workspace: int, budget: int, context: int) -> EnginePlan:
    """The plan of a model that stores nothing of its inputs.

    Raises:
        OutOfMemory: weights and workspace do not fit.
    """
    memory = MemoryPlan(
        weight_bytes=weights, kv_bytes=0, workspace_bytes=workspace, kv_tokens=0, bytes_per_token=0
    )
    if weights + workspace > budget:
        raise OutOfMemory(
            f"weights {weights / GIB:.2f} GiB and workspace {workspace / GIB:.2f} GiB do not fit "
            f"into {budget / GIB:.2f} GiB. Lower --chunked-prefill-size, --context-length or "
            "--max-running-requests, or raise --mem-fraction-static"
        )
    return EnginePlan(memory=memory, groups=(), context_length=context)


def longest_input(config: EngineConfig, shape: ModelConfig) -> int:
    """Tokens of the longest prompt and its output: as configured, or as the model's authors say."""
    meant = shape.pooling.max_length if shape.pooling is not None else 0
    most = shape.max_position_embeddings
    return config.context_length or min(meant or most, most)


def largest_step(config: EngineConfig, shape: ModelConfig, context: int) -> int:
    """Prompt tokens of one step at most; a model that needs whole inputs is not cut short."""
    whole = shape.bidirectional or (shape.pooling is not None and shape.pooling.needs_whole)
    return max(step_tokens(config, context), context if whole else 0)


def step_tokens(config: EngineConfig, context: int) -> int:
    """Prompt tokens of one step at most, under a resolved config."""
    return context if config.chunked_prefill_size < 0 else min(config.chunked_prefill_size, context)


def workspace_bytes(config: EngineConfig, model: Model, context: int) -> int:
    """Bytes beside weights and K/V: the widest activations of a step, its logits, the slots'
    state."""
    shape, size = model.config, dtype_bytes(model.options.dtype)
    rows = config.max_running_requests
    tokens = largest_step(config, shape, context) + rows
    heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    activations = tokens * (4 * shape.hidden_size + heads + 3 * shape.intermediate_size) * size
    logits = 0 if shape.pooling is not None else rows * shape.vocab_size * (size + 3 * 4)
    tables = len(model.kv_specs) * (rows + 1) * -(-context // config.page_size) * 4
    return activations + logits + tables


def _divide(
    config: EngineConfig, specs: Sequence[KVSpec], room: int, context: int
) -> tuple[PageGroup, ...]:
    """Pages of each group: windowed groups get what their windows can use, the full one the
    rest."""
    size, rows = config.page_size, config.max_running_requests
    most = -(-context // size) * rows
    if config.max_total_tokens:
        most = -(-config.max_total_tokens // size)
    chunk = step_tokens(config, context)
    # Beside full attention, a window needs no more than every slot can see. Alone, it holds all.
    full = any(s.window is None for s in specs)
    limits = [
        min(most, rows * -(-(s.window + chunk) // size)) if full and s.window else most
        for s in specs
    ]
    page_bytes = [spec.bytes_per_token() * size for spec in specs]
    scratch = sum(page_bytes)
    pages = [0] * len(specs)
    left = max(0, room - scratch)
    for index in sorted(range(len(specs)), key=lambda i: limits[i]):
        # Every group still to be filled can have as many pages as this one.
        sharing = sum(page_bytes[i] for i in range(len(specs)) if pages[i] == 0)
        pages[index] = max(1, min(limits[index], left // sharing))
        left -= pages[index] * page_bytes[index]
    return tuple(PageGroup(num_pages=n, window=s.window) for n, s in zip(pages, specs, strict=True))


def _refuse_what_does_not_fit(
    config: EngineConfig, memory: MemoryPlan, room: int, context: int
) -> None:
    shortest = min(context, 512)
    if config.context_length:
        shortest = context
    if config.max_total_tokens:
        shortest = max(config.max_total_tokens, shortest if config.context_length else 0)
    if memory.kv_tokens >= shortest:
        return
    raise OutOfMemory(
        f"weights {memory.weight_bytes / GIB:.2f} GiB and workspace "
        f"{memory.workspace_bytes / GIB:.2f} GiB leave {room / GIB:.2f} GiB for K/V; that is "
        f"{memory.kv_tokens} tokens at {memory.bytes_per_token} bytes each, but {shortest} are "
        f"needed ({memory.notes[0]}). Lower --context-length, --max-total-tokens or "
        "--max-running-requests, or raise --mem-fraction-static"
    )
