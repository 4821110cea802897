"""The offline engine on a tiny model: the same tokens however they are computed."""

import asyncio
import itertools
import math
import random

import pytest
from tests.unit.engine.tiny import VOCAB, tiny_engine, tiny_source

from tupelo import Engine
from tupelo.config import EngineConfig
from tupelo.engine.core import EngineCore
from tupelo.errors import (
    ConfigError,
    ContextLengthExceeded,
    EngineUnavailable,
    InvalidRequest,
    OutOfMemory,
)

GREEDY = {"temperature": 0, "max_new_tokens": 12}


def prompts(count: int = 6, shared: int = 24) -> list[list[int]]:
    rng = random.Random(3)
    prefix = [rng.randrange(VOCAB) for _ in range(shared)]
    return [prefix + [rng.randrange(VOCAB) for _ in range(3 + 7 * i)] for i in range(count)]


def run(params: object, *, one_by_one: bool = False, **options: object) -> list[list[int]]:
    with tiny_engine(**options) as engine:
        if one_by_one:
            return [
                engine.generate(input_ids=p, sampling_params=params)["output_ids"]
                for p in prompts()
            ]
        replies = engine.generate(input_ids=prompts(), sampling_params=params)
        return [reply["output_ids"] for reply in replies]


@pytest.fixture(scope="module")
def reference() -> list[list[int]]:
    return run(
        GREEDY, one_by_one=True, disable_radix_cache=True, chunked_prefill_size=-1, pipeline_depth=1
    )


COMBINATIONS = list(itertools.product((False, True), (16, 64, -1), (False, True), (1, 2), (1, 16)))


@pytest.mark.parametrize(("radix", "chunk", "one_by_one", "depth", "page_size"), COMBINATIONS)
def test_greedy_tokens_do_not_depend_on_how_they_are_computed(
    reference: list[list[int]],
    radix: bool,
    chunk: int,
    one_by_one: bool,
    depth: int,
    page_size: int,
) -> None:
    got = run(
        GREEDY,
        one_by_one=one_by_one,
        disable_radix_cache=not radix,
        chunked_prefill_size=chunk,
        pipeline_depth=depth,
        page_size=page_size,
    )
    assert got == reference


def test_sampled_tokens_depend_on_seed_and_position_alone() -> None:
    params = {"temperature": 1.3, "top_p": 0.9, "top_k": 40, "seed": 11, "max_new_tokens": 12}
    alone = run(params, one_by_one=True)
    assert run(params, pipeline_depth=2, chunked_prefill_size=16) == alone
    assert run({**params, "seed": 12}) != alone


def test_penalties_survive_batching_and_retraction() -> None:
    params = {**GREEDY, "max_new_tokens": 60, "repetition_penalty": 1.3, "frequency_penalty": 0.4}
    alone = run(params, one_by_one=True)
    assert alone != run({**GREEDY, "max_new_tokens": 60}, one_by_one=True)
    # Too few pages for all of them at once.
    assert run(params, max_total_tokens=240, context_length=200, pipeline_depth=2) == alone


def test_samples_of_a_seeded_prompt_differ_and_repeat() -> None:
    params = {"temperature": 1.5, "seed": 5, "n": 3, "max_new_tokens": 10}
    with tiny_engine() as engine:
        first = engine.generate(input_ids=[1, 2, 3], sampling_params=params)
        again = engine.generate(input_ids=[1, 2, 3], sampling_params=params)
    ids = [reply["output_ids"] for reply in first]
    assert len(first) == 3
    assert len({tuple(i) for i in ids}) == 3
    assert [reply["output_ids"] for reply in again] == ids


def test_logprobs_of_prompt_and_output_agree_with_each_other() -> None:
    """What was generated, given as a prompt, scores the same; chunks change nothing."""
    with tiny_engine(chunked_prefill_size=5) as engine:
        reply = engine.generate(
            input_ids=[5, 6, 7], sampling_params=GREEDY, return_logprob=True, top_logprobs_num=3
        )
        output = reply["meta_info"]["output_token_logprobs"]
        whole = [5, 6, 7, *reply["output_ids"]]
        scored = engine.generate(
            input_ids=whole,
            sampling_params={"max_new_tokens": 0},
            return_logprob=True,
            logprob_start_len=0,
            top_logprobs_num=2,
        )["meta_info"]
    rows = scored["input_token_logprobs"]
    assert rows[0][0] is None
    assert [row[1] for row in rows] == whole
    assert [r[0] for r in rows[3:]] == pytest.approx([r[0] for r in output], abs=1e-4)
    tops = reply["meta_info"]["output_top_logprobs"]
    assert all(
        len(t) == 3 and t[0][1] == pytest.approx(r[0]) for t, r in zip(tops, output, strict=True)
    )
    assert all(math.isfinite(r[0]) and r[0] <= 0 for r in rows[1:])


def test_min_new_tokens_holds_the_end_back() -> None:
    with tiny_engine() as engine:
        free = engine.generate(input_ids=[1, 2], sampling_params=GREEDY)["output_ids"]
        stop = free[2]
        params = {**GREEDY, "stop_token_ids": [stop]}
        early = engine.generate(input_ids=[1, 2], sampling_params=params)
        late = engine.generate(input_ids=[1, 2], sampling_params={**params, "min_new_tokens": 8})
    assert early["output_ids"] == free[: free.index(stop) + 1]
    assert early["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    assert stop not in late["output_ids"][:8]


def test_a_bias_decides() -> None:
    with tiny_engine() as engine:
        params = {**GREEDY, "logit_bias": {"17": 100.0}}
        assert engine.generate(input_ids=[1], sampling_params=params)["output_ids"] == [17] * 12


def test_streams_are_cumulative_and_end_with_the_whole() -> None:
    with tiny_engine() as engine:
        replies = list(engine.generate(input_ids=[1, 2], sampling_params=GREEDY, stream=True))
        whole = engine.generate(input_ids=[1, 2], sampling_params=GREEDY)
    assert [len(r["output_ids"]) for r in replies] == list(range(1, 13))
    assert replies[-1]["output_ids"] == whole["output_ids"]


def test_closing_a_stream_aborts_its_request() -> None:
    with tiny_engine() as engine:
        stream = engine.generate(
            input_ids=[1, 2], sampling_params={**GREEDY, "max_new_tokens": 400}, stream=True
        )
        next(stream)
        stream.close()
        for _ in range(1000):
            if engine.stats()["num_running"] == 0:
                break
        stats = engine.stats()
    assert stats["num_running"] == 0
    assert stats["aborted"] == 1
    assert stats["pages_owned"] == [0]


async def test_async_generation_streams_side_by_side() -> None:
    with tiny_engine() as engine:

        async def collect(seed: int) -> list[int]:
            stream = await engine.async_generate(
                input_ids=[seed, 2], sampling_params=GREEDY, stream=True
            )
            return [reply async for reply in stream][-1]["output_ids"]

        many = await asyncio.gather(*(collect(i) for i in range(5)))
        one = await engine.async_generate(input_ids=[3, 2], sampling_params=GREEDY)
    assert many[3] == one["output_ids"]


def test_bad_values_are_refused_before_the_engine_sees_them() -> None:
    with tiny_engine() as engine:
        for bad in (
            {"temperature": -1},
            {"temperature": 10**400},
            {"top_p": 0},
            {"n": 0},
            {"unknown": 1},
            {"top_k": 0},
        ):
            with pytest.raises(InvalidRequest):
                engine.generate(input_ids=[1], sampling_params=bad)
        for ids in ([], [-1], [VOCAB], [True]):
            with pytest.raises(InvalidRequest):
                engine.generate(input_ids=[ids], sampling_params=GREEDY)
        with pytest.raises(ContextLengthExceeded):
            engine.generate(input_ids=[1] * 500, sampling_params={"max_new_tokens": 13})
        assert engine.stats()["steps"] == 0
        with pytest.raises(InvalidRequest):
            engine.generate("text without a tokenizer")


def test_after_shutdown_calls_fail_clearly() -> None:
    engine = tiny_engine()
    engine.shutdown()
    engine.shutdown()
    with pytest.raises(EngineUnavailable):
        engine.generate(input_ids=[1], sampling_params=GREEDY)


def test_when_the_engine_fails_callers_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_core: EngineCore) -> None:
        raise RuntimeError("a defect of the engine")

    monkeypatch.setattr(EngineCore, "step", fail)
    engine = tiny_engine()
    with pytest.raises(EngineUnavailable, match="failed"):
        engine.generate(input_ids=prompts(), sampling_params=GREEDY)
    with pytest.raises(EngineUnavailable, match="failed"):
        engine.generate(input_ids=[1], sampling_params=GREEDY)
    with pytest.raises(EngineUnavailable, match="failed"):
        engine.stats()
    engine.shutdown()


def test_flushing_is_refused_only_while_requests_run() -> None:
    with tiny_engine() as engine:
        engine.generate(input_ids=list(range(20)), sampling_params=GREEDY)
        assert engine.stats()["pages_cached"] != [0]
        assert engine.flush_cache()
        assert engine.stats()["pages_cached"] == [0]


def test_what_cannot_fit_or_work_is_refused_at_start() -> None:
    with pytest.raises(OutOfMemory, match="K/V"):
        tiny_engine(max_total_tokens=10**12)
    with pytest.raises(ConfigError, match="context-length"):
        tiny_engine(context_length=1024)
    with pytest.raises(ConfigError, match="allowed"):
        tiny_engine(schedule_policy="best")


def test_a_model_of_windows_alone_serves_its_whole_context() -> None:
    source = tiny_source(
        architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=16
    )
    config = EngineConfig(
        max_total_tokens=2048, max_running_requests=2, chunked_prefill_size=16, page_size=4
    )
    with Engine(config, source=source) as engine:
        assert engine.info.max_total_tokens == 2048
        prompt = [i % VOCAB for i in range(300)]
        reply = engine.generate(input_ids=prompt, sampling_params=GREEDY)
    assert len(reply["output_ids"]) == 12
