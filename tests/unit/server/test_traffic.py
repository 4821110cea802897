"""HTTP as it is counted, and pages of other origins."""

import asyncio

import pytest
from tests.unit.server.conftest import Service, Start
from tests.unit.server.fake_engine import FakeEngine, byte_tokenizer

from tupelo_server.stats import EngineStats

ORIGIN = "http://app.example.org"


def series(service: Service, name: str) -> dict[str, float]:
    lines = service.http.get("/metrics").text.splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith(name + "{")]
    return {labels.removeprefix(name): float(value) for labels, _, value in found}


def test_requests_are_counted_by_route(start: Start) -> None:
    service = start()
    for path in ("/health", "/v1/models/tiny", "/v1/models/other", "/x/1", "/x/2"):
        service.http.get(path)
    service.http.request("TRACE", "/health")
    requests = series(service, "sglang:http_requests_total")
    assert requests['{endpoint="/health",method="GET"}'] == 1
    assert requests['{endpoint="/health",method="other"}'] == 1
    assert requests['{endpoint="/v1/models/{model_id:path}",method="GET"}'] == 2
    assert requests['{endpoint="other",method="GET"}'] == 2
    replies = series(service, "sglang:http_responses_total")
    assert replies['{endpoint="other",method="GET",status_code="404"}'] == 2
    active = series(service, "sglang:http_requests_active")
    assert {labels for labels, value in active.items() if value} == {
        '{endpoint="/metrics",method="GET"}'
    }


def test_clients_make_no_series(start: Start) -> None:
    service = start()
    service.http.get("/metrics")
    before = len(service.http.get("/metrics").text.splitlines())
    for number in range(30):
        service.http.get(f"/nothing/{number}?a={number}")
        service.http.post(
            "/v1/completions",
            json={"prompt": "a", "model": f"m{number}", "rid": f"r{number}", "max_tokens": 1},
            headers={"x-custom-labels": f"l{number}", "user-agent": f"u{number}"},
        )
    after = len(service.http.get("/metrics").text.splitlines())
    assert after - before <= 6, "two routes: three series each"


@pytest.mark.parametrize("key", ["", "user"])
def test_pages_of_named_origins_may_ask(start: Start, key: str) -> None:
    http = start(cors_origins=(ORIGIN,), api_key=key).http
    asking = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type",
    }
    reply = http.options("/v1/completions", headers=asking)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    headers = {"origin": ORIGIN, "authorization": f"Bearer {key or 'none'}"}
    reply = http.post("/v1/completions", json={"prompt": "a"}, headers=headers)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    refused = http.post("/v1/completions", json={"prompt": 1}, headers=headers)
    assert refused.headers["access-control-allow-origin"] == ORIGIN, "so that a page can read it"


def test_other_origins_may_not(start: Start) -> None:
    for options in ({"cors_origins": (ORIGIN,)}, {}):
        http = start(**options).http
        reply = http.options(
            "/v1/models",
            headers={"origin": "http://evil.example.org", "access-control-request-method": "GET"},
        )
        assert reply.status_code >= 400
        assert "access-control-allow-origin" not in reply.headers


async def test_who_asks_for_the_engines_numbers_at_once_shares_the_answer() -> None:
    engine = FakeEngine(byte_tokenizer())
    stats = EngineStats(engine)
    found = await asyncio.gather(*(stats.now() for _ in range(50)))
    assert engine.num_controls == 1
    assert all(numbers["steps"] == 7 for numbers in found)
    found[0]["steps"] = 8
    assert (await stats.now())["steps"] == 7, "asked again, and no answer is another's"
    assert engine.num_controls == 2
