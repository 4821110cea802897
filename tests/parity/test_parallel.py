"""Models split over ranks against transformers; the ranks are threads of this process."""

import threading
from pathlib import Path

import pytest
import torch
from tests.parity.families import FAMILIES
from tests.parity.harness import Driver, Row
from tests.parity.pooled import ENCODER, ENCODER_FIELDS, make, ragged_step
from torch import Tensor

from tupelo.backend import ReferenceAttention, TorchKVPool, TorchRuntime
from tupelo.backend.collectives import TorchCollectives
from tupelo.checkpoint import Checkpoint, open_checkpoint
from tupelo.errors import ConfigError
from tupelo.layers import Parallel
from tupelo.models import Model, build_model
from tupelo.ops import OPS, OpTable
from tupelo.weights import load_weights

PROMPTS = [[5, 9, 200, 17, 3, 90, 91, 92, 7], [250, 4, 4]]


class ThreadRank(TorchCollectives):
    """One rank among threads: everyone puts a tensor on the table, then everyone reads them all."""

    def __init__(self, rank: int, table: list[Tensor | None], barrier: threading.Barrier) -> None:
        super().__init__()
        self.rank = rank
        self.world_size = len(table)
        self._table = table
        self._barrier = barrier

    def all_reduce(self, x: Tensor) -> Tensor:
        return torch.stack(self._exchange(x)).sum(0)

    def all_gather(self, x: Tensor, dim: int = 0) -> Tensor:
        return torch.cat(self._exchange(x), dim=dim)

    def _exchange(self, x: Tensor) -> list[Tensor]:
        self._table[self.rank] = x
        self._barrier.wait(timeout=30)
        seen = [t for t in self._table if t is not None]
        self._barrier.wait(timeout=30)
        return seen


def _run(checkpoint: Checkpoint, world_size: int) -> tuple[list[Model], list[list[Row]]]:
    table: list[Tensor | None] = [None] * world_size
    barrier = threading.Barrier(world_size)
    models = [
        build_model(
            checkpoint.config,
            max_length=64,
            parallel=Parallel(ThreadRank(rank, table, barrier)),
        )
        for rank in range(world_size)
    ]
    rows: list[list[Row]] = [[] for _ in models]

    def work(rank: int) -> None:
        load_weights(models[rank], checkpoint, device="cpu", progress=False)
        driver = Driver(models[rank], page_size=4, max_length=64)
        rows[rank] = driver.generate(PROMPTS, new_tokens=6, chunk=4)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return models, rows


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(
    "family_id", ["llama-tied-llama3", "llama-biases", "llama4", "qwen2", "qwen3", "gemma3"]
)
def test_ranks_together_equal_the_whole(family_id: str, world_size: int, tmp_path: Path) -> None:
    """With 4 ranks the two K/V heads of most families are held twice."""
    reference = next(f for f in FAMILIES if f.id == family_id).save(tmp_path)
    models, ranks = _run(open_checkpoint(tmp_path), world_size)
    assert {m.attention_specs[0].num_heads for m in models} == {4 // world_size}
    for rows in zip(*ranks, strict=True):
        with torch.inference_mode():
            expected = reference(torch.tensor([rows[0].ids[:-1]])).logits[0]
        for row in rows:
            torch.testing.assert_close(torch.cat(row.logits), expected, atol=1e-4, rtol=0)


def test_a_rank_holds_its_share(tmp_path: Path) -> None:
    next(f for f in FAMILIES if f.id == "llama").save(tmp_path)
    config = open_checkpoint(tmp_path).config
    sizes = []
    for world_size in (1, 2):
        parallel = Parallel(ThreadRank(0, [None] * world_size, threading.Barrier(1)))
        model = build_model(config, parallel=parallel)
        sizes.append(sum(p.num_bytes("float32") for p in model.parameters()))
    embedding = 256 * 64 * 4
    norms = (2 * 3 + 1) * 64 * 4
    assert sizes[1] - embedding - norms == (sizes[0] - embedding - norms) // 2


@pytest.mark.parametrize(("world_size", "named"), [(3, "4 K/V heads"), (8, "4 attention heads")])
def test_a_split_that_does_not_divide_is_refused(
    world_size: int, named: str, tmp_path: Path
) -> None:
    next(f for f in FAMILIES if f.id == "qwen2").save(tmp_path)
    parallel = Parallel(ThreadRank(0, [None] * world_size, threading.Barrier(1)))
    with pytest.raises(ConfigError, match=named):
        build_model(open_checkpoint(tmp_path).config, parallel=parallel)


@pytest.mark.parametrize("stem", ["Bert", "ModernBert"])
def test_an_encoder_over_ranks_equals_the_whole(stem: str, tmp_path: Path) -> None:
    reference = make(f"{stem}Model", {**ENCODER, **ENCODER_FIELDS[stem]}, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    table: list[Tensor | None] = [None, None]
    barrier = threading.Barrier(2)
    ids = [PROMPTS[0], PROMPTS[1]]
    found: list[Tensor] = [torch.empty(0), torch.empty(0)]

    def work(rank: int) -> None:
        parallel = Parallel(ThreadRank(rank, table, barrier))
        model = build_model(checkpoint.config, parallel=parallel)
        load_weights(model, checkpoint, device="cpu", progress=False)
        model.bind(OpTable(OPS))
        runtime = TorchRuntime("cpu")
        attention = ReferenceAttention((), 4, 4, runtime)
        inputs = ragged_step(ids)
        pool = TorchKVPool((), (), 4, runtime)
        with torch.inference_mode():
            found[rank] = model.forward(inputs, attention, pool, attention.plan(inputs))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with torch.inference_mode():
        whole = [reference(torch.tensor([one])).last_hidden_state[0] for one in ids]
    for states in found:
        torch.testing.assert_close(states, torch.cat(whole), atol=1e-4, rtol=0)
