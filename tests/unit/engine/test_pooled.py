"""Pooled requests in the engine: beside one another, short of pages, aborted, failing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.engine.tiny import VOCAB

from tupelo.backend import Backend, Capabilities, EagerRunner, Forward, RunnerParts
from tupelo.batch import Batch
from tupelo.checkpoint import PoolingHead
from tupelo.conformance.levels.pooling import models
from tupelo.engine import Engine
from tupelo.engine.build import Source
from tupelo.errors import InvalidRequest, RequestFailed
from tupelo.pooling import PoolingKind

BACKEND = Backend(name="plain", device="cpu", capabilities=Capabilities(plan_needs_host_lens=True))
LENGTHS = (30, 3, 41, 17, 1, 26, 9, 38)


def ids_of(count: int, *, seed: int) -> list[int]:
    """Seeded ids."""
    return [int(i) for i in np.random.default_rng(seed).integers(0, VOCAB, count)]


def source(name: str, kind: PoolingKind | None = None) -> Source:
    """A model of the kit's, with another kind of pooling if one is given."""
    found = models(16)[name]
    assert found.config.pooling is not None
    if kind is None:
        return found
    pooling = replace(found.config.pooling, heads={"": PoolingHead(kind=kind)})
    return replace(found, config=replace(found.config, pooling=pooling))


def vectors(model: Source, backend: Backend = BACKEND, **options: Any) -> list[np.ndarray]:
    settings: dict[str, Any] = {"page_size": 4, "check_integrity": True, "dtype": "float32"}
    with Engine(backend=backend, source=model, **(settings | options)) as engine:
        replies = engine.encode(input_ids=[ids_of(n, seed=n) for n in LENGTHS])
        stats = engine.stats()
    assert stats["num_running"] == stats["num_waiting"] == 0
    return [np.array(reply["embedding"]) for reply in replies]


@pytest.mark.parametrize("kind", list(PoolingKind))
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_nothing_depends_on_how_it_is_scheduled(name: str, kind: PoolingKind) -> None:
    """Alone; together in few slots; in chunks, two in flight; in a pool that is hardly enough."""
    model = source(name, kind)
    alone = vectors(model, max_running_requests=1, chunked_prefill_size=-1)
    few: dict[str, Any] = {"max_total_tokens": 64, "context_length": 48}
    ways: list[dict[str, Any]] = [
        {"max_running_requests": 3, "chunked_prefill_size": 16},
        {"chunked_prefill_size": 7, "pipeline_depth": 2},
        {"chunked_prefill_size": 16, **(few if name == "llama" else {})},
    ]
    for options in ways:
        for got, want in zip(vectors(model, **options), alone, strict=True):
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=2e-6)


def test_an_encoder_computes_an_input_whole_and_many_at_once() -> None:
    """Steps hold several short inputs, but a long one is never cut."""
    sizes: list[list[int]] = []

    class Noting(EagerRunner):
        def forward(self, batch: Batch) -> Forward:
            sizes.append(np.diff(batch.cu_seqlens_q).tolist())
            return super().forward(batch)

    noting = replace(BACKEND, runner=Noting)
    vectors(source("bert"), noting, chunked_prefill_size=24)
    assert sorted(n for step in sizes for n in step) == sorted(LENGTHS)
    assert len(sizes) < len(LENGTHS)
    assert all(sum(step) <= 24 or len(step) == 1 for step in sizes)


def test_segments_of_pairs_reach_the_model() -> None:
    """The same ids, told apart from another position on, are another input."""
    from tupelo.pooling import PoolingParams

    with Engine(backend=BACKEND, source=source("bert"), dtype="float32") as engine:
        ids = ids_of(12, seed=1)
        jobs = [(ids, PoolingParams(second=second)) for second in (0, 5, 6, 5)]
        found = [reply["embedding"] for reply in engine._pool(jobs)]
        with pytest.raises(InvalidRequest, match="second text"):
            engine._pool([(ids, PoolingParams(second=12))])
    assert found[1] == found[3]
    assert found[0] != found[1] != found[2]


def test_a_failing_step_fails_its_requests_and_no_others() -> None:
    class Failing(EagerRunner):
        def __init__(self, parts: RunnerParts) -> None:
            super().__init__(parts)
            self.number = 0

        def forward(self, batch: Batch) -> Forward:
            self.number += 1
            if self.number == 1:
                raise RuntimeError("a device error")
            return super().forward(batch)

    backend = replace(BACKEND, runner=Failing)
    with Engine(backend=backend, source=source("llama"), page_size=4) as engine:
        with pytest.raises(RequestFailed):
            engine.encode(input_ids=ids_of(9, seed=1))
        again = engine.encode(input_ids=ids_of(9, seed=1))
        assert len(again["embedding"]) == 64


def test_generating_and_pooling_do_not_mix() -> None:
    with Engine(backend=BACKEND, source=source("llama")) as engine:
        with pytest.raises(InvalidRequest, match="is for: embed"):
            engine.generate(input_ids=[1, 2, 3])
        with pytest.raises(InvalidRequest, match="ranks nothing"):
            engine.rerank("a", ["b"])
        with pytest.raises(InvalidRequest, match="empty"):
            engine.encode(input_ids=[[]])
        with pytest.raises(InvalidRequest, match="token id"):
            engine.encode(input_ids=[10**6])
