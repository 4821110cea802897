"""Building an engine's parts: backend, model, weights, pools, runner; each phase timed and
announced."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from tupelo.backend import (
    Backend,
    Runner,
    RunnerParts,
    Runtime,
    check_attention,
    check_part,
    find_backend,
)
from tupelo.batch import Feature
from tupelo.checkpoint import (
    Checkpoint,
    ModelConfig,
    demo_model,
    locate,
    open_checkpoint,
    parse_hf_config,
)
from tupelo.config import EngineConfig, environment
from tupelo.engine.messages import EngineInfo
from tupelo.engine.plan import (
    EnginePlan,
    choose_dtype,
    largest_step,
    longest_input,
    plan_engine,
    step_tokens,
)
from tupelo.engine.resolve import resolve
from tupelo.engine.task import for_task, has_segments, head_kinds, pooling_info
from tupelo.errors import CapabilityError, ConfigError
from tupelo.models import Model, build_model
from tupelo.ops import OPS, OpTable
from tupelo.scheduler import SchedulerConfig
from tupelo.weights import dummy_weights, load_weights

logger = logging.getLogger(__name__)

OnProgress = Callable[[str, float], None]


@dataclass(slots=True)
class Phases:
    """Seconds of each start-up phase, in order; announces each as it begins."""

    on_progress: OnProgress | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what runs inside."""
        if self.on_progress is not None:
            self.on_progress(name, 0.0)
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """What is to be served: a checkpoint, or a bare configuration with dummy weights."""

    config: ModelConfig
    checkpoint: Checkpoint | None
    path: str
    tokenizer_path: str


@dataclass(kw_only=True, slots=True)
class Built:
    """A device wing that is ready to run steps.

    Attributes:
        source: what ``model`` was loaded from.
        model, runner: None while their memory is given back (see ``tupelo.engine.resident``).
        config: as given, with what was left to the backend filled in.
        builds_when_ready: ``Backend.builds`` after warming up.
    """

    backend: Backend
    runtime: Runtime
    source: Source
    model: Model | None
    runner: Runner | None
    plan: EnginePlan
    table: OpTable
    info: EngineInfo
    config: EngineConfig
    builds_when_ready: int


def find_source(config: EngineConfig) -> Source:
    """Find and open what ``config.model`` names; the demo model where it names nothing.

    Raises:
        CheckpointError: absent, broken, or unsupported.
    """
    offline = config.offline or environment().offline
    if config.model:
        path = locate(config.model, revision=config.revision or None, offline=offline)
    else:
        path = demo_model(offline=offline)
    tokenizer = config.tokenizer
    if config.load_format == "dummy":
        file = Path(path) / "config.json"
        if file.is_file():
            with file.open(encoding="utf-8") as stream:
                shape = parse_hf_config(json.load(stream), where=str(file))
            source = Source(
                config=shape, checkpoint=None, path=str(path), tokenizer_path=tokenizer or str(path)
            )
            return with_task(source, config.task)
    checkpoint = open_checkpoint(path)
    if config.load_format not in ("auto", "dummy", checkpoint.format):
        raise ConfigError(
            f"--load-format {config.load_format}: {path} holds {checkpoint.format} weights"
        )
    if checkpoint.needs_remote_code:
        logger.warning("%s brings Python code of its own; it is not run", path)
    found = tokenizer or (str(checkpoint.tokenizer_path) if checkpoint.tokenizer_path else "")
    dummy = config.load_format == "dummy"
    source = Source(
        config=checkpoint.config,
        checkpoint=None if dummy else checkpoint,
        path=str(path),
        tokenizer_path=found,
    )
    return with_task(source, config.task)


def with_task(source: Source, task: str) -> Source:
    """``source`` for what ``--task`` says that it is for.

    Raises:
        ConfigError: this model cannot be used for that.
    """
    shape = for_task(source.config, task, source.tokenizer_path)
    return replace(source, config=shape)


def make_model(config: EngineConfig, shape: ModelConfig, backend: Backend) -> Model:
    """The model without weights, checked against what the backend can do.

    Raises:
        UnsupportedModel: no implementation of it.
        CapabilityError: the backend cannot run it as configured; names the feature.
    """
    dtype = choose_dtype(config, shape.dtype, backend)
    kv_dtype = dtype if config.kv_cache_dtype == "auto" else config.kv_cache_dtype
    known = backend.capabilities.kv_dtypes or backend.capabilities.dtypes
    if kv_dtype not in known:
        raise CapabilityError(
            f"backend {backend.name!r} cannot store K/V as {kv_dtype}; it has {', '.join(known)}"
        )
    invariant = backend.capabilities.batch_invariant
    if config.batch_invariant and not (dtype in invariant and kv_dtype in invariant):
        raise CapabilityError(
            f"--batch-invariant: backend {backend.name!r} is not batch-invariant in {dtype} over "
            f"{kv_dtype} K/V; it is in: {', '.join(invariant) or 'no type'}"
        )
    context = longest_input(config, shape)
    if context > shape.max_position_embeddings:
        raise ConfigError(
            f"--context-length: {context} is above the model's {shape.max_position_embeddings}"
        )
    model = build_model(shape, dtype=dtype, kv_dtype=kv_dtype, max_length=context)
    check_attention(backend.capabilities, model.attention_specs, config.page_size)
    return model


def build(
    config: EngineConfig,
    *,
    backend: Backend | None = None,
    source: Source | None = None,
    on_progress: OnProgress | None = None,
    show_bars: bool = False,
) -> Built:
    """Everything that runs steps.

    Args:
        config: what to build.
        backend: instead of the one that ``config`` names.
        source: instead of what ``config.model`` names.
        on_progress: told of each phase as it begins.
        show_bars: progress bars on the terminal.

    Raises:
        TupeloError: anything that is wrong with model, options, backend or memory.
    """
    phases = Phases(on_progress)
    with phases.phase("find the backend"):
        backend = (backend or find_backend(config.backend or None)).check()
        config = resolve(config, backend)
        runtime = backend.runtime(backend.device)
        check_part("runtime", runtime)
    with phases.phase("open the model"):
        source = source or find_source(config)
        model = make_model(config, source.config, backend)
        plan = plan_engine(config, model, backend, runtime)
    before = runtime.allocated()
    with phases.phase("load the weights"):
        fill_model(model, source, config, runtime, show_bars=show_bars)
    with phases.phase("choose and pack kernels"):
        table = OpTable(OPS, backend.kernels, fallback=config.kernel_fallback)
        model.bind(table)
        runtime.release_unused()
    weight_bytes = runtime.allocated() - before
    with phases.phase("allocate and warm up"):
        runner, kv_bytes = make_runner(config, backend, runtime, model, plan, table)
    memory = {
        "planned_weight_bytes": plan.memory.weight_bytes,
        "planned_kv_bytes": plan.memory.kv_bytes,
        "planned_workspace_bytes": plan.memory.workspace_bytes,
        "kv_bytes": kv_bytes,
        "weight_bytes": weight_bytes,
    }
    info = _describe(config, source, backend, model, plan, table, memory, phases)
    return Built(
        backend=backend,
        runtime=runtime,
        source=source,
        model=model,
        runner=runner,
        plan=plan,
        table=table,
        info=info,
        config=config,
        builds_when_ready=backend.builds(),
    )


def fill_model(
    model: Model, source: Source, config: EngineConfig, runtime: Runtime, *, show_bars: bool = False
) -> None:
    """Give a model its weights: the checkpoint's, or dummy ones where there is none.

    Raises:
        CheckpointError: the checkpoint does not fit the model.
    """
    if source.checkpoint is None:
        dummy_weights(model, config.seed, device=runtime.device)
    else:
        load_weights(model, source.checkpoint, device=runtime.device, progress=show_bars)


def scheduler_config(built: Built) -> SchedulerConfig:
    """What the scheduler is told about what was built."""
    config = built.config
    return SchedulerConfig(
        groups=built.plan.groups,
        page_size=config.page_size,
        context_length=built.plan.context_length,
        eos_token_ids=tuple(built.info.eos_token_ids),
        max_running=config.max_running_requests,
        max_queued=config.max_queued_requests,
        chunk_tokens=step_tokens(config, built.plan.context_length),
        step_s=max(0.0, config.max_step_ms / 1e3),
        policy=config.schedule_policy,
        eviction=config.radix_eviction_policy,
        radix=not config.disable_radix_cache,
        same_step_sharing=built.backend.capabilities.same_step_sharing,
        prefix_group_tokens=built.backend.capabilities.prefix_group_tokens,
        seed=config.seed,
        jump_forward=not config.disable_jump_forward,
        heads=head_kinds(built.source.config),
        token_types=has_segments(built.source.config),
    )


def make_runner(
    config: EngineConfig,
    backend: Backend,
    runtime: Runtime,
    model: Model,
    plan: EnginePlan,
    table: OpTable,
) -> tuple[Runner, int]:
    """What runs steps of a model that has its weights, warmed up; and the bytes of its K/V pool.

    Everything that it needs on the device beside the weights goes when it goes.
    """
    max_pages = -(-plan.context_length // config.page_size) + 1
    kv = backend.kv_pool(
        model.kv_specs, [group.num_pages for group in plan.groups], config.page_size, runtime
    )
    attention = backend.attention(
        model.attention_specs,
        config.page_size,
        max_pages,
        runtime,
        not backend.capabilities.functional_kv,
    )
    sampler = backend.sampler(config.max_running_requests, model.config.vocab_size, table, runtime)
    parts = RunnerParts(
        model=model,
        attention=attention,
        kv=kv,
        sampler=sampler,
        runtime=runtime,
        num_slots=config.max_running_requests,
        max_pages=max_pages,
        num_groups=len(model.kv_specs),
        depth=config.pipeline_depth,
        max_tokens=largest_step(config, model.config, plan.context_length),
        generates=model.config.pooling is None,
    )
    runner = backend.runner(parts)
    for name, part in (
        ("kv_pool", kv),
        ("attention", attention),
        ("sampler", sampler),
        ("runner", runner),
    ):
        check_part(name, part)
    runner.warmup((), [frozenset({feature}) for feature in Feature])
    return runner, kv.num_bytes()


def _describe(
    config: EngineConfig,
    source: Source,
    backend: Backend,
    model: Model,
    plan: EnginePlan,
    table: OpTable,
    memory: dict[str, int],
    phases: Phases,
) -> EngineInfo:
    shape = source.config
    defaults = source.checkpoint.generation if source.checkpoint is not None else None
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    values = {name: getattr(defaults, name) for name in names} if defaults is not None else {}
    kernels = [
        {
            "op": choice.call.op,
            "dtype": choice.call.dtype,
            "shape": "x".join(map(str, choice.call.shape)),
            "kernel": choice.kernel,
            "tier": choice.tier.value,
            "refused": "; ".join(choice.refused),
        }
        for choice in table.choices
    ]
    return EngineInfo(
        model_path=source.path,
        tokenizer_path=source.tokenizer_path,
        architecture=shape.architecture,
        model_type=shape.model_type,
        backend=backend.name,
        dtype=model.options.dtype,
        vocab_size=shape.vocab_size,
        context_length=plan.context_length,
        eos_token_ids=list(shape.eos_token_ids),
        page_size=config.page_size,
        num_pages=[group.num_pages for group in plan.groups],
        max_total_tokens=plan.memory.kv_tokens,
        max_running_requests=config.max_running_requests,
        kernels=kernels,
        memory=memory,
        versions={
            k: str(v)
            for k, v in {"tupelo-core": version("tupelo-core"), **backend.versions}.items()
        },
        phases_s=phases.seconds,
        generation_defaults={k: float(v) for k, v in values.items() if v is not None},
        pooling=pooling_info(shape),
    )


__all__ = [
    "Built",
    "Source",
    "build",
    "fill_model",
    "find_source",
    "make_model",
    "make_runner",
    "scheduler_config",
]
