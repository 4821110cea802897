"""Level 2: whole steps through the runner: staging, slots, buckets, steps in flight, tickets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from tupelo.batch import Bucket, Feature, FloatArray, IntArray, PoolGroup
from tupelo.conformance.case import Case, check
from tupelo.conformance.dense import Doubles
from tupelo.conformance.geometry import Geometry
from tupelo.conformance.levels.attention import base_geometry
from tupelo.conformance.runner_world import LOGPROB_ERROR, VOCAB, Flight, Run, RunnerWorld
from tupelo.conformance.sampler_world import log_softmax
from tupelo.conformance.target import Target
from tupelo.ops.samples_sampling import pack_bits
from tupelo.request import SamplingParams


def runner_cases(target: Target) -> Iterator[Case]:
    """The runner cases of level 2: ``runner/NAME``."""
    has = target.backend.capabilities
    geometry = base_geometry(target)
    cases: list[tuple[str, Callable[[Target, Geometry], None]]] = [
        ("prefill_decode", _prefill_decode),
        ("chunked", _chunked),
        ("mixed", _mixed),
        ("slot_reuse", _slot_reuse),
        ("warm", _warm),
        ("pipelined", _pipelined),
        ("pipelined_sampling", _pipelined_sampling),
        ("scores", _scores),
        ("wanted", _wanted),
        ("mask", _mask),
        ("pooled", _pooled),
        ("token_types", _token_types),
    ]
    for name, run in cases:
        yield Case(f"runner/{name}", 2, partial(run, target, geometry))
    for dtype in has.dtypes:
        if dtype in (has.kv_dtypes or has.dtypes):
            typed = replace(geometry, dtype=dtype, kv_dtype=dtype)
            yield Case(f"runner/dtype/{dtype}", 2, partial(_mixed, target, typed))
    skip = "" if has.window else "the backend does not declare window"
    windowed = replace(geometry, windows=(None, 6))
    yield Case("runner/groups", 2, partial(_mixed, target, windowed), skip)


def _prefill_decode(target: Target, geometry: Geometry) -> None:
    """Two prompts, then decode steps that read the last token on the device."""
    world = RunnerWorld(target, geometry)
    world.step(Run(3, world.admit(3, 7)), Run(1, world.admit(1, 2)))
    for _ in range(5):
        world.step(Run(1), Run(3))


def _chunked(target: Target, geometry: Geometry) -> None:
    """Chunks that sample nothing, a step without any sample among them."""
    world = RunnerWorld(target, geometry)
    prompt = world.admit(2, 13)
    world.step(Run(2, prompt[:5], samples=False))
    other = world.admit(0, 3)
    world.step(Run(2, prompt[5:9], samples=False), Run(0, other))
    world.step(Run(0), Run(2, prompt[9:]))
    world.step(Run(2), Run(0))


def _mixed(target: Target, geometry: Geometry) -> None:
    """Decode rows beside prompts; rows in another order each step."""
    world = RunnerWorld(target, geometry)
    world.step(Run(0, world.admit(0, 6)), Run(4, world.admit(4, 3)))
    long = world.admit(2, 14)
    world.step(Run(4), Run(0), Run(2, long[:9], samples=False))
    world.step(Run(0), Run(4), Run(1, world.admit(1, 5)), Run(2, long[9:]))
    for slots in ((2, 0, 4, 1), (1, 2), (4, 1, 0)):
        world.step(*(Run(slot) for slot in slots))


def _slot_reuse(target: Target, geometry: Geometry) -> None:
    """A slot's next request sees neither the pages nor the last token of the one before."""
    world = RunnerWorld(target, geometry)
    world.step(Run(2, world.admit(2, 15)), Run(3, world.admit(3, 2)))
    world.step(Run(3), Run(2))
    world.step(Run(3), Run(2, world.admit(2, 4)))
    world.step(Run(2), Run(3))


def _warm(target: Target, geometry: Geometry) -> None:
    """After a warm-up of the buckets and features in use, all is as without."""
    world = RunnerWorld(target, geometry)
    buckets = {world.runner.bucket(tokens, rows) for tokens, rows in ((8, 1), (2, 2), (1, 1))}
    features = [frozenset({Feature.LOGPROBS}), frozenset({Feature.LOGPROBS, Feature.SAMPLING})]
    for bucket in buckets:
        check(isinstance(bucket, Bucket), f"bucket() answered {bucket!r}")
    world.runner.warmup(buckets, features)
    world.step(Run(0, world.admit(0, 8)))
    world.step(Run(0))


def _pipelined(target: Target, geometry: Geometry) -> None:
    """Each step is launched before the one before it is read."""
    world = RunnerWorld(target, geometry, depth=2)
    flight = world.launch(Run(0, world.admit(0, 6)), Run(1, world.admit(1, 3)))
    for _ in range(8):
        following = world.launch(Run(1), Run(0))
        world.finish(flight)
        flight = following
    following = world.launch(Run(0), Run(3, world.admit(3, 4)))
    world.finish(flight)
    world.finish(following)


def _pipelined_sampling(target: Target, geometry: Geometry) -> None:
    """Seeded, penalised sampling gives the same ids one step at a time and two in flight."""
    params = SamplingParams(temperature=1.5, top_k=20, frequency_penalty=0.5)
    features = frozenset({Feature.SAMPLING, Feature.PENALTIES})
    drawn = []
    for depth in (1, 2):
        world = RunnerWorld(target, geometry, depth=depth)
        prompts = {slot: world.admit(slot, 4 + slot, params, seed=50 + slot) for slot in range(3)}
        rows = [Run(slot, ids) for slot, ids in prompts.items()]
        waiting: list[Flight] = []
        for _ in range(10):
            waiting.append(world.launch(*rows, features=features))
            if len(waiting) == depth:
                world.finish(waiting.pop(0))
            rows = [Run(slot) for slot in prompts]
        for flight in waiting:
            world.finish(flight)
        drawn.append([world.tokens[slot] for slot in prompts])
    check(drawn[0] == drawn[1], f"two steps in flight draw {drawn[1]}, one draws {drawn[0]}")


def _scores(target: Target, geometry: Geometry) -> None:
    """Log-probabilities of prompt tokens, in a step that also samples."""
    world = RunnerWorld(target, geometry)
    prompts = [world.admit(0, 9), world.admit(1, 4)]
    result = world.step(Run(0, prompts[0]), Run(1, prompts[1]), score=True)
    want = np.concatenate([world.expected_scores(0, 0, 8), world.expected_scores(1, 0, 3)])
    check(result.score_logprobs is not None, "prompt tokens were to be scored, but none are")
    check(result.score_top_ids is not None, "score_top is 2, but there are no alternatives")
    assert result.score_logprobs is not None
    assert result.score_top_ids is not None
    check(result.score_logprobs.shape == want.shape, f"{result.score_logprobs.shape} scores")
    check(result.score_top_ids.shape == (11, 2), f"score_top_ids is {result.score_top_ids.shape}")
    close = np.abs(result.score_logprobs - want).max() <= LOGPROB_ERROR[geometry.dtype]
    check(bool(close), f"prompt log-probabilities {result.score_logprobs}, want {want}")


def _wanted(target: Target, geometry: Geometry) -> None:
    """Log-probabilities of named ids, inside a prompt, at its end and at a decode row."""
    world = RunnerWorld(target, geometry)
    world.step(Run(3, world.admit(3, 4)))
    prompt = world.admit(0, 9)
    named = np.array([[0, VOCAB - 1, 7], [5, 5, 1], [2, 3, 4], [VOCAB - 2, 0, 0]], np.int32)
    known = [(world.tokens[3], 5), (prompt, 1), (prompt, 4), (prompt, 9)]
    want = np.stack(
        [
            log_softmax(world.model.expected_logits(tokens[:length])[-1])[ids]
            for (tokens, length), ids in zip(known, named, strict=True)
        ]
    )
    flight = world.launch(Run(3), Run(0, prompt), wanted_tokens=_ids(0, 1, 4, 9), wanted_ids=named)
    got = world.finish(flight).wanted_logprobs
    check(got is not None, "log-probabilities of ids were wanted, but there are none")
    assert got is not None
    check(got.shape == want.shape, f"wanted_logprobs is {got.shape}, not {want.shape}")
    close = np.abs(got - want).max() <= LOGPROB_ERROR[geometry.dtype]
    check(bool(close), f"log-probabilities of named ids {got}, want {want}")


def _pooled(target: Target, geometry: Geometry) -> None:
    """Vectors of two prompts beside a decode row: last tokens, means, single tokens, two heads."""
    world = RunnerWorld(target, geometry)
    world.step(Run(3, world.admit(3, 4)))
    prompts = [world.admit(0, 9), world.admit(1, 5)]
    hidden = [world.model.expected_hidden(ids) for ids in prompts]
    groups = (
        PoolGroup("logits", _ids(9, 14), _ids(1, 1)),
        PoolGroup("", _ids(*range(1, 15)), _ids(9, 5)),
        PoolGroup("", _ids(2, 3, 12), _ids(1, 1, 1)),
        PoolGroup("logits", _ids(1, 2, 14), _ids(2, 1)),
    )
    want = (
        world.model.head(np.stack([h[-1] for h in hidden])),
        np.stack([h.mean(0) for h in hidden]),
        np.stack([hidden[0][1], hidden[0][2], hidden[1][2]]),
        world.model.head(np.stack([hidden[0][:2].mean(0), hidden[1][4]])),
    )
    rows = (Run(3), Run(0, prompts[0]), Run(1, prompts[1]))
    flight = world.launch(*rows, pooled=groups)
    result = world.finish(flight)
    _check_pooled(result.pooled, want, geometry)
    plain = world.step(Run(3), Run(0), Run(1))
    check(plain.pooled == (), f"nothing was to be pooled, but {len(plain.pooled)} arrays came")


def _token_types(target: Target, geometry: Geometry) -> None:
    """Segments of tokens reach the model, row by row."""
    world = RunnerWorld(target, geometry)
    prompts = [world.admit(0, 6), world.admit(1, 3)]
    segments = [[0, 0, 1, 1, 1, 1], [0, 1, 1]]
    want = [
        world.model.expected_hidden(ids, types)[-1:]
        for ids, types in zip(prompts, segments, strict=True)
    ]
    rows = [Run(slot, ids, samples=False) for slot, ids in enumerate(prompts)]
    group = PoolGroup("", _ids(5, 8), _ids(1, 1))
    types = _ids(*segments[0], *segments[1])
    flight = world.launch(*rows, pooled=(group,), token_types=types)
    _check_pooled(world.finish(flight).pooled, (np.concatenate(want),), geometry)


def _check_pooled(got: Sequence[FloatArray], want: Sequence[Doubles], geometry: Geometry) -> None:
    check(len(got) == len(want), f"{len(got)} arrays of vectors for {len(want)} groups")
    limit = LOGPROB_ERROR[geometry.dtype]
    for number, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        check(ours.dtype == np.float32, f"group {number} is {ours.dtype}")
        check(ours.shape == theirs.shape, f"group {number}: {ours.shape}, want {theirs.shape}")
        off = float(np.abs(ours - theirs).max())
        check(off <= limit, f"group {number} is off by {off:.3g}; allowed {limit:g}")


def _ids(*values: int) -> IntArray:
    return np.array(values, np.int32)


def _mask(target: Target, geometry: Geometry) -> None:
    """A mask that comes between forward and sample."""
    world = RunnerWorld(target, geometry)
    world.step(Run(0, world.admit(0, 6)), Run(1, world.admit(1, 3)))
    for seed in range(3):
        allowed = np.random.default_rng(seed).random((2, VOCAB)) < 0.3
        allowed[:, 7] = True
        mask = pack_bits(torch.from_numpy(allowed)).numpy()
        flight = world.launch(Run(1), Run(0), features=frozenset({Feature.MASK}), mask=mask)
        result = world.finish(flight, allowed=allowed)
        permitted = allowed[np.arange(2), result.token_ids]
        check(bool(permitted.all()), f"chose {result.token_ids}, forbidden by the mask")
