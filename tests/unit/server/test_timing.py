"""The timing block: asked for by a header or an option, in every kind of reply, once a sample."""

import json
from typing import Any

import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.errors import ConfigError
from tupelo_server.config import ServerConfig

HEADER = {"x-tupelo-timing": "true"}
PARTS = ("prepare_s", "queue_s", "prefill_s", "decode_s")
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}], "n": 2},
    "/v1/completions": {"prompt": ["a", "b"]},
    "/generate": {"text": ["a", "b"]},
}


def blocks(service: Service, path: str, *, stream: bool, **headers: str) -> list[Any]:
    """The timing of each sample; None where a reply has none."""
    body = {**BODIES[path], "stream": stream}
    reply = service.http.post(path, json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    if not stream:
        found = reply.json()
        items = found if path == "/generate" else found["choices"]
    else:
        lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
        events = [json.loads(line) for line in lines]
        if path == "/generate":
            items = [e for e in events if e["meta_info"]["finish_reason"]]
            early = [e for e in events if not e["meta_info"]["finish_reason"]]
            assert early
            assert all("timing" not in e["meta_info"] for e in early)
        else:
            items = [c for e in events for c in e["choices"] if c["finish_reason"]]
    return [(item["meta_info"] if path == "/generate" else item).get("timing") for item in items]


@pytest.mark.parametrize("path", list(BODIES))
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_only_those_who_ask_are_told(service: Service, path: str, stream: bool) -> None:
    assert blocks(service, path, stream=stream) == [None, None]
    assert blocks(service, path, stream=stream, **{"x-tupelo-timing": "0"}) == [None, None]
    for block in blocks(service, path, stream=stream, **HEADER):
        assert set(block) == {*PARTS, "e2e_s", "cached_tokens"}
        assert (block["queue_s"], block["prefill_s"]) == (0.001, 0.002), "the engine's own"
        assert block["decode_s"] == 0.003
        assert all(value >= 0 for value in block.values())
        assert block["cached_tokens"] == 2


def test_an_option_tells_everybody(start: Start) -> None:
    service = start(enable_request_timing=True)
    assert all(blocks(service, "/v1/completions", stream=True))


@pytest.mark.parametrize("value", ["maybe", "", "2"])
def test_an_unclear_header_is_refused(service: Service, value: str) -> None:
    reply = service.http.post(
        "/v1/completions", json={"prompt": "a"}, headers={"x-tupelo-timing": value}
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "x-tupelo-timing"


def metric(service: Service, name: str) -> float:
    lines = service.http.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0] == name)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_histograms_hold_what_the_blocks_say(start: Start, stream: bool) -> None:
    service = start()
    service.engine.delay_s = 0.002
    found = [b for path in BODIES for b in blocks(service, path, stream=stream, **HEADER)]
    names = {
        "tupelo:prepare_time_seconds": "prepare_s",
        "sglang:queue_time_seconds": "queue_s",
        "tupelo:prefill_time_seconds": "prefill_s",
        "tupelo:decode_time_seconds": "decode_s",
        "sglang:e2e_request_latency_seconds": "e2e_s",
    }
    for name, part in names.items():
        assert metric(service, f"{name}_count") == len(found)
        assert metric(service, f"{name}_sum") == pytest.approx(sum(b[part] for b in found))


def test_a_stop_string_ends_the_time_too(service: Service) -> None:
    """The engine does not see such an end: the parts must still add up."""
    service.engine.delay_s = 0.02
    body = {"prompt": "a", "stop": ["world"]}
    for stream in (False, True):
        reply = service.http.post(
            "/v1/completions", json={**body, "stream": stream}, headers=HEADER
        )
        lines = reply.text.splitlines()
        events = [json.loads(x[6:]) for x in lines if x.startswith("data: {")] or [reply.json()]
        block = events[-1]["choices"][0]["timing"]
        assert block["decode_s"] > 0.1
        assert sum(block[part] for part in PARTS) == pytest.approx(block["e2e_s"], rel=0.05)


def bounds(service: Service, name: str) -> list[str]:
    lines = service.http.get("/metrics").text.splitlines()
    found = [line for line in lines if line.startswith(f"sglang:{name}_seconds_bucket")]
    return [line.partition('le="')[2].partition('"')[0] for line in found]


def test_buckets_begin_at_a_millisecond_and_can_be_chosen(start: Start) -> None:
    names = ("time_to_first_token", "inter_token_latency", "e2e_request_latency")
    service = start()
    assert all(bounds(service, name)[0] == "0.001" for name in (*names, "queue_time"))
    for number, name in enumerate(names):
        chosen = (0.5 + number, 9.0)
        service = start(**{f"bucket_{name}": chosen})
        for other in names:
            expected = [*map(str, chosen), "+Inf"] if other == name else bounds(start(), other)
            assert bounds(service, other) == expected


@pytest.mark.parametrize("given", [(0.0,), (-1.0,), (1.0, 1.0), (2.0, 1.0), (float("nan"),)])
def test_buckets_that_are_none(given: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="--bucket-inter-token-latency"):
        ServerConfig(bucket_inter_token_latency=given)
