"""T25: what one key had computed is nothing that another key can see, by time or by count."""

from typing import Any

import pytest
from tests.security.guarded import Guarded, Keyed
from tests.security.responses import ROUTE

PROMPT = "it was a dark and stormy night in the harbour of the old town, and "


def cached(server: Keyed, key: str, prompt: str, **more: Any) -> int:
    """Prompt tokens that came from the cache, as the reply tells."""
    body = {"prompt": prompt, "max_tokens": 1, **more}
    reply = server.post("/v1/completions", body, headers=server.as_(key))
    assert reply.status_code == 200, reply.text
    count: int = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return count


def test_two_keys_share_no_prefix(keyed: Keyed) -> None:
    prompt = "first " + PROMPT
    assert cached(keyed, keyed.alice, prompt) == 0
    assert cached(keyed, keyed.alice, prompt) > 40
    assert cached(keyed, keyed.bob, prompt) == 0
    assert cached(keyed, keyed.bob, prompt) > 40
    assert cached(keyed, keyed.root, prompt) == 0


def test_the_engine_itself_shares_nothing(keyed: Keyed) -> None:
    """Not only the reply: the engine's own count of tokens found does not grow."""
    prompt = "second " + PROMPT
    body = {"prompt": prompt, "max_tokens": 1, "cache_salt": "x"}
    keyed.post("/v1/completions", body)
    with_bob = {**body, "rid": "probe"}
    meta = keyed.post(
        "/generate",
        {"text": prompt, "cache_salt": "x", "sampling_params": {"max_new_tokens": 1}},
        headers=keyed.as_(keyed.bob),
    ).json()["meta_info"]
    assert meta["cached_tokens"] == 0
    assert keyed.post("/v1/completions", with_bob).json()["usage"]["prompt_tokens"] > 40


def test_a_salt_divides_one_key_s_cache(keyed: Keyed) -> None:
    prompt = "third " + PROMPT
    for salt in ("", "a", "b", "a/b", "a\0b", "a/", "/a"):
        assert cached(keyed, keyed.alice, prompt, cache_salt=salt) == 0, salt
    for salt in ("", "a", "b", "a/b", "a\0b", "a/", "/a"):
        assert cached(keyed, keyed.alice, prompt, cache_salt=salt) > 40, salt


def test_no_salt_reaches_into_another_key_s_cache(keyed: Keyed) -> None:
    """Whatever bob writes into his salt, alice's prefixes are not his."""
    from tupelo_server.engine_client import tenant_salt
    from tupelo_server.keys import KeyRing

    prompt = "fourth " + PROMPT
    cached(keyed, keyed.alice, prompt, cache_salt="x")
    assert cached(keyed, keyed.alice, prompt, cache_salt="x") > 40
    owner = KeyRing([keyed.alice], []).caller(keyed.alice.encode()).owner
    forged = [tenant_salt(owner, "x"), f"{owner}/x", f"/x\0{owner}", f"../{owner}/x", owner]
    for salt in forged:
        assert cached(keyed, keyed.bob, prompt, cache_salt=salt) == 0


ODD = [
    "/",
    "../../x",
    "\0",
    "\n" * 100,
    "a" * 1024,
    "\u202e",
    "{}",
    "%s%n",
    "'; drop",
    "漢字" * 500,
]


@pytest.mark.parametrize("salt", ODD)
def test_odd_salts_are_harmless(server: Guarded, salt: str) -> None:
    for field in ("cache_salt", "extra_key"):
        body = {"prompt": "a", "max_tokens": 1, field: salt}
        assert server.post("/v1/completions", body).status_code == 200


@pytest.mark.parametrize("salt", ["a" * 1025, 1, True, [], {}, ["a", "b"]])
def test_what_is_no_salt_is_refused(server: Guarded, salt: Any) -> None:
    for field in ("cache_salt", "extra_key"):
        body = {"prompt": "a", "max_tokens": 1, field: salt}
        assert server.post("/v1/completions", body).status_code == 400
        assert server.post("/generate", {"text": "a", field: salt}).status_code == 400


def test_a_salt_that_is_no_unicode_is_refused(keyed: Keyed) -> None:
    for field in ("cache_salt", "extra_key", "rid", "model"):
        content = b'{"prompt": "a", "max_tokens": 1, "' + field.encode() + b'": "\\ud800"}'
        assert keyed.request("POST", "/v1/completions", content=content).status_code == 400


def test_two_salts_contradict(server: Guarded) -> None:
    body = {"prompt": "a", "cache_salt": "a", "extra_key": "b"}
    assert server.post("/v1/completions", body).status_code == 400


def test_the_live_view_shows_a_key_its_own_branch(keyed: Keyed) -> None:
    def pages(key: str) -> int:
        nodes = keyed.get("/live", headers=keyed.as_(key)).json()["tree"]["nodes"]
        return sum(node[3] for node in nodes)

    before = {key: pages(key) for key in (keyed.bob, keyed.root)}
    cached(keyed, keyed.root, "fifth " + PROMPT)
    assert pages(keyed.bob) == before[keyed.bob], "another key's prompt shows nowhere"
    cached(keyed, keyed.bob, "sixth " + PROMPT)
    assert pages(keyed.bob) > before[keyed.bob]
    assert pages(keyed.root) > before[keyed.root]


def test_the_live_view_holds_no_text(keyed: Keyed) -> None:
    cached(keyed, keyed.root, "seventh " + PROMPT)
    seen = keyed.get("/live", headers=keyed.as_(keyed.root))
    assert not any(word in seen.text for word in ("seventh", "stormy", "harbour"))
    ids = keyed.post("/tokenize", {"prompt": PROMPT}, headers=keyed.as_(keyed.root)).json()
    assert str(ids["tokens"][:6])[1:-1].replace(" ", "") not in seen.text


def test_a_response_shares_no_prefix_with_others(keyed: Keyed) -> None:
    prompt = "the quick brown fox jumps over the lazy dog, again and again, until it is night"
    counts = []
    for key in (keyed.alice, keyed.alice, keyed.bob):
        body = {"input": prompt, "max_output_tokens": 1}
        usage = keyed.post(ROUTE, body, headers=keyed.as_(key)).json()["usage"]
        counts.append(usage["input_tokens_details"]["cached_tokens"])
    assert max(counts[0], counts[2]) < 20, "what all conversations begin with"
    assert counts[1] > 60
