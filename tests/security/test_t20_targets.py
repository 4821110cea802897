"""T20: guard and router look at one and the same path, whatever the request line and Host say."""

import json

import pytest
from tests.security import wire
from tests.security.guarded import Keyed

TARGETS = [
    "//v1/models",
    "/v1//models",
    "/V1/models",
    "/v1/models/",
    "/v1/./models",
    "/v1/x/../models",
    "/%76%31/models",
    "/v1%2fmodels",
    "/v1/models%00",
    "/v1/models%0a",
    "/v1/models%20",
    "/v1/models;a=b",
    "/v1/models?/health",
    "/v1/models#/health",
    "/health/../v1/models",
    "/health/%2e%2e/v1/models",
    "/health%2f..%2fv1/models",
    "/health;/../v1/models",
    "/health\\..\\v1\\models",
    "/metrics/../../v1/models",
    "http://x/v1/models",
    "http://x/health/../v1/models",
    "http://health@x/v1/models",
    "https://x/v1/models",
    "//health/v1/models",
    "//x/health/../v1/models",
    "///v1/models",
    "*",
    "/server_info",
    "/server_info/",
    "//server_info",
    "/openapi.json",
    "/%6fpenapi.json",
    "/health%0d%0a/server_info",
]
HOSTS = ["x", "x/health?", "x/?", "x/#", "x/health#", "x@health", "/health", "x:99999", "", "a b"]
SECRETS = (b'"object"', b"context_length", b'"paths"', b"max_model_len")


@pytest.mark.parametrize("target", TARGETS)
def test_no_spelling_of_a_target_opens_a_route(keyed: Keyed, target: str) -> None:
    for host in HOSTS:
        for method in ("GET", "HEAD", "OPTIONS"):
            head = f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
            reply = wire.exchange(keyed.url, head.encode())
            assert wire.status(reply) in (400, 401, 404, 405), (host, reply[:300])
            assert not any(secret in reply for secret in SECRETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_request_is_routed_by_the_path_that_was_guarded(keyed: Keyed, target: str) -> None:
    """With a user's key: no spelling of an administrator's route gets past the guard."""
    admin = target.replace("/v1/models", "/pause_generation").replace("server_info", "stop_profile")
    body = json.dumps({}).encode()
    for host in ("x", "x/health?", "x/#"):
        head = (
            f"POST {admin} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
            f"authorization: Bearer {keyed.bob}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        reply = wire.exchange(keyed.url, head.encode() + body)
        assert wire.status(reply) in (400, 403, 404, 405), (host, reply[:300])


def test_the_public_stay_public_and_alone(keyed: Keyed) -> None:
    for target in ("/health", "/health?x=/v1/models", "http://x/health?/v1/models", "/%68ealth"):
        head = f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert wire.status(wire.exchange(keyed.url, head.encode())) == 200
    for target in ("/health/", "//health", "/Health", "/health/x", "/health;x", "/healthz"):
        head = f"GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        assert wire.status(wire.exchange(keyed.url, head.encode())) in (401, 404)


def test_headers_of_proxies_change_nothing(keyed: Keyed) -> None:
    for name in ("x-forwarded-prefix", "x-original-url", "x-rewrite-url", "x-forwarded-host"):
        headers = {name: "/health", "x-forwarded-for": "127.0.0.1", "forwarded": "for=127.0.0.1"}
        assert keyed.get("/v1/models", headers=headers).status_code == 401
