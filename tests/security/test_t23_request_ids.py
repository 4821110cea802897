"""T23: an id that a client chooses names its own requests, exactly, and nothing else."""

import threading
from typing import Any

import httpx
import pytest
from tests.security.guarded import Guarded, Keyed

LONG = {"prompt": "the rain", "max_tokens": 400, "ignore_eos": True, "seed": 1, "n": 4}


def started(server: Guarded, rid: str, key: str) -> "tuple[threading.Thread, list[Any]]":
    """A long request under this id, sent by a thread; its reply is the list's item at the end."""
    found: list[Any] = []
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {**LONG, "rid": rid}

    def run() -> None:
        url = server.url + "/v1/completions"
        found.append(httpx.post(url, json=body, headers=headers, timeout=60).json())

    before = server.metric("sglang:num_requests_total")
    thread = threading.Thread(target=run)
    thread.start()
    server.wait_for(lambda: server.metric("sglang:num_requests_total") >= before + 4, 30)
    return thread, found


def reasons(found: list[Any]) -> set[str]:
    return {choice["finish_reason"] for choice in found[0]["choices"]}


@pytest.mark.parametrize(
    "rid",
    [
        "background-",
        "background-1x",
        "b",
        "",
        "background-*",
        "%",
        ".*",
        "s0",
        "s1",
        "BACKGROUND-1",
        "background-1 ",
        "a" * 256,
    ],
)
def test_only_the_exact_id_aborts(server: Guarded, rid: str) -> None:
    """The streams beside this test are called background-0 to background-7."""
    status = server.post("/abort_request", {"rid": rid}).status_code
    assert status == (400 if rid == "" else 200)


def test_ids_of_another_type_or_size_are_refused(server: Guarded) -> None:
    for rid in (1, True, [["a"]], {"a": 1}, "a" * (1 << 20), ["a", 1]):
        for route, body in (
            ("/v1/completions", {"prompt": "a"}),
            ("/generate", {"text": "a"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ):
            reply = server.post(route, {**body, "rid": rid})
            assert reply.status_code == 400, (route, rid)
            assert len(reply.content) < 1000
        if isinstance(rid, int | list | dict):
            assert server.post("/abort_request", {"rid": rid}).status_code == 400


@pytest.mark.parametrize("rid", ["background-1", "", 1, "a" * (1 << 20)], ids=str)
def test_other_apis_take_no_ids(server: Guarded, rid: Any) -> None:
    """Their requests have ids of the server's own, which abort nobody else's."""
    messages = [{"role": "user", "content": "a"}]
    for route, body in (
        ("/v1/messages", {"model": "m", "max_tokens": 2, "messages": messages}),
        ("/api/chat", {"model": "m", "messages": messages}),
        ("/api/generate", {"model": "m", "prompt": "a"}),
    ):
        for name in ("rid", "id", "request_id"):
            reply = server.post(route, {**body, name: rid})
            assert (reply.status_code, name in reply.text) == (400, True), reply.text
            assert len(reply.content) < 1000


def test_another_user_s_id_aborts_nothing(keyed: Keyed) -> None:
    """Not even with the internal ids, which are numbers that anybody can guess."""
    thread, found = started(keyed, "mine", keyed.alice)
    guesses = ["mine", *(f"background-{i}" for i in range(8)), *(f"s{i}" for i in range(100))]
    for rid in guesses:
        body = {"rid": rid}
        reply = keyed.post("/abort_request", body, headers=keyed.as_(keyed.bob))
        assert reply.status_code == 200
    thread.join(60)
    assert reasons(found) == {"length"}


def test_the_owner_s_id_aborts(keyed: Keyed) -> None:
    thread, found = started(keyed, "mine", keyed.bob)
    other, kept = started(keyed, "mine", keyed.alice)
    assert keyed.post("/abort_request", {"rid": "mine"}).status_code == 200
    thread.join(60)
    other.join(60)
    assert reasons(found) == {"length"}, "bob's, of the same name"
    assert reasons(kept) == {"abort"}


def test_users_cannot_abort_everything(keyed: Keyed) -> None:
    reply = keyed.post("/abort_request", {"abort_all": True})
    assert reply.status_code == 403


def test_an_id_may_be_used_again_and_at_once(server: Guarded) -> None:
    """Of two requests with one id each gets its own reply; the id stays the client's."""
    replies: dict[int, Any] = {}

    def ask(number: int) -> None:
        body = {"prompt": "a", "max_tokens": 3 + number, "rid": "twin", "ignore_eos": True}
        url = server.url + "/v1/completions"
        replies[number] = httpx.post(url, json=body, timeout=60).json()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, reply in replies.items():
        assert reply["usage"]["completion_tokens"] == 3 + number
        assert reply["id"] == "twin"


def test_one_id_for_a_whole_batch(server: Guarded) -> None:
    body = {"text": ["a", "b", "c"], "rid": ["x", "x", "x"], "sampling_params": {"n": 2}}
    items = server.post("/generate", body).json()
    assert [item["meta_info"]["id"] for item in items] == ["x"] * 6
    wrong = server.post("/generate", {**body, "rid": ["x", "y"]})
    assert wrong.status_code == 400
