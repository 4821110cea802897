"""What five clients sent to a server is sent again: it still gets what they could use.

``ci/cpu/clients.sh`` runs the clients themselves, and writes the recordings.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from tests.system.harness import ServerProcess

HERE = Path(__file__).resolve().parent
KEYS = {"right": "client-key", "wrong": "no-key"}
CLIENTS = ("openai", "langchain", "llama_index", "instructor", "litellm")


@pytest.fixture(scope="module")
def keyed(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The demo model behind a key."""
    flags = ["--api-key", KEYS["right"], "--batch-invariant"]
    with ServerProcess(demo_gguf, tmp_path_factory.mktemp("keyed"), *flags) as server:
        yield server


def recorded(client: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((HERE / "recorded" / f"{client}.json").read_text())
    return found


def lengthened(value: Any) -> Any:
    """A body with its long strings as they were; see ``recorder.shortened``."""
    if isinstance(value, dict):
        if "$repeat" in value:
            word, times = value["$repeat"]
            return word * times
        return {name: lengthened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [lengthened(item) for item in value]
    return value


@pytest.mark.parametrize("client", CLIENTS)
def test_recorded_requests(keyed: ServerProcess, client: str) -> None:
    requests = recorded(client)
    kinds = {"formed", "formed and streamed", "refused"}
    if client != "instructor":  # which always asks for a form
        kinds |= {"whole", "streamed"}
    assert kinds <= {_kind(request) for request in requests}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda request: _send(keyed, request), requests))
    said: dict[str, set[tuple[str, ...]]] = {}
    for request, reply in zip(requests, replies, strict=True):
        assert reply.status_code == request["status"], (request["body"], reply.text)
        _check(request, reply)
        if reply.status_code == 200 and request["body"]:
            said.setdefault(_key(request), set()).add(tuple(_texts(reply)))
    assert all(len(texts) == 1 for texts in said.values()), "streamed or whole, it is the same"
    if client != "instructor":  # which says more where it streams
        assert len(said) < len([r for r in requests if _kind(r) != "refused" and r["body"]])


def test_recordings_hold_no_secrets() -> None:
    for client in CLIENTS:
        text = (HERE / "recorded" / f"{client}.json").read_text()
        for word in (*KEYS.values(), "authorization", "/home/", "/root/", "/tmp/", "Bearer"):
            assert word not in text
    versions = (HERE / "versions.txt").read_text()
    assert len(versions.splitlines()) == len(CLIENTS)


def _kind(request: dict[str, Any]) -> str:
    body = request["body"] or {}
    if request["status"] != 200:
        return "refused"
    formed = (body.get("response_format") or {}).get("type") == "json_schema"
    names = {(0, 0): "whole", (0, 1): "streamed", (1, 0): "formed", (1, 1): "formed and streamed"}
    return names[(int(formed), int(bool(body.get("stream"))))]


def _key(request: dict[str, Any]) -> str:
    """What a stream and its whole have in common."""
    body = {
        name: value
        for name, value in (request["body"] or {}).items()
        if name not in ("stream", "stream_options", "seed")
    }
    return json.dumps([request["path"], body], sort_keys=True)


def _send(server: ServerProcess, request: dict[str, Any]) -> httpx.Response:
    headers = {**request["headers"], "authorization": f"Bearer {KEYS[request['key']]}"}
    content = None if request["body"] is None else json.dumps(lengthened(request["body"]))
    return httpx.request(
        request["method"],
        server.url + request["path"],
        content=content,
        headers=headers,
        timeout=100,
    )


def _check(request: dict[str, Any], reply: httpx.Response) -> None:
    """A reply of the form that the client's library reads."""
    if reply.status_code != 200:
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        return
    if request["body"] is None:
        assert reply.json()["data"][0]["object"] == "model"
        return
    texts = _texts(reply)
    assert len(texts) == request["body"].get("n", 1)
    assert all(text.strip() for text in texts)
    if "formed" in _kind(request):
        schema = request["body"]["response_format"]["json_schema"]["schema"]
        for text in texts:
            jsonschema.validate(json.loads(text), schema)
    if not request["body"].get("stream"):
        usage = reply.json()["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    elif (request["body"].get("stream_options") or {}).get("include_usage"):
        assert _events(reply)[-1]["usage"]["completion_tokens"] > 0


def _events(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def _texts(reply: httpx.Response) -> list[str]:
    """The text of each choice; a streamed one ends once."""
    if not reply.headers["content-type"].startswith("text/event-stream"):
        choices = reply.json()["choices"]
        return [c["message"]["content"] if "message" in c else c["text"] for c in choices]
    texts: dict[int, str] = {}
    ends = 0
    for event in _events(reply):
        for choice in event["choices"]:
            new = choice["delta"].get("content") if "delta" in choice else choice["text"]
            texts[choice["index"]] = texts.get(choice["index"], "") + (new or "")
            ends += choice["finish_reason"] is not None
    assert ends == len(texts)
    return [texts[index] for index in sorted(texts)]
