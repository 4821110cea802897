"""Log-probabilities of ids that a request names: those that a list of all alternatives has too."""

from typing import Any

import pytest
from tests.unit.engine.tiny import tiny_engine

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_TOP_LOGPROBS

PROMPT = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
GREEDY = {"temperature": 0, "max_new_tokens": 5, "ignore_eos": True}
WANTED: dict[str, Any] = {"return_logprob": True, "logprob_start_len": 0}


def alternatives(meta: dict[str, Any], side: str, place: int) -> dict[int, float]:
    return dict(meta[f"{side}_top_logprobs"][place])


@pytest.mark.parametrize(
    "options",
    [
        {"pipeline_depth": 1},
        {"pipeline_depth": 2},
        {"chunked_prefill_size": 4},
        {"max_total_tokens": 64, "max_running_requests": 4},
    ],
    ids=str,
)
def test_they_are_those_of_the_alternatives(options: dict[str, Any]) -> None:
    with tiny_engine(**options) as engine:
        several: list[dict[str, Any]] = engine.generate(
            input_ids=[PROMPT, PROMPT[:4], PROMPT[::-1]],
            sampling_params={**GREEDY, "max_new_tokens": 20},
            top_logprobs_num=MAX_TOP_LOGPROBS,
            **WANTED,
        )
        for prompt, all_of in zip([PROMPT, PROMPT[:4], PROMPT[::-1]], several, strict=True):
            wide = all_of["meta_info"]
            named = list(range(3, 320, 11))
            compared = 0
            replies = engine.generate(
                input_ids=[prompt, [1, 2, 3]],
                sampling_params={**GREEDY, "max_new_tokens": 20},
                token_ids_logprob=named,
                **WANTED,
            )
            meta = replies[0]["meta_info"]
            for side, count in (("input", len(prompt)), ("output", 20)):
                rows = meta[f"{side}_token_ids_logprobs"]
                assert len(rows) == count
                for place, row in enumerate(rows):
                    if side == "input" and place == 0:
                        assert row == []
                        continue
                    assert [token for _, token, _ in row] == named
                    known = alternatives(wide, side, place)
                    got = {token: value for value, token, _ in row if token in known}
                    assert got == pytest.approx({t: known[t] for t in got}, abs=1e-4)
                    compared += len(got)
            assert compared > 200


def test_requests_without_names_are_not_touched() -> None:
    with tiny_engine() as engine:
        plain = engine.generate(input_ids=PROMPT, sampling_params=GREEDY)
        named = engine.generate(
            input_ids=PROMPT, sampling_params=GREEDY, return_logprob=True, token_ids_logprob=[3, 1]
        )
    assert named["output_ids"] == plain["output_ids"]
    rows = named["meta_info"]["output_token_ids_logprobs"]
    assert [[token for _, token, _ in row] for row in rows] == [[3, 1]] * 5
    assert "output_token_ids_logprobs" not in plain["meta_info"]


@pytest.mark.parametrize(
    "ids", [[-1], [320], [1.5], [True], list(range(320)) * 4], ids=lambda v: str(v)[:10]
)
def test_ids_outside_their_bounds(ids: list[Any]) -> None:
    with tiny_engine() as engine, pytest.raises(InvalidRequest) as caught:
        engine.generate(
            input_ids=PROMPT, sampling_params=GREEDY, return_logprob=True, token_ids_logprob=ids
        )
    assert caught.value.param == "token_ids_logprob"
