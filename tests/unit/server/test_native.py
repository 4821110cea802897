"""SGLang's own routes: shapes, streams, control, probes, metrics."""

import json
import threading
import time
from itertools import pairwise
from typing import Any

import httpx
import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.engine.messages import Finish
from tupelo.request import FinishReason

PARAMS = {"temperature": 0}


def events(service: Service, **body: Any) -> list[Any]:
    """The events of a stream, without the last, which is always [DONE]."""
    with service.http.stream("POST", "/generate", json={**body, "stream": True}) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def steady(item: dict[str, Any]) -> dict[str, Any]:
    """An item without what differs from call to call."""
    meta = {k: v for k, v in item["meta_info"].items() if k not in ("id", "e2e_latency")}
    return {"text": item["text"], "output_ids": item["output_ids"], "meta_info": meta}


def test_single(service: Service) -> None:
    item = service.post("/generate", text="Hi", rid="mine", sampling_params=PARAMS).json()
    assert item["text"] == "Hello, world."
    assert len(item["output_ids"]) == 14
    meta = item["meta_info"]
    assert meta["id"] == "mine"
    assert meta["finish_reason"] == {"type": "stop", "matched": item["output_ids"][-1]}
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (2, 14)
    assert meta["cached_tokens"] == 2
    assert meta["e2e_latency"] > 0


def test_put_and_length(service: Service) -> None:
    body = {"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 3}}
    item = service.http.put("/generate", json=body).json()
    assert item["text"] == "Hel"
    assert item["meta_info"]["finish_reason"] == {"type": "length", "length": 3}


def test_batch_keeps_its_order(service: Service) -> None:
    service.engine.script = lambda request: bytes([65 + len(request.input_ids)])
    body: dict[str, Any] = {"text": ["a", "bbb", "cc"], "sampling_params": {"n": 2}}
    items = service.post("/generate", **body).json()
    assert [item["text"] for item in items] == ["B", "B", "D", "D", "C", "C"]
    params = [{"max_new_tokens": 0}, {}, {"stop": "C"}]
    rids = ["x", "y", "z"]
    items = service.post("/generate", text=body["text"], sampling_params=params, rid=rids)
    assert [item["text"] for item in items.json()] == ["", "D", ""]
    assert [item["meta_info"]["id"] for item in items.json()] == rids
    assert isinstance(service.post("/generate", text=["a"]).json(), list)


@pytest.mark.parametrize("incremental", [False, True])
@pytest.mark.parametrize("logprobs", [False, True])
def test_streams_end_as_the_unstreamed_reply(
    start: Start, incremental: bool, logprobs: bool
) -> None:
    service = start(incremental_streaming_output=incremental)
    body: dict[str, Any] = {
        "text": "abc",
        "sampling_params": {"stop": "rld"},
        "return_text_in_logprobs": True,
    }
    if logprobs:
        body |= {"return_logprob": True, "top_logprobs_num": 2, "logprob_start_len": 0}
    whole = service.post("/generate", **body).json()
    found = events(service, **body)
    assert len(found) > 5
    assert found[-1]["meta_info"]["finish_reason"] == {"type": "stop", "matched": "rld"}
    assert all(item["meta_info"]["finish_reason"] is None for item in found[:-1])
    if not incremental:
        assert steady(found[-1]) == steady(whole)
        assert all(b["text"].startswith(a["text"]) for a, b in pairwise(found))
        return
    assert "".join(item["text"] for item in found) == whole["text"]
    assert [i for item in found for i in item["output_ids"]] == whole["output_ids"]
    if logprobs:
        rows = [r for item in found for r in item["meta_info"]["output_token_logprobs"]]
        assert rows == whole["meta_info"]["output_token_logprobs"]


def test_streamed_batch_has_an_index(service: Service) -> None:
    found = events(service, text=["a", "b"])
    assert {item["index"] for item in found} == {0, 1}
    assert "index" not in events(service, text="a")[0]


def test_logprob_rows(service: Service) -> None:
    body: dict[str, Any] = {"text": "abcd", "return_logprob": True, "logprob_start_len": 1}
    meta = service.post("/generate", **body, return_text_in_logprobs=True).json()["meta_info"]
    assert [row[2] for row in meta["input_token_logprobs"]] == ["b", "c", "d"]
    assert "".join(row[2] for row in meta["output_token_logprobs"]) == "Hello, world.</s>"
    assert "output_top_logprobs" not in meta
    body = {"text": "abcd", "return_logprob": True, "top_logprobs_num": 2}
    meta = service.post("/generate", **body).json()["meta_info"]
    assert meta["input_token_logprobs"] == []
    assert all(row[2] is None for row in meta["output_token_logprobs"])
    assert all(len(top) == 2 for top in meta["output_top_logprobs"])


def test_logprobs_of_named_ids(service: Service) -> None:
    body: dict[str, Any] = {
        "text": ["abc", "de"],
        "sampling_params": {"max_new_tokens": 2},
        "return_logprob": True,
        "logprob_start_len": 0,
        "token_ids_logprob": [[5], [6, 7]],
        "return_text_in_logprobs": True,
    }
    items = service.post("/generate", **body).json()
    for item, ids in zip(items, ([5], [6, 7]), strict=True):
        meta = item["meta_info"]
        assert meta["input_token_ids_logprobs"][0] is None, "nothing precedes the first token"
        for side in ("input", "output"):
            tokens = [row[1] for row in meta[f"{side}_token_logprobs"]]
            for token, row in zip(tokens, meta[f"{side}_token_ids_logprobs"], strict=True):
                assert row is None or [cell[:2] for cell in row] == [
                    [-(token + i) / 100, i] for i in ids
                ]
    assert [cell[2] for cell in items[0]["meta_info"]["output_token_ids_logprobs"][0]] == ["&"]
    one = service.post("/generate", **{**body, "token_ids_logprob": [9]}).json()
    assert {i["meta_info"]["output_token_ids_logprobs"][0][0][1] for i in one} == {9}
    last = events(service, **body)[-1]["meta_info"]
    whole = items[events(service, **body)[-1]["index"]]["meta_info"]
    assert last["input_token_ids_logprobs"] == whole["input_token_ids_logprobs"]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "text"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"text": []}, "text"),
        ({"text": 5}, "text"),
        ({"input_ids": [["a"]]}, "input_ids"),
        ({"input_ids": [-1]}, "input_ids"),
        ({"text": "a", "sampling_params": {"temprature": 1}}, "temprature"),
        ({"text": "a", "sampling_params": {"temperature": -1}}, "temperature"),
        ({"text": "a", "sampling_params": {"regex": "a", "ebnf": "root ::= x"}}, "regex and ebnf"),
        ({"text": "a", "sampling_params": {"regex": 1}}, "regex"),
        ({"text": "a", "sampling_params": {"stop_regex": "(?=a)"}}, "stop_regex"),
        ({"text": "a", "log_metrics": False}, "log_metrics"),
        ({"text": "a", "sampling_params": {"seed": 1}}, "sampling_seed"),
        ({"text": "a", "sampling_params": {"sampling_seed": "x"}}, "sampling_seed"),
        ({"text": "a", "sampling_params": {"stream_interval": 0}}, "stream_interval"),
        ({"text": "a", "sampling_params": [{}, {}]}, "sampling_params"),
        ({"text": "a", "top_logprobs_num": 10**9, "return_logprob": True}, "top_logprobs"),
        ({"text": "a", "logprob_start_len": 9}, "logprob_start_len"),
        ({"text": "a", "image_data": "x"}, "image_data"),
        ({"text": "a", "token_ids_logprob": [-1], "return_logprob": True}, "token_ids_logprob"),
        ({"text": "a", "token_ids_logprob": ["x"], "return_logprob": True}, "token_ids_logprob"),
        ({"text": "a", "token_ids_logprob": [[1], [2]]}, "token_ids_logprob"),
        ({"text": "a", "token_ids_logprob": [1]}, "token_ids_logprob needs"),
        ({"text": "a", "top_logprobs_num": 2}, "top_logprobs_num needs"),
        ({"text": "a", "logprob_start_len": 0, "return_logprob": False}, "logprob_start_len needs"),
        ({"text": "a", "surprise": 1}, "surprise"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_bad_bodies(service: Service, body: dict[str, Any], word: str) -> None:
    reply = service.post("/generate", **body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert word in (error if isinstance(error, str) else error["message"])
    assert service.engine.requests == []


def test_error_inside_a_stream_is_an_event(service: Service) -> None:
    service.engine.delay_s = 0.02
    with service.http.stream("POST", "/generate", json={"text": "a", "stream": True}) as reply:
        lines = reply.iter_lines()
        next(lines)
        service.loop.call_soon_threadsafe(service.engine.die)
        rest = [line for line in lines if line]
    error = json.loads(rest[-2].removeprefix("data: "))["error"]
    assert error["code"] == 503
    assert error["retryable"]
    assert rest[-1] == "data: [DONE]"


def aborting(service: Service, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """Ask for a long text as ``mine``; abort with ``body`` while it runs; the text's reply."""
    service.engine.delay_s = 0.05
    found: list[httpx.Response] = []

    def ask() -> None:
        found.append(httpx.post(f"{service.url}/generate", json={"text": "a", "rid": "mine"}))

    thread = threading.Thread(target=ask)
    thread.start()
    while not service.engine.live:
        time.sleep(0.01)
    assert service.http.post("/abort_request", json=body, headers=headers).status_code == 200
    thread.join()
    item: dict[str, Any] = found[0].json()
    return item


@pytest.mark.parametrize("body", [{"rid": "mine"}, {"abort_all": True}], ids=str)
def test_abort(service: Service, body: dict[str, Any]) -> None:
    item = aborting(service, body, {})
    assert item["meta_info"]["finish_reason"]["type"] == "abort"


@pytest.mark.parametrize("rid", ["min", "m", "mine2", "", "s0", "x" * 100_000])
def test_abort_needs_the_exact_id(service: Service, rid: str) -> None:
    service.engine.script = lambda request: b"short"
    if rid:
        item = aborting(service, {"rid": rid}, {})
        assert item["meta_info"]["finish_reason"]["type"] == "stop"
    else:
        assert service.post("/abort_request").status_code == 400


def test_another_key_aborts_nothing(start: Start) -> None:
    service = start(api_key="a,b")
    service.engine.delay_s = 0.02
    service.engine.script = lambda request: b"0123456789"
    own, other = {"authorization": "Bearer a"}, {"authorization": "Bearer b"}
    body = {"text": "x", "rid": "mine", "stream": True}
    with service.http.stream("POST", "/generate", json=body, headers=own) as reply:
        stream = reply.iter_lines()
        next(stream)
        with httpx.Client(base_url=service.url, headers=other) as client:
            assert client.post("/abort_request", json={"rid": "mine"}).status_code == 200
        lines = [line for line in stream if line]
    last = json.loads(lines[-2].removeprefix("data: "))
    assert last["meta_info"]["finish_reason"]["type"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_disconnect_aborts(service: Service, stream: bool, n: int) -> None:
    service.engine.delay_s = 1.0
    body = {"text": "a", "stream": stream, "sampling_params": {"n": n}}
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.3) as client:
        client.post(f"{service.url}/generate", json=body)
    deadline = time.monotonic() + 5
    while service.engine.live and time.monotonic() < deadline:
        time.sleep(0.01)
    assert service.engine.live == set()
    assert len(service.engine.aborted) == n
    assert service.state.frontend is not None
    assert service.state.frontend.num_live == 0


def test_probes(start: Start) -> None:
    service = start()
    for path in ("/health", "/ready", "/health_generate"):
        reply = service.http.get(path)
        assert (reply.status_code, reply.content) == (200, b"")
    assert len(service.engine.requests) == 1, "only health_generate generates"
    assert service.engine.requests[0].params.max_new_tokens == 1
    service.state.draining = True
    codes = [service.http.get(p).status_code for p in ("/health", "/ready", "/health_generate")]
    assert codes == [200, 503, 503]
    service.engine.ready = False
    assert service.http.get("/health").status_code == 503


def test_probes_ask_the_engine_nothing(service: Service) -> None:
    for _ in range(100):
        service.http.get("/health")
        service.http.get("/ready")
    assert service.engine.requests == []
    assert service.engine.num_controls == 0


def test_health_generate_fails_with_the_engine(service: Service) -> None:
    service.engine.refuse = Finish(FinishReason.ERROR, message="no", status=500)
    assert service.http.get("/health_generate").status_code == 503


def test_flush_cache(service: Service) -> None:
    assert service.http.get("/flush_cache").status_code == 200
    assert service.http.post("/flush_cache?timeout=x").status_code == 400
    service.engine.live.add("someone")
    assert service.http.post("/flush_cache").status_code == 400
    threading.Timer(0.3, service.engine.live.clear).start()
    assert service.http.post("/flush_cache?timeout=5").status_code == 200


def test_info_routes_and_their_old_names(service: Service) -> None:
    for new, old in (("/model_info", "/get_model_info"), ("/server_info", "/get_server_info")):
        first, second = service.http.get(new).json(), service.http.get(old).json()
        assert first.keys() == second.keys()
    model = service.http.get("/model_info").json()
    assert model["served_model_name"] == "tiny"
    assert model["is_generation"] is True
    server = service.http.get("/server_info").json()
    assert server["schedule_policy"] == "fcfs"
    assert server["internal_states"][0]["steps"] == 7
    assert "api_key" not in server


def test_metrics(start: Start) -> None:
    service = start()
    service.post("/generate", text="abc")
    list(events(service, text="abc"))
    lines = service.http.get("/metrics").text.splitlines()
    found = {
        line.split("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if not line.startswith("#") and "_bucket" not in line
    }
    assert found["sglang:prompt_tokens_total"] == 6
    assert found["sglang:generation_tokens_total"] == 28
    assert found["sglang:num_requests_total"] == 2
    assert found["sglang:num_aborted_requests_total"] == 0
    assert found["sglang:cached_tokens_total"] == 4
    assert found["sglang:num_running_reqs"] == 0
    assert found["sglang:max_total_num_tokens"] == 1024
    assert found["sglang:e2e_request_latency_seconds_count"] == 2
    assert found["sglang:time_to_first_token_seconds_count"] == 2
    assert found["sglang:inter_token_latency_seconds_count"] == 26, "every token but the first"
    assert found["tupelo:steps_total"] == 7
    assert found["tupelo:engine_up"] == 1


def test_metrics_can_be_switched_off(start: Start) -> None:
    assert start(enable_metrics=False).http.get("/metrics").status_code == 404


def test_tokenize_and_back(service: Service) -> None:
    for prefix in ("", "/v1"):
        found = service.post(f"{prefix}/tokenize", prompt="héllo").json()
        assert found["count"] == len(found["tokens"]) == 6
        assert found["max_model_len"] == 512
        back = service.post(f"{prefix}/detokenize", tokens=found["tokens"]).json()
        assert back == {"text": "héllo"}
    many = service.post("/tokenize", prompt=["a", "bc"]).json()
    assert many["count"] == [1, 2]
    assert service.post("/detokenize", tokens=many["tokens"]).json() == {"text": ["a", "bc"]}
    messages = [{"role": "user", "content": "Hi"}]
    chat = service.post("/tokenize", messages=messages).json()["tokens"]
    service.post("/v1/chat/completions", messages=messages)
    assert chat == list(service.engine.requests[-1].input_ids)
    assert service.post("/tokenize", prompt="a", messages=messages).status_code == 400
    assert service.post("/detokenize", tokens=[10**9]).status_code == 400
    assert service.post("/detokenize", tokens=[]).json() == {"text": ""}
