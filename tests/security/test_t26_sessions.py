"""T26, sessions: closed while a request of theirs runs, closed twice, never opened, flooded, used
again after an abort; another caller's."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from tests.security.guarded import Guarded, Keyed

LONG = {"max_new_tokens": 300, "ignore_eos": True, "temperature": 0}
SHORT = {"max_new_tokens": 4, "ignore_eos": True, "temperature": 0}


def opened(server: Guarded, **more: Any) -> str:
    reply = server.post("/open_session", {"capacity_of_str_len": 10**6}, **more)
    assert reply.status_code == 200, reply.text
    name: str = reply.json()
    return name


def close(server: Guarded, name: str, **more: Any) -> None:
    reply = server.post("/close_session", {"session_id": name}, **more)
    assert (reply.status_code, reply.content) == (200, b"")


def said(server: Guarded, rid: str, params: dict[str, Any], **place: Any) -> httpx.Response:
    if "at" in place:
        place["rid"] = place.pop("at")
    body = {"text": "the rain ", "rid": rid, "sampling_params": params, "session_params": place}
    return server.post("/generate", body)


def refused(reply: httpx.Response, words: str) -> None:
    assert reply.status_code == 400, reply.text
    assert words in reply.json()["error"]["message"]


class Running:
    """A long request of a session, sent by a thread, once the server knows of it."""

    def __init__(self, server: Guarded, rid: str, **place: Any) -> None:
        before = server.metric("tupelo:session_tokens")

        def run() -> None:
            self.reply = said(server, rid, LONG, **place)

        self._thread = threading.Thread(target=run)
        self._thread.start()
        server.wait_for(lambda: server.metric("tupelo:session_tokens") > before, 20)

    def meta(self) -> dict[str, Any]:
        self._thread.join(60)
        found: dict[str, Any] = self.reply.json()["meta_info"]
        return found


def holds(server: Guarded, sessions: int, tokens: int) -> None:
    seen = server.metrics()
    assert (seen["tupelo:num_sessions"], seen["tupelo:session_tokens"]) == (sessions, tokens)


def test_closed_while_a_request_runs(server: Guarded) -> None:
    """The request goes on to its end, nothing of it is kept, and the name is free at once."""
    name = opened(server)
    one = Running(server, "long", id=name)
    for _ in range(2):
        close(server, name)
    refused(said(server, "next", SHORT, id=name, at="long"), "no such session")
    again = server.post("/open_session", {"capacity_of_str_len": 99, "session_id": name})
    assert again.json() == name
    refused(said(server, "next", SHORT, id=name, at="long"), "no such request")
    assert one.meta()["completion_tokens"] == 300
    refused(said(server, "next", SHORT, id=name, at="long"), "no such request")
    close(server, name)
    holds(server, 0, 0)


def test_used_again_after_an_abort(server: Guarded) -> None:
    """What was said until then is there, its pages are in the cache, and the tokens are those of a
    plain request for the same prompt."""
    name = opened(server)
    one = Running(server, "long", id=name)
    refused(said(server, "early", SHORT, id=name, at="long"), "still runs")
    assert server.post("/abort_request", {"rid": "long"}).status_code == 200
    meta = one.meta()
    assert meta["finish_reason"]["type"] == "abort"
    item = said(server, "next", SHORT, id=name, at="long").json()
    said_before = one.reply.json()["output_ids"]
    first = server.post("/tokenize", {"prompt": "the rain "}).json()["tokens"]
    ids = [*first, *said_before, *first]
    plain = server.post("/generate", {"input_ids": ids, "sampling_params": SHORT}).json()
    assert item["output_ids"] == plain["output_ids"]
    assert item["meta_info"]["prompt_tokens"] == len(ids)
    known = len(ids) - len(first) - 1  # the token sampled last has no K/V yet
    page = int(server.metric("tupelo:page_size"))
    assert item["meta_info"]["cached_tokens"] >= known // page * page > 0
    close(server, name)
    holds(server, 0, 0)


def test_replaced_closed_and_aborted_at_once(server: Guarded) -> None:
    """Every answer is a reply or a 400, and nothing stays behind."""
    names = [opened(server) for _ in range(4)]

    def harass(number: int) -> int:
        name, rid = names[number % 4], f"r{number}"
        if number % 7 == 3:
            server.post("/abort_request", {"rid": f"r{number - 2}"})
        if number % 11 == 5:
            close(server, names[number % 3])
        place = {"at": f"r{number - 4}"} if number % 3 else {}
        params = {**SHORT, "max_new_tokens": 1 + number % 40}
        return said(server, rid, params, id=name, replace=number % 2 == 0, **place).status_code

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(harass, range(80)))
    assert found <= {200, 400}
    assert 200 in found
    for name in names:
        close(server, name)
    holds(server, 0, 0)


def test_a_flood(server: Guarded) -> None:
    """Sessions are counted, then refused by name, and those that are open go on."""
    names = [opened(server) for _ in range(1024)]
    reply = server.post("/open_session", {"capacity_of_str_len": 1})
    refused(reply, "--max-sessions")
    assert said(server, "a", SHORT, id=names[-1]).status_code == 200
    prompt = server.post("/tokenize", {"prompt": "the rain "}).json()["tokens"]
    holds(server, 1024, 256 + len(prompt) + 4)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: close(server, name), names))
    holds(server, 0, 0)


def test_nobody_reaches_anothers_session(keyed: Keyed) -> None:
    """Not to read, not to close; and with a name known it is as if there were none."""
    name = opened(keyed)
    assert said(keyed, "mine", SHORT, id=name).status_code == 200
    for key in (keyed.bob, keyed.root):
        body = {"text": "", "session_params": {"id": name, "rid": "mine"}}
        reply = keyed.post("/generate", body, headers=keyed.as_(key))
        never = {"text": "", "session_params": {"id": "never", "rid": "mine"}}
        other = keyed.post("/generate", never, headers=keyed.as_(key))
        assert (reply.status_code, reply.content) == (400, other.content)
        close(keyed, name, headers=keyed.as_(key))
    assert said(keyed, "next", SHORT, id=name, at="mine").status_code == 200
    close(keyed, name)
