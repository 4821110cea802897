"""The fakes: what the hostile one refuses, the recording one has seen, and null leaves out."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tupelo.backend import Backend, Capabilities, KVPool, Plan, ReferenceAttention, StepInputs
from tupelo.batch import Bucket
from tupelo.config import EngineConfig
from tupelo.conformance import Target, run_kit
from tupelo.conformance.fakes import HostileFake, NullFake, RecordingFake
from tupelo.conformance.levels.attention import base_geometry
from tupelo.conformance.levels.engine import GREEDY, VOCAB, gemma3, llama, prompts
from tupelo.conformance.levels.pooling import models
from tupelo.conformance.runner_world import Run, RunnerWorld
from tupelo.engine import Engine
from tupelo.errors import BackendError, CapabilityError
from tupelo.ops import OPS

COMPUTE = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}


class ReadsOnTheHost(ReferenceAttention):
    """Looks at a value, in the way that it is given."""

    look: Callable[[Tensor], Any]

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        spec: int,
        layer: int,
        kv: KVPool,
        plan: Plan,
        sinks: Tensor | None = None,
    ) -> Tensor:
        type(self).look(q)
        return super().forward(q, k, v, spec, layer, kv, plan)


class ShapedByLengths(ReferenceAttention):
    """Reads no more pages than the longest row has, though the step has a bucket."""

    def plan(self, inputs: StepInputs, out: Plan | None = None) -> Plan:
        host = replace(inputs.host, bucket=Bucket())
        return super().plan(replace(inputs, host=host), out)


def step_with(attention: Callable[..., Any]) -> None:
    """Three steps of the hostile backend with another attention."""
    fake = HostileFake(latency_s=0.0)
    target = Target(replace(fake.backend, attention=attention))
    world = RunnerWorld(target, base_geometry(target))
    world.step(Run(0, world.admit(0, 3)), Run(1, world.admit(1, 3)))
    for _ in range(5):
        world.step(Run(0), Run(1))


def test_the_hostile_backend_accepts_the_defaults() -> None:
    step_with(lambda *args: ReferenceAttention(*args))


LOOKS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).any()),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "float": lambda x: float(x.max()),
    "int": lambda x: int(x.argmax()),
    "tolist": lambda x: x[0, 0].tolist(),
    "numpy": lambda x: x.numpy(),
    "asarray": lambda x: np.asarray(x),
    "index": lambda x: [0] * x.argmax().clamp(max=3),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("name", LOOKS)
def test_the_hostile_backend_refuses_host_reads(name: str) -> None:
    class Looks(ReadsOnTheHost):
        look = LOOKS[name]

    with pytest.raises(BackendError, match=r"reads|read|depends on values"):
        step_with(lambda *args: Looks(*args))


def test_the_hostile_backend_refuses_writes_in_place() -> None:
    with pytest.raises(BackendError, match="in place"):
        step_with(lambda *args: ReferenceAttention(*args[:4], True))


def test_the_hostile_backend_refuses_to_compile_anew() -> None:
    with pytest.raises(BackendError, match="compiled anew"):
        step_with(lambda *args: ShapedByLengths(*args))


def test_the_hostile_backend_insists_on_its_buckets() -> None:
    fake = HostileFake(latency_s=0.0)
    target = Target(fake.backend)
    world = RunnerWorld(target, base_geometry(target))
    assert world.runner.bucket(5, 2) == Bucket(16, 4)
    with pytest.raises(CapabilityError, match="largest bucket"):
        world.runner.bucket(5000, 1)
    for wrong in (Bucket(), Bucket(5, 4), Bucket(4, 4)):
        world.runner.bucket = lambda tokens, rows, wrong=wrong: wrong  # type: ignore[method-assign]
        prompt = world.admit(0, 6)
        del world.runner.bucket
        with pytest.raises(BackendError, match=r"bucket|too small"):
            _launch_in(world, wrong, prompt)


def _launch_in(world: RunnerWorld, bucket: Bucket, prompt: tuple[int, ...]) -> None:
    batch = world._batch([Run(0, prompt)], frozenset(), False)
    batch.bucket = bucket
    world.runner.forward(batch)


def test_the_hostile_backend_sees_staging_that_changes_too_early() -> None:
    fake = HostileFake(latency_s=0.0)
    runtime = fake.backend.runtime("cpu")
    array = np.arange(4)
    tensor = runtime.to_device(array)
    array[0] = 9
    assert tensor.tolist() == [0, 1, 2, 3]
    with pytest.raises(BackendError, match="staging"):
        runtime.to_host([tensor]).wait()


def test_hostile_results_arrive_late() -> None:
    fake = HostileFake(latency_s=0.05)
    runtime = fake.backend.runtime("cpu")
    before = time.perf_counter()
    ticket = runtime.to_host([torch.ones(2)])
    assert not ticket.ready()
    assert ticket.wait()[0].tolist() == [1, 1]
    assert time.perf_counter() - before >= 0.05
    assert ticket.ready()


def run_engine(backend: Backend, **options: Any) -> list[list[int]]:
    """Tokens of the kit's prompts."""
    settings: dict[str, Any] = {"dtype": "float32", "page_size": 4, "max_total_tokens": 1024}
    config = EngineConfig(**(settings | options))
    with Engine(config, backend=backend, source=llama(16)) as engine:
        replies = engine.generate(input_ids=prompts(), sampling_params=COMPUTE)
    return [reply["output_ids"] for reply in replies]


def test_two_steps_in_flight_are_launched_before_the_first_is_readable() -> None:
    fakes = {depth: HostileFake(latency_s=0.03, device_s=0.01) for depth in (1, 2)}
    tokens = {d: run_engine(f.backend, pipeline_depth=d) for d, f in fakes.items()}
    assert tokens[1] == tokens[2]
    launched, readable = (fakes[2].clock.times(w) for w in ("launched", "readable"))
    decoding = sorted(launched)[1:-2]
    assert len(decoding) >= 3
    assert all(launched[step + 1] < readable[step] for step in decoding)
    launched, read = (fakes[1].clock.times(w) for w in ("launched", "read"))
    assert all(launched[step + 1] >= read[step] for step in sorted(read)[:-1])


def test_device_steps_run_one_after_another() -> None:
    fake = HostileFake(latency_s=0.0, device_s=0.02)
    for step in range(3):
        fake.clock.launch(step)
    rounding = 1e-6  # of sums of times that are as large as the machine's uptime
    assert fake.clock.arrival_s() >= fake.clock.times("launched")[0] + 3 * 0.02 - rounding


NOT_CALLED_BY_A_STEP = {
    "attention.forward": "the default of forward_qkv, within the part",
    "attention.forward_mla": "models with latent attention",
    "kv_pool.arena": "the host tier of the cache",
    "kv_pool.copy_in": "the host tier of the cache",
    "kv_pool.copy_out": "the host tier of the cache",
    "kv_pool.replace": "a backend with functional K/V, as the hostile one",
    "runtime.synchronize": "measurements",
    "runtime.event": "a staging ring",
    "runtime.host_array": "the host tier of the cache",
    **{f"collectives.{name}": "more than one rank" for name in (
        *("all_gather", "all_reduce", "all_to_all", "broadcast", "recv", "reduce_scatter", "send"),
    )},
}  # fmt: skip
OPS_NOT_CALLED = {
    "all_reduce_add_norm": "more than one rank",
    "copy_pages": "a cache that copies",
    "merge_attention": "attention in parts",
    "moe_experts": "models with experts",
    "moe_route": "models with experts",
    "quantize": "quantised models",
    "rope": "fused into norm_rope_qkv",
    "silu_mul": "fused into gated_mlp",
    "gelu_mul": "fused into gated_mlp",
}


def hooks() -> set[str]:
    """Every method of every part."""
    from tupelo.backend import AttentionBackend, Collectives, Runner, Runtime, Sampler

    parts = {
        "attention": AttentionBackend,
        "kv_pool": KVPool,
        "sampler": Sampler,
        "runner": Runner,
        "collectives": Collectives,
        "runtime": Runtime,
    }
    return {
        f"{part}.{name}"
        for part, protocol in parts.items()
        for name, member in vars(protocol).items()
        if callable(member) and not name.startswith("_")
    }


def test_core_calls_every_hook_but_those_listed(tmp_path: Path) -> None:
    fake = RecordingFake()
    wanted = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    params = [
        GREEDY | {"temperature": 1.0, "seed": 3, "top_p": 0.9},
        GREEDY | {"frequency_penalty": 0.5, "logit_bias": {"5": 1.0}},
        GREEDY,
        GREEDY | {"min_new_tokens": 2},
    ]
    for source in (llama(16), gemma3(16)):
        config = EngineConfig(
            dtype="float32",
            page_size=4,
            max_total_tokens=1024,
            pipeline_depth=2,
            profile_dir=str(tmp_path),
        )
        with Engine(config, backend=fake.backend, source=source) as engine:
            engine.start_profile()
            engine.generate(input_ids=prompts(), sampling_params=params, **wanted)
            engine.stop_profile()
    for source in models(16).values():
        config = EngineConfig(dtype="float32", page_size=4, max_total_tokens=1024)
        with Engine(config, backend=fake.backend, source=source) as engine:
            engine.encode(input_ids=prompts())
    called = set(fake.calls)
    assert hooks() - called == set(NOT_CALLED_BY_A_STEP)
    assert {op for op in OPS if f"op.{op}" not in called} - {"apply_token_bitmask"} == set(
        OPS_NOT_CALLED
    )


@pytest.mark.parametrize("wanted", [0, 1])
def test_core_names_prefix_groups_where_a_backend_wants_them(wanted: int) -> None:
    fake = RecordingFake()
    has = replace(fake.backend.capabilities, prefix_group_tokens=wanted)
    tokens = run_engine(replace(fake.backend, capabilities=has))
    assert (fake.calls["batch.prefix_groups"] > 3) == bool(wanted)
    assert tokens == run_engine(Backend(name="plain", device="cpu", capabilities=Capabilities()))


def test_samples_of_one_prompt_are_a_prefix_group() -> None:
    fake = RecordingFake()
    config = EngineConfig(dtype="float32", page_size=4, max_total_tokens=1024)
    params = COMPUTE | {"temperature": 1.0, "seed": 5, "n": 3}
    with Engine(config, backend=fake.backend, source=llama(16)) as engine:
        together = engine.generate(input_ids=prompts()[0], sampling_params=params)
        alone = [
            engine.generate(
                input_ids=prompts()[0], sampling_params=params | {"n": 1, "seed": 5 + i}
            )
            for i in range(3)
        ]
    assert fake.calls["batch.prefix_groups"] > 3
    assert [r["output_ids"] for r in together] == [r["output_ids"] for r in alone]


def test_the_kit_calls_every_hook() -> None:
    fake = RecordingFake()
    for level in (0, 2, 4):
        run_kit(Target(fake.backend), [level])
    two_ranks = {"collectives.send", "collectives.recv"}
    assert hooks() - set(fake.calls) - two_ranks == {
        *("kv_pool.replace", "runtime.allocated", "runtime.release_unused")
    }


def test_products_a_step_do_not_depend_on_the_batch() -> None:
    counts = set()
    for many in (1, 4, 16):
        fake = RecordingFake()
        config = EngineConfig(
            dtype="float32", page_size=4, max_total_tokens=2048, max_running_requests=16
        )
        ids = [[7 + i, 3, 2 * i] for i in range(many)]
        with Engine(config, backend=fake.backend, source=llama(16)) as engine:
            engine.generate(input_ids=ids, sampling_params=COMPUTE)
        counts |= set(fake.products())
    layers = 2
    assert counts == {layers * (1 + 1 + 2) + 1}  # qkv, out, gated_mlp's two; the head


def test_the_null_backend_computes_nothing() -> None:
    fake = NullFake(VOCAB)
    tokens = run_engine(fake.backend)
    assert [len(ids) for ids in tokens] == [6] * len(tokens)
    assert all(0 <= t < VOCAB for ids in tokens for t in ids)
    assert fake.clock.moments == []
    assert tokens == run_engine(NullFake(VOCAB).backend)


def test_the_null_backend_can_be_slow() -> None:
    fake = NullFake(VOCAB, device_s=0.005, latency_s=0.005)
    run_engine(fake.backend, pipeline_depth=2)
    launched, read = fake.clock.times("launched"), fake.clock.times("read")
    assert set(launched) == set(read)
    assert all(read[step] >= launched[step] + 0.01 for step in read)
