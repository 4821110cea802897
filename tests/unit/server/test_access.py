"""Who may call what: levels of routes, admin keys, keys from files, browsers."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse, Response
from tests.unit.server.conftest import Start
from tests.unit.server.fake_engine import byte_tokenizer

from tupelo.config import EngineConfig
from tupelo.errors import ConfigError
from tupelo_server.access import OTHER, Access, AccessTable, opened_to
from tupelo_server.app import create_api, guarded
from tupelo_server.config import ServerConfig
from tupelo_server.keys import KeyRing
from tupelo_server.state import ServerState

TOKENIZER = byte_tokenizer()


def application(**options: Any) -> tuple[FastAPI, ServerState]:
    """The server's application with routes as a plugin brings them, marked and unmarked."""
    config = ServerConfig(**options)
    state = ServerState(
        config=config,
        engine_config=EngineConfig(served_model_name="tiny"),
    )
    api = create_api(state)

    @api.get("/plugin", openapi_extra=opened_to(Access.ADMIN))
    async def plugin() -> Response:
        return PlainTextResponse("done")

    @api.get("/plugin/{name}/secrets", openapi_extra=opened_to(Access.ADMIN))
    async def parametrised() -> Response:
        return PlainTextResponse("done")

    @api.get("/unmarked")
    async def unmarked() -> Response:
        return PlainTextResponse("done")

    return api, state


async def answer(options: dict[str, Any], path: str, key: str = "", **headers: str) -> Any:
    api, state = application(**options)
    if key:
        headers["authorization"] = f"Bearer {key}"
    transport = httpx.ASGITransport(guarded(api, state))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, headers=headers)


BOTH = {"api_key": "user", "admin_api_key": "chief"}
USERS = {"api_key": "user"}
CHIEF = {"admin_api_key": "chief"}
LOCAL: dict[str, Any] = {"enable_admin_routes": True}


@pytest.mark.parametrize(
    ("options", "key", "status"),
    [
        (BOTH, "", 401),
        (BOTH, "nobody", 401),
        (BOTH, "user", 403),
        (BOTH, "chief", 200),
        (USERS, "", 401),
        (USERS, "user", 404),
        (CHIEF, "", 401),
        (CHIEF, "nobody", 401),
        (CHIEF, "chief", 200),
        ({}, "", 404),
        ({}, "nobody", 404),
        (LOCAL, "", 200),
        ({**USERS, **LOCAL}, "", 401),
        ({**USERS, **LOCAL}, "user", 200),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/plugin", "/plugin/a/secrets"])
async def test_administrators_routes(
    options: dict[str, Any], key: str, status: int, path: str
) -> None:
    reply = await answer(options, path, key)
    assert reply.status_code == status
    assert ("www-authenticate" in reply.headers) == (status == 401)


@pytest.mark.parametrize(
    ("options", "key", "status"),
    [
        (BOTH, "user", 403),
        (BOTH, "chief", 200),
        (CHIEF, "", 401),
        (CHIEF, "chief", 200),
        (USERS, "", 401),
        (USERS, "user", 200),
        ({}, "", 200),
    ],
    ids=str,
)
def test_operators_routes(start: Start, options: dict[str, Any], key: str, status: int) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    reply = start(**options).http.post("/flush_cache", headers=headers)
    assert reply.status_code == status


def test_users_abort_only_their_own(start: Start) -> None:
    service = start(**BOTH)
    for key, status in (("user", 403), ("chief", 200)):
        headers = {"authorization": f"Bearer {key}"}
        reply = service.http.post("/abort_request", json={"abort_all": True}, headers=headers)
        assert reply.status_code == status
    reply = service.http.post(
        "/abort_request", json={"rid": "a"}, headers={"authorization": "Bearer user"}
    )
    assert reply.status_code == 200


def test_the_admin_key_opens_everything(start: Start) -> None:
    http = start(**BOTH).http
    headers = {"authorization": "Bearer chief"}
    assert http.get("/v1/models", headers=headers).status_code == 200


def test_without_api_keys_an_admin_key_closes_only_its_routes(start: Start) -> None:
    http = start(**CHIEF).http
    assert http.get("/v1/models").status_code == 200
    assert http.get("/v1/models", headers={"authorization": "Bearer none"}).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"origin": "http://example.org"}, {"sec-fetch-site": "cross-site"}], ids=str
)
async def test_open_admin_routes_are_closed_to_web_pages(headers: dict[str, str]) -> None:
    assert (await answer(LOCAL, "/plugin", **headers)).status_code == 403
    assert (await answer(LOCAL, "/health", **headers)).status_code == 503, "public all the same"
    assert (await answer(CHIEF, "/plugin", "chief", **headers)).status_code == 200


@pytest.mark.parametrize(("key", "status"), [("", 401), ("user", 200), ("chief", 200)])
async def test_a_route_that_says_nothing_needs_a_key(key: str, status: int) -> None:
    assert (await answer(BOTH, "/unmarked", key)).status_code == status


def test_the_strictest_of_several_matching_routes_counts() -> None:
    api = FastAPI(openapi_url=None)

    @api.get("/v1/{anything}")
    async def catch_all() -> Response:
        return Response()

    @api.get("/v1/models", openapi_extra=opened_to(Access.ADMIN))
    async def models() -> Response:
        return Response()

    table = AccessTable(api.routes)
    assert table.find("/v1/models").access is Access.ADMIN
    assert table.find("/v1/other") == (Access.USER, "/v1/{anything}")
    assert table.find("/v1/other\n").access is Access.ADMIN
    assert table.find("/elsewhere") == (Access.USER, OTHER)


def test_keys_are_kept_as_digests() -> None:
    ring = KeyRing(["user-key"], ["admin-key"])
    kept = repr(vars(ring)) + repr(ring.caller(b"user-key"))
    assert "user-key" not in kept
    assert "admin-key" not in kept
    assert ring.caller(b"user-key").owner != ring.caller(b"admin-key").owner


def test_keys_from_files(start: Start, tmp_path: Path) -> None:
    users, admins = tmp_path / "users", tmp_path / "admins"
    users.write_text("# people\none\n\n two \n")
    admins.write_text("chief\n")
    http = start(api_key="zero", api_key_file=str(users), admin_api_key_file=str(admins)).http
    for key, status in (("zero", 200), ("one", 200), ("two", 200), ("chief", 200), ("#", 401)):
        reply = http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert reply.status_code == status, key


@pytest.mark.parametrize("content", [None, "", "# nothing\n", "\xff\xfe"])
def test_unusable_key_files(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="--api-key-file"):
        ServerConfig(api_key_file=str(path))


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": "a,b", "admin_api_key": "b"},
        {"enable_admin_routes": True, "admin_api_key": "a"},
        {"enable_admin_routes": True, "host": "0.0.0.0"},
        {"enable_admin_routes": True, "host": "example.org"},
    ],
    ids=str,
)
def test_contradictions_are_found_at_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServerConfig(**options)


def test_admin_key_of_the_environment(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUPELO_ADMIN_API_KEY", "outside")
    http = start().http
    assert http.post("/flush_cache").status_code == 401
    headers = {"authorization": "Bearer outside"}
    assert http.post("/flush_cache", headers=headers).status_code == 200


def salts(start: Start, bodies: list[tuple[str, str | None]], **options: Any) -> list[str]:
    """The engine's salt for each (key, cache_salt)."""
    service = start(api_key="one,two", **options)
    for key, salt in bodies:
        reply = service.http.post(
            "/v1/completions",
            json={"prompt": "a", "max_tokens": 1, "cache_salt": salt},
            headers={"authorization": f"Bearer {key}"},
        )
        assert reply.status_code == 200
    return [request.salt for request in service.engine.requests]


def test_two_keys_share_no_cache(start: Start) -> None:
    long = "/\x01" * 500
    asked = [("one", None), ("two", None), ("one", "s"), ("two", "s"), ("one", long)]
    found = salts(start, [*asked, *asked])
    assert len(set(found)) == len(asked), "a namespace for each key and salt"
    assert found[: len(asked)] == found[len(asked) :], "the same one each time"
    assert all(len(salt) <= 64 and "one" not in salt for salt in found)


def test_sharing_can_be_allowed_and_then_hides_what_was_cached(start: Start) -> None:
    assert salts(
        start, [("one", None), ("two", None), ("two", "s")], share_cache_across_keys=True
    ) == [
        "",
        "",
        "s",
    ]
    for options, cached in (({}, 2), ({"share_cache_across_keys": True}, 0)):
        service = start(api_key="one,two", enable_cache_report=True, **options)
        headers = {"authorization": "Bearer one"}
        body = {"prompt": "a", "max_tokens": 1}
        usage = service.http.post("/v1/completions", json=body, headers=headers).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == cached
        native = service.http.post("/generate", json={"text": "a"}, headers=headers).json()
        assert native["meta_info"]["cached_tokens"] == cached
