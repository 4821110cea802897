"""T23: an id that a client chooses names its own requests, exactly, and nothing else."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.security.guarded import Guarded, Keyed
from tests.security.probe import pulse
from tests.security.responses import LONG as SPOKEN
from tests.security.responses import ROUTE, ended

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


def test_responses_that_are_none(server: Guarded) -> None:
    for id in ("x", "..", "%2e%2e", "%00", "resp_" + "a" * 5000, "*", "%25", "input_items"):
        for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"),
                             ("GET", "/input_items")):  # fmt: skip
            reply = server.request(method, f"{ROUTE}/{id}{tail}")
            assert reply.status_code in (404, 405), (id, reply.text)
            assert len(reply.content) < 1000
    for wrong in (1, True, ["a"], {"a": 1}, "a" * (1 << 20)):
        reply = server.post(ROUTE, {"input": "a", "previous_response_id": wrong})
        assert reply.status_code == 400
        assert len(reply.content) < 1000
        reply = server.post(ROUTE, {"input": [{"type": "item_reference", "id": wrong}]})
        assert reply.status_code == 400


@pytest.fixture
def alices(keyed: Keyed) -> Iterator[dict[str, Any]]:
    """A response of the first user that is being made."""
    begun = keyed.post(ROUTE, {**SPOKEN, "background": True, "stream": False}).json()
    yield begun
    assert keyed.request("DELETE", f"{ROUTE}/{begun['id']}").status_code == 200


def test_another_user_s_response_tells_and_ends_nothing(
    keyed: Keyed, alices: dict[str, Any]
) -> None:
    id, as_bob = alices["id"], {"headers": keyed.as_(keyed.bob)}
    for key in (keyed.bob, keyed.root):
        headers = keyed.as_(key)
        seen = set()
        for real in (id, "resp_" + "0" * 48):
            for method, tail in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"),
                                 ("GET", "/input_items"), ("GET", "?stream=true")):  # fmt: skip
                reply = keyed.request(method, f"{ROUTE}/{real}{tail}", headers=headers)
                assert reply.status_code == 404
                seen.add(reply.text.replace(real, "X"))
        assert len(seen) == 1
    assert keyed.post("/abort_request", {"rid": id}, **as_bob).status_code == 200
    bobs = keyed.post(ROUTE, {"input": "a", "previous_response_id": id}, **as_bob)
    assert bobs.status_code == 400
    assert bobs.json()["error"]["code"] == "previous_response_not_found"
    assert ended(keyed, id)["status"] == "incomplete", "it ran to its limit"
    item = keyed.get(f"{ROUTE}/{id}").json()["output"][0]["id"]
    referred = {"input": [{"type": "item_reference", "id": item}], "max_output_tokens": 1}
    assert "no stored item" in keyed.post(ROUTE, referred, **as_bob).text
    assert "no stored item" not in keyed.post(ROUTE, referred).text


def test_the_owner_cancels_a_response(keyed: Keyed, alices: dict[str, Any]) -> None:
    other = keyed.post(ROUTE, {**SPOKEN, "background": True}, headers=keyed.as_(keyed.bob)).json()
    for _ in range(2):
        reply = keyed.post(f"{ROUTE}/{alices['id']}/cancel", {})
        assert reply.json()["status"] == "cancelled"
    found = ended(keyed, other["id"], headers=keyed.as_(keyed.bob))
    assert found["status"] == "incomplete"


def test_a_response_is_aborted_by_its_id(keyed: Keyed, alices: dict[str, Any]) -> None:
    keyed.wait_for(lambda: keyed.get(f"{ROUTE}/{alices['id']}").json()["status"] != "queued", 30)
    assert keyed.post("/abort_request", {"rid": alices["id"]}).status_code == 200
    assert ended(keyed, alices["id"])["status"] == "cancelled"


def test_responses_cancelled_at_any_time_nothing_stays(server: Guarded) -> None:
    """Before it is scheduled, while it runs, at its end; deleted, cancelled twice, or left."""
    for number in range(24):
        body = {**SPOKEN, "max_output_tokens": 3 + number, "background": True}
        begun = server.post(ROUTE, {**body, "store": True}).json()
        path = f"{ROUTE}/{begun['id']}"
        time.sleep(0.002 * number)
        if number % 3:
            assert server.post(f"{path}/cancel", {}).status_code == 200
            status = server.post(f"{path}/cancel", {}).json()["status"]
            assert status in ("cancelled", "completed", "incomplete")
        if number % 2:
            assert server.request("DELETE", path).status_code == 200
            assert server.get(path).status_code == 404
    server.wait_for(lambda: server.metric("tupelo:num_waiting") == 0, 20)


def test_large_conversations_are_bounded(server: Guarded) -> None:
    """Each is refused by the model's context; what was kept grows by none of them."""
    memory = server.resident_bytes()
    items = [{"role": "user", "content": "a" * 40_000} for _ in range(80)]
    for _ in range(8):
        assert server.post(ROUTE, {"input": items}).status_code == 400
    many = [{"role": "user", "content": "a"}] * 9000
    reply = server.post(ROUTE, {"input": many})
    assert reply.status_code == 400
    references = [{"type": "item_reference", "id": "msg_x"}] * 8000
    with pulse(server.url):
        assert server.post(ROUTE, {"input": references}).status_code == 400
    assert server.resident_bytes() - memory < 96 << 20
