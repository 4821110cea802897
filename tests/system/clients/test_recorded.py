"""What nine clients sent to a server is sent again: it still gets what they could use.

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
from tests.system.clients.replies import (
    Said,
    error_of,
    forced_tools,
    generates,
    said,
    schema_of,
)
from tests.system.harness import ServerProcess

HERE = Path(__file__).resolve().parent
KEYS = {"right": "client-key", "wrong": "no-key"}
TALKING = ("whole", "streamed")
FORMING = ("formed", "formed and streamed")
CALLING = ("called", "called and streamed")
CLIENTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("openai", "langchain", "llama_index", "litellm"), (*TALKING, *FORMING)),
    "instructor": FORMING,
    "ollama": (*TALKING, *FORMING, "read"),
    "anthropic": (*TALKING, *FORMING, *CALLING, "read"),
    "pydantic_ai": (*TALKING, *FORMING, *CALLING),
    "responses": (*TALKING, *FORMING, *CALLING),
    "agents": (*TALKING, *FORMING, *CALLING),
}
"""What each of them does, beside being refused; ``responses`` is the ``openai`` client as well."""


@pytest.fixture(scope="module")
def keyed(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The demo model behind a key, with a template that takes tools."""
    template = HERE.parent / "tools.jinja"
    flags = ["--api-key", KEYS["right"], "--batch-invariant", "--chat-template", str(template)]
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
    assert {*CLIENTS[client], "refused"} <= {_kind(request) for request in requests}
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda request: _send(keyed, request), requests))
    same: dict[str, list[list[Said]]] = {}
    for request, reply in zip(requests, replies, strict=True):
        assert reply.status_code == request["status"], (request["body"], reply.text)
        if reply.status_code != 200:
            assert error_of(request, reply)
        elif generates(request):
            samples = _checked(request, reply)
            same.setdefault(_key(request), []).append(samples)
        else:
            assert reply.json()
    assert all(samples == found[0] for found in same.values() for samples in found)
    if client != "instructor":  # which says more where it streams
        assert any(len(found) > 1 for found in same.values()), "streamed and whole"


def test_recordings_hold_no_secrets() -> None:
    for client in CLIENTS:
        text = (HERE / "recorded" / f"{client}.json").read_text()
        for word in (*KEYS.values(), "authorization", "/home/", "/root/", "/tmp/", "Bearer"):
            assert word not in text
    versions = (HERE / "versions.txt").read_text()
    assert len(versions.splitlines()) == len(CLIENTS) - 1


def _kind(request: dict[str, Any]) -> str:
    if request["status"] != 200:
        return "refused"
    if not generates(request):
        return "read"
    streamed = bool(request["body"].get("stream"))
    name = "called" if forced_tools(request) else "formed" if schema_of(request) else ""
    if not name:
        return "streamed" if streamed else "whole"
    return f"{name} and streamed" if streamed else name


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


def _checked(request: dict[str, Any], reply: httpx.Response) -> list[Said]:
    """What the model said, which is of the form that was asked for."""
    samples = said(request, reply)
    assert len(samples) == request["body"].get("n", 1)
    schema, tools = schema_of(request), forced_tools(request)
    for sample in samples:
        assert sample.ends == 1
        assert sample.text.strip() or sample.calls
        if tools:
            assert sample.calls
            for name, arguments in sample.calls:
                jsonschema.validate(json.loads(arguments), tools[name])
        elif schema:
            jsonschema.validate(json.loads(sample.text), schema)
    return samples
