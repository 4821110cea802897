"""T22: nothing that the server says of itself holds a key, a prompt or a path of the machine."""

import json
import re
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest
from tests.security.guarded import Guarded, Keyed
from tests.security.routes import all_routes

PROMPT = "the launch code is tangerine-4417"
SECRET = "tangerine-4417"

PATHS = sorted(
    {tempfile.gettempdir(), sys.prefix, str(Path(__file__).parents[2]), str(Path.home())}
)


def assert_clean(text: str, where: object, *, paths: bool = True) -> None:
    for key in (Keyed.alice, Keyed.bob, Keyed.root):
        assert key not in text, where
        assert key.rpartition("-")[2] not in text, where
    assert SECRET not in text, where
    assert "Traceback" not in text, where
    assert not re.search(r"0x[0-9a-f]{6,}", text), where
    if paths:
        for path in PATHS:
            assert path not in text, (where, text[max(0, text.find(path) - 80) :][:200])


def speak(server: Keyed) -> None:
    """Requests with the secret prompt, that go well and that go wrong."""
    chat = [{"role": "user", "content": PROMPT}]
    for route, body in (
        ("/v1/completions", {"prompt": PROMPT, "stop": [SECRET], "user": SECRET}),
        ("/v1/chat/completions", {"messages": chat, "max_tokens": 4}),
        ("/generate", {"text": PROMPT, "sampling_params": {"max_new_tokens": 2}}),
        ("/v1/tokenize", {"prompt": PROMPT}),
        ("/v1/completions", {"prompt": PROMPT, "max_tokens": 10**8}),
        ("/v1/completions", {"prompt": PROMPT * 2000}),
        ("/v1/chat/completions", {"messages": chat, "temperature": "hot"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": {"x": PROMPT}}]}),
        ("/generate", {"text": {"x": PROMPT}}),
    ):
        for key in (server.alice, server.bob):
            reply = server.post(route, body, headers=server.as_(key))
            if reply.status_code != 200:
                assert_clean(reply.text, (route, body))


def test_info_routes_tell_no_secret(keyed: Keyed) -> None:
    speak(keyed)
    for route in all_routes():
        if route.method == "GET" and not re.search("memory|profile", route.path):
            for key in ("", keyed.bob, keyed.root):
                reply = keyed.get(route.path, headers=keyed.as_(key) or {"x": "y"})
                assert reply.status_code < 500, route
                assert_clean(reply.text + str(dict(reply.headers)), (route, key))


def test_the_log_tells_no_secret(keyed: Keyed) -> None:
    """At level debug, with requests logged."""
    speak(keyed)
    assert_clean(keyed.log, "log", paths=False)
    assert "request begins" in keyed.log


@pytest.mark.parametrize("value", ["\n", "\r\n", "\x1b[31m", "\0", "\u2028", "\x9b"])
def test_clients_forge_no_line_of_the_log(keyed: Keyed, value: str) -> None:
    forged = "2026-01-01 00:00:00,000 INFO server: forged"
    body = {"prompt": "a", "max_tokens": 1, "rid": f"r{value}{forged}", "cache_salt": value}
    assert keyed.post("/v1/completions", body).status_code in (200, 400)
    keyed.get("/v1/models/" + quote(f"x{value}{forged}"))
    keyed.get("/v1/models", headers={**keyed.as_(keyed.alice), "user-agent": f"x {forged}"})
    lines = keyed.log.split("\n")
    assert not [line for line in lines if line.startswith("2026-01-01")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028]", keyed.log)


def test_the_openapi_document_holds_no_default_of_this_machine(keyed: Keyed) -> None:
    document = json.dumps(keyed.get("/openapi.json").json())
    assert_clean(document, "openapi.json")
    assert keyed.url not in document


def test_errors_tell_nothing_of_the_inside(server: Guarded) -> None:
    for path in ("/v1/models/../../etc/passwd", "/v1/models/" + PATHS[0], "/nothing"):
        assert_clean(server.get(path).text.replace(PATHS[0], ""), path)
