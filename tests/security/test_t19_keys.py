"""T19: keys are compared in constant time, there may be many, and none is ever written down."""

import ast
import inspect
from pathlib import Path

import pytest
from tests.security.guarded import Keyed

import tupelo_server
from tupelo_server.access import Access
from tupelo_server.keys import KeyRing


def test_keys_are_compared_as_digests_by_one_function_that_takes_its_time() -> None:
    """The code itself: time cannot be measured well enough in a test."""
    tree = ast.parse(inspect.getsource(KeyRing.caller).lstrip())
    calls = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    assert {"hmac.compare_digest", "_digest"} <= calls
    loop = next(n for n in ast.walk(tree) if isinstance(n, ast.For))
    assert not [n for n in ast.walk(loop) if isinstance(n, ast.Return | ast.Break | ast.Compare)]


def test_nothing_else_looks_at_keys() -> None:
    """What is compared elsewhere would be compared some other way."""
    folder = Path(tupelo_server.__file__).parent
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text())
        compared = [
            ast.unparse(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.Compare)
            for part in (node.left, *node.comparators)
            if isinstance(part, ast.Attribute) and "api_key" in part.attr
        ]
        assert not compared, file


def test_a_thousand_keys() -> None:
    names = [f"key-{number}" for number in range(1000)]
    ring = KeyRing(names, ["admin"])
    owners = {ring.caller(name.encode()).owner for name in names}
    assert len(owners) == 1000
    assert "" not in owners
    assert ring.caller(b"admin").access is Access.ADMIN
    for wrong in (b"", b"key-", b"key-1000", b"KEY-1", b"key-1 ", b"key-1\0", b"\xff"):
        assert ring.caller(wrong).access is Access.PUBLIC


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Basic {alice}",
        "{alice}",
        "Bearer {alice}x",
        "Bearer {short}",
        "Bearer {alice},{bob}",
        "Bearer {upper}",
        "Bearer null",
        "Bearer " + "a" * 30_000,
    ],
)
def test_what_is_no_key_opens_nothing(keyed: Keyed, value: str) -> None:
    filled = value.format(
        alice=keyed.alice, bob=keyed.bob, short=keyed.alice[:-1], upper=keyed.alice.upper()
    )
    reply = keyed.get("/v1/models", headers={"authorization": filled})
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"


def test_a_key_in_another_place_opens_nothing(keyed: Keyed) -> None:
    key = keyed.alice
    assert keyed.get("/v1/models", headers={"api-key": key}).status_code == 401
    assert keyed.get(f"/v1/models?api_key={key}", headers={"x": "y"}).status_code == 401
    cookies = {"cookie": f"authorization=Bearer {key}"}
    assert keyed.get("/v1/models", headers=cookies).status_code == 401
    reply = keyed.post("/v1/completions", {"prompt": "a", "api_key": key}, headers={"x": "y"})
    assert reply.status_code == 401


def test_every_key_opens_the_api(keyed: Keyed) -> None:
    for key in (keyed.alice, keyed.bob, keyed.root):
        assert keyed.get("/v1/models", headers=keyed.as_(key)).status_code == 200


def test_keys_are_in_no_log_and_no_command_line(keyed: Keyed) -> None:
    for key in (keyed.alice, keyed.bob, keyed.root, "sk-wrong-key-1234"):
        keyed.get("/v1/models", headers=keyed.as_(key))
        keyed.get(f"/v1/models?key={key}", headers=keyed.as_(key))
    lines = [" ".join(p.cmdline()) for p in (keyed.process, keyed.engine)]
    for text in (keyed.log, *lines):
        for secret in ("alice-5e1f0a", "bob-77c2d9", "root-c0ffee", "wrong-key-1234"):
            assert secret not in text
    assert "c0ffee" not in str(keyed.engine.environ()), "the engine needs no key"
