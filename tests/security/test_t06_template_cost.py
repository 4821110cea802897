"""T6: a template that wants all the time or all the memory is stopped, and holds up nobody."""

import itertools
import threading
import time
from typing import Any

import pytest
from tests.security.guarded import Guarded
from tests.security.probe import pulse
from tests.security.templates import COSTS

ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"max_tokens": 1},
    "/v1/responses": {"max_output_tokens": 1, "background": True},
    "/v1/messages": {"model": "m", "max_tokens": 1},
    "/api/chat": {"model": "m", "options": {"num_predict": 1}, "stream": False},
}


def body(name: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": name}], "max_tokens": 1, **more}


def test_costly_templates_are_stopped(templated: Guarded) -> None:
    """All at once, on every route of conversations: each gets an error, the event loop turns,
    others' texts are encoded."""
    replies: dict[str, Any] = {}

    def ask(name: str, route: str) -> None:
        field = "input" if route == "/v1/responses" else "messages"
        messages = [{"role": "user", "content": name}]
        replies[name] = templated.post(route, {**ROUTES[route], field: messages})

    turns = zip(COSTS, itertools.cycle(ROUTES), strict=False)
    threads = [threading.Thread(target=ask, args=turn) for turn in turns]
    with pulse(templated.url):
        for thread in threads:
            thread.start()
        begin = time.monotonic()
        text = {"prompt": "the rain in " * 30, "max_tokens": 1}
        assert templated.post("/v1/completions", text).status_code == 200
        waited = time.monotonic() - begin
        for thread in threads:
            thread.join()
    for name, reply in replies.items():
        assert reply.status_code == 400, (name, reply.text)
        assert "chat template" in reply.text or name == "wide output"
    assert waited < 4, "a text waited for templates"
    assert templated.post("/v1/chat/completions", body("hello")).status_code == 200


def test_workers_are_few_and_end(templated: Guarded) -> None:
    """Those that were stopped are gone; no more wait than the renderer keeps."""
    workers = [
        process
        for process in templated.process.children()
        if any("template_worker" in word for word in process.cmdline())
    ]
    assert len(workers) <= 2
    for worker in workers:
        assert worker.memory_info().rss < 600 << 20


@pytest.mark.parametrize(
    "name",
    [
        "tokenize",
        "chat_template",
        "messages",
        "tools",
        "template",
        "add_generation_prompt",
        "continue_final_message",
        "raise_exception",
        "strftime_now",
        "eos_token",
    ],
)
def test_arguments_replace_nothing(server: Guarded, name: str) -> None:
    for route in ("/v1/chat/completions", "/tokenize"):
        wrong = {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {name: 1}}
        reply = server.post(route, wrong)
        assert reply.status_code == 400
        assert name in reply.text
    reply = server.post("/v1/responses", {"input": "a", "chat_template_kwargs": {name: 1}})
    assert reply.status_code == 400
    assert name in reply.text


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_arguments_of_any_size_and_depth(server: Guarded) -> None:
    values: dict[str, Any] = {
        "deep": nested(200),
        "wide": list(range(100_000)),
        "long": "a" * 2_000_000,
        "many names": None,
    }
    with pulse(server.url):
        for name, value in values.items():
            kwargs = {f"n{i}": i for i in range(50_000)} if value is None else {"x": value}
            request = {
                "messages": [{"role": "user", "content": "a"}],
                "max_tokens": 1,
                "chat_template_kwargs": kwargs,
            }
            reply = server.post("/v1/chat/completions", request)
            assert reply.status_code in (200, 400), (name, reply.text)
            assert len(reply.content) < 10_000


@pytest.mark.parametrize("name", ["\u0130", "a b", "1", "", "__class__", "self", "loop", "{{"])
def test_odd_names_of_arguments(server: Guarded, name: str) -> None:
    request = {
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 1,
        "chat_template_kwargs": {name: "x"},
    }
    assert server.post("/v1/chat/completions", request).status_code in (200, 400)
