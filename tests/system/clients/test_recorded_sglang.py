"""What SGLang's own client and serving benchmark sent is sent again: they still get what they read.

``use_sglang.py`` wrote the recording, with the wheel of SGLang 0.5.23.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.harness import ServerProcess
from tests.system.tiny_model import write_letter_model

RECORDING = Path(__file__).resolve().parent / "recorded" / "sglang.json"
REQUESTS: list[dict[str, Any]] = json.loads(RECORDING.read_text())
GENERATING = [r for r in REQUESTS if r["path"] == "/generate"]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A tiny model, with the administrators' routes open."""
    folder = tmp_path_factory.mktemp("letters")
    write_letter_model(folder)
    flags = ["--load-format", "dummy", "--enable-admin-routes", "--batch-invariant"]
    with ServerProcess(folder, folder, *flags, "--profile-dir", str(folder)) as server:
        yield server


def send(server: ServerProcess, request: dict[str, Any]) -> httpx.Response:
    content = None if request["body"] is None else json.dumps(request["body"])
    return httpx.request(
        request["method"],
        server.url + request["path"],
        content=content,
        headers=request["headers"],
        timeout=100,
    )


def last_event(reply: httpx.Response) -> dict[str, Any]:
    """The last event of a native stream, whose text is everything so far."""
    lines = [line for line in reply.text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    texts = [json.loads(line.removeprefix("data: "))["text"] for line in lines[:-1]]
    assert all(b.startswith(a) for a, b in pairwise(texts))
    found: dict[str, Any] = json.loads(lines[-2].removeprefix("data: "))
    return found


def test_the_recording_has_what_they_use() -> None:
    paths = {request["path"].partition("?")[0] for request in REQUESTS}
    assert paths >= {
        *("/generate", "/get_model_info", "/server_info", "/flush_cache", "/start_profile"),
        *("/stop_profile", "/v1/models", "/v1/completions", "/v1/chat/completions"),
    }
    assert all(request["status"] == 200 for request in REQUESTS)
    words = {word for request in GENERATING for word in request["body"]["sampling_params"]}
    assert words >= {"regex", "json_schema", "stop", "top_k", "min_new_tokens", "ignore_eos"}
    assert any(request["body"].get("stream") for request in GENERATING)
    assert any(isinstance(request["body"].get("text"), list) for request in GENERATING)


def test_they_get_their_replies(letters: ServerProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        operating = [r for r in REQUESTS if "profile" in r["path"] or "flush" in r["path"]]
        rest = [request for request in REQUESTS if request not in operating]
        replies = list(pool.map(lambda request: send(letters, request), rest))
    for request, reply in zip(rest, replies, strict=True):
        assert reply.status_code == 200, (request, reply.text)
        check(request, reply)
    for request in operating:  # one after the other: a profile is begun before it is ended
        reply = send(letters, request)
        assert reply.status_code == 200, (request, reply.text)


def check(request: dict[str, Any], reply: httpx.Response) -> None:
    """A reply of the form that SGLang's client reads."""
    body, path = request["body"] or {}, request["path"]
    if path == "/get_model_info":
        assert reply.json()["model_path"]
    elif path == "/server_info":
        assert reply.json()["internal_states"]
    elif path == "/v1/models":
        assert reply.json()["data"][0]["id"]
    elif path == "/generate":
        given = body.get("text", body.get("input_ids"))
        items = [last_event(reply)] if body.get("stream") else reply.json()
        items = items if isinstance(items, list) else [items]
        assert len(items) == (len(given) if isinstance(given, list) else 1)
        for item in items:
            check_item(body, item)
    elif body.get("stream"):
        assert reply.text.endswith("data: [DONE]\n\n")
    else:
        assert reply.json()["usage"]["completion_tokens"] == 8


def check_item(body: dict[str, Any], item: dict[str, Any]) -> None:
    meta, params = item["meta_info"], body["sampling_params"]
    assert meta["finish_reason"]["type"] in ("stop", "length")
    assert len(item["output_ids"]) == meta["completion_tokens"] <= params["max_new_tokens"]
    if body.get("return_logprob"):
        assert len(meta["output_token_logprobs"]) == meta["completion_tokens"]
        start = body.get("logprob_start_len", -1)
        rows = meta["input_token_logprobs"]
        assert len(rows) == (meta["prompt_tokens"] - start if start >= 0 else 0)
        if body.get("return_text_in_logprobs"):
            assert all(isinstance(row[2], str) for row in rows)


def test_a_stream_ends_as_the_whole(letters: ServerProcess) -> None:
    greedy = [r for r in GENERATING if r["body"]["sampling_params"].get("temperature") == 0]
    streamed = [r for r in greedy if r["body"].get("stream")]
    assert streamed
    for request in streamed:
        whole = {**request, "body": {**request["body"], "stream": False}}
        assert last_event(send(letters, request))["text"] == send(letters, whole).json()["text"]


def test_the_recording_holds_no_secrets() -> None:
    text = RECORDING.read_text()
    for word in ("authorization", "/home/", "/root/", "/tmp/", "/opt/", "Bearer"):
        assert word not in text
