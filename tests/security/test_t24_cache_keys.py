"""T24: a cached prefix is found by its tokens and namespace themselves, never by a digest of them.

Media, adapters and embeddings bring more to the key with their features.
"""

import random
from typing import Any

import numpy as np
import pytest
from tests.security.guarded import Guarded
from tests.unit.engine.tiny import VOCAB, tiny_engine

from tupelo.cache import frontier, radix
from tupelo.cache.prefix_cache import PrefixCache
from tupelo.cache.radix import Namespace
from tupelo.specs import PageGroup

PAGE = 4


class Colliding(bytes):
    """A key whose hash is that of every other."""

    def __hash__(self) -> int:
        return 7


@pytest.fixture
def _collisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every page has the same hash, as if somebody had found a way to make them so."""
    plain = radix.page_key
    for module in (radix, frontier):
        monkeypatch.setattr(module, "page_key", lambda tokens: Colliding(plain(tokens)))
    monkeypatch.setattr(Namespace, "__hash__", lambda self: 7)


def prompts() -> list[list[int]]:
    """Prompts that share prefixes of all lengths, and differ in one token here and there."""
    draw = random.Random(5)
    first = [draw.randrange(VOCAB) for _ in range(40)]
    made = [first]
    for place in (0, 1, 3, 4, 5, 8, 15, 16, 39):
        changed = list(first)
        changed[place] = (changed[place] + 1) % VOCAB
        made.append(changed)
    return [*made, list(reversed(first)), first[:17], first[4:], first + first]


def answers(**options: Any) -> list[list[int]]:
    params = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}
    with tiny_engine(page_size=PAGE, **options) as engine:
        found = [engine.generate(input_ids=p, sampling_params=params) for p in prompts() * 2]
        if not options.get("disable_radix_cache"):
            assert engine.stats()["hit_tokens"] > 200, "the cache was in use"
    return [reply["output_ids"] for reply in found]


@pytest.mark.usefixtures("_collisions")
def test_colliding_hashes_change_no_answer() -> None:
    assert answers() == answers(disable_radix_cache=True)


@pytest.mark.usefixtures("_collisions")
def test_colliding_hashes_find_nobody_else_s_pages() -> None:
    cache = PrefixCache((PageGroup(num_pages=64, window=None),), PAGE)
    spaces = [Namespace(), Namespace("a"), Namespace("b"), Namespace("", "a"), Namespace("a", "b")]
    for number, space in enumerate(spaces):
        ids = np.arange(12) + 100 * number
        lease = cache.open(space, ids, max_tokens=12)
        cache.extend(lease, 12)
        cache.publish(lease, ids, 12)
        cache.close(lease)
    for number, space in enumerate(spaces):
        for other in range(len(spaces)):
            ids = np.arange(12) + 100 * other
            assert cache.match_length(space, ids, max_tokens=12) == (12 if number == other else 0)


def test_a_digest_that_a_client_sends_is_no_key(server: Guarded) -> None:
    """There is no field for one; OpenAI's ``prompt_cache_key`` does not decide what is found."""
    for field in ("mm_hashes", "image_hash", "prompt_hash", "block_hashes", "kv_hash", "page_hash"):
        for route, body in (
            ("/v1/completions", {"prompt": "a"}),
            ("/generate", {"text": "a"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ):
            reply = server.post(route, {**body, field: "0" * 64})
            assert reply.status_code == 400, (route, field)
            assert field in reply.text
    texts = []
    for content in ("the first text", "quite another"):
        body = {
            "messages": [{"role": "user", "content": content}],
            "prompt_cache_key": "same",
            "temperature": 0,
            "max_tokens": 8,
        }
        texts.append(server.post("/v1/chat/completions", body).json()["choices"])
    assert texts[0] != texts[1]


def test_namespaces_are_pairs_not_joined_texts(server: Guarded) -> None:
    """No salt spells another salt with an adapter: the two are never one string."""
    assert Namespace("a", "b") != Namespace("ab", "") != Namespace("", "ab")
    assert Namespace("a\0b", "") != Namespace("a", "b")
    prompt = "the rain in spain stays mainly in the plain"
    body = {"text": prompt, "sampling_params": {"max_new_tokens": 1}, "cache_salt": "x"}
    server.post("/generate", body)
    again = server.post("/generate", body).json()["meta_info"]["cached_tokens"]
    assert again > 20
    for salt in ("", "x\0", "\0x", "X", "x/", "('x', '')"):
        meta = server.post("/generate", {**body, "cache_salt": salt}).json()["meta_info"]
        assert meta["cached_tokens"] == 0, salt
