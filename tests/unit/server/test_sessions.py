"""Sessions: what a request reads that goes on from another, whose they are, what they may hold."""

import random
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.engine.messages import Finish
from tupelo.request import FinishReason
from tupelo_server.session_tree import RECORD_TOKENS, Node, Session

HELLO = b"Hello, world."


def opened(service: Service, **more: Any) -> str:
    """A new session's id."""
    reply = service.post("/open_session", **{"capacity_of_str_len": 4000, **more})
    assert reply.status_code == 200, reply.text
    name: str = reply.json()
    return name


def said(service: Service, text: str, rid: str, **place: Any) -> httpx.Response:
    """A request in a session; ``at`` is the id of the earlier one."""
    if "at" in place:
        place["rid"] = place.pop("at")
    return service.post("/generate", text=text, rid=rid, session_params=place)


def read(service: Service) -> str:
    """The prompt of the newest request, with the end token shown."""
    ids = list(service.engine.requests[-1].input_ids)
    return service.engine.tokenizer.decode(ids, skip_special_tokens=False)


def refused(reply: httpx.Response, words: str) -> None:
    assert reply.status_code == 400, reply.text
    assert words in reply.json()["error"]["message"]


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_requests_go_on_and_branch(service: Service) -> None:
    name = opened(service)
    assert said(service, "one ", "a", id=name).status_code == 200
    said(service, " two ", "b", id=name, at="a")
    assert read(service) == "one Hello, world.</s> two "
    item = said(service, " three", "c", id=name, at="b").json()
    assert read(service) == "one Hello, world.</s> two Hello, world.</s> three"
    assert item["meta_info"]["prompt_tokens"] == len(service.engine.requests[-1].input_ids)
    said(service, " else", "d", id=name, at="a")
    assert read(service) == "one Hello, world.</s> else"
    said(service, "anew", "e", id=name)
    assert read(service) == "anew"


def test_a_reply_names_its_request(service: Service) -> None:
    name = opened(service)
    item = service.post("/generate", text="one ", session_params={"id": name}).json()
    said(service, "two", "b", id=name, at=item["meta_info"]["id"])
    assert read(service) == "one Hello, world.</s>two"


@pytest.mark.parametrize(
    ("place", "prompt"),
    [
        ({"offset": 6}, "one Heon"),
        ({"offset": 3}, "oneon"),
        ({"offset": -3}, "one Hello, worlon"),
        ({"offset": -18}, "on"),
        ({"drop_previous_output": True}, "one on"),
        ({"drop_previous_output": True, "offset": -1}, "oneon"),
        ({"drop_previous_output": True, "offset": 2}, "onon"),
    ],
)
def test_what_is_kept(service: Service, place: dict[str, Any], prompt: str) -> None:
    name = opened(service)
    said(service, "one ", "a", id=name)
    said(service, "on", "b", id=name, at="a", **place)
    assert read(service) == prompt
    said(service, "!", "c", id=name, at="b")
    assert read(service) == prompt + "Hello, world.</s>!"


def test_only_a_text_that_begins_has_a_bos(service: Service) -> None:
    name = opened(service)
    bos = service.engine.tokenizer.bos_token_id
    body = {"input_ids": [bos, 70], "session_params": {"id": name}, "rid": "a"}
    assert service.post("/generate", **body).status_code == 200
    service.post("/generate", **{**body, "rid": "b", "session_params": {"id": name, "rid": "a"}})
    ids = list(service.engine.requests[-1].input_ids)
    assert ids[:2] == [bos, 70]
    assert ids[2:].count(bos) == 0
    assert ids[-1] == 70


def test_completions_and_chats(service: Service) -> None:
    place = {"id": opened(service)}
    body = {"prompt": "one ", "max_tokens": 5, "session_params": place}
    first = service.post("/v1/completions", **body).json()
    place = {**place, "rid": first["id"]}
    chat = {"messages": [{"role": "user", "content": "x"}], "session_params": place}
    second = service.post("/v1/chat/completions", **chat).json()
    assert read(service) == "one Hello<user>x<assistant>"
    place = {**place, "rid": second["id"]}
    echo = service.post("/v1/completions", prompt="y", echo=True, session_params=place).json()
    begin = "one Hello<user>x<assistant>Hello, world."
    assert echo["choices"][0]["text"].startswith(begin)
    reply = service.post("/v1/completions", prompt="y", session_params={"id": "nothing"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "session_params"


def test_a_batch_takes_a_place_each(service: Service) -> None:
    name = opened(service)
    said(service, "one ", "a", id=name)
    places = [{"id": name, "rid": "a"}, {}, {"id": name}]
    body = {"text": ["x", "y", "z"], "rid": ["b", "c", "d"], "session_params": places}
    service.engine.requests.clear()
    assert service.post("/generate", **body).status_code == 200
    lengths = sorted(len(request.input_ids) for request in service.engine.requests)
    assert lengths == [1, 1, 19]
    both = {"text": ["x", "y"], "rid": ["e", "f"], "session_params": {"id": name, "rid": "a"}}
    assert service.post("/generate", **both).status_code == 200
    refused(service.post("/generate", text=["x", "y"], session_params=places), "session_params")


def test_replacing_forgets_what_went_on(service: Service) -> None:
    sessions = service.state.frontend.sessions  # type: ignore[union-attr]
    before = sessions.num_tokens
    name = opened(service)
    for rid, at in (("a", None), ("b", "a"), ("c", "b"), ("d", "a")):
        said(service, rid, rid, id=name, **({"at": at} if at else {}))
    said(service, "n", "new", id=name, at="a", replace=True)
    assert read(service) == "aHello, world.</s>n"
    for gone in "bcd":
        refused(said(service, "x", "x", id=name, at=gone), "no such request")
    said(service, "w", "whole", id=name, replace=True)
    assert read(service) == "w"
    refused(said(service, "x", "x", id=name, at="a"), "no such request")
    assert sessions.num_tokens == before + RECORD_TOKENS + 15, "one request is left"


def test_replacing_a_request_that_runs(service: Service) -> None:
    """It ends in an abort, its output so far stays, and what went on from it is aborted too."""
    name, engine = opened(service), service.engine
    said(service, "one ", "a", id=name)
    engine.delay_s = 0.02
    engine.script = lambda request: b"Z" * 300 if len(request.input_ids) == 19 else b"end"
    sessions = service.state.frontend.sessions  # type: ignore[union-attr]
    replies: list[httpx.Response] = []

    def run() -> None:
        body = {"text": "b", "rid": "b", "session_params": {"id": name, "rid": "a"}}
        more = {"sampling_params": {"max_new_tokens": 300}, "stream": True}
        replies.append(service.post("/generate", **body, **more))

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: bool(engine.live))
    refused(said(service, "c", "c", id=name, at="b"), "still runs")
    held = sessions.num_tokens
    until(lambda: sessions.num_tokens > held + 3)
    reply = said(service, "c", "c", id=name, at="b", replace=True)
    assert reply.status_code == 200
    thread.join(10)
    assert '"type":"abort"' in replies[0].text
    prompt = read(service)
    assert prompt.startswith("one Hello, world.</s>bZ")
    assert prompt.endswith("Zc")
    assert 3 < prompt.count("Z") < 300


BAD: list[tuple[dict[str, Any], str]] = [
    ({"id": "nothing"}, "no such session"),
    ({"id": "S", "rid": "nothing"}, "no such request"),
    ({"id": "S", "rid": "a", "offset": 19}, "offset"),
    ({"id": "S", "rid": "a", "offset": -19}, "offset"),
    ({"id": "S", "rid": "a", "drop_previous_output": True, "offset": 5}, "offset"),
    ({"id": "S", "offset": "1"}, "offset"),
    ({"id": "S", "rid": "a", "offset": 2**80}, "offset"),
    ({"id": "S", "offset": 3}, "rid"),
    ({"id": "S", "drop_previous_output": True}, "rid"),
    ({"id": "S", "replace": "yes"}, "replace"),
    ({"id": 5}, "id"),
    ({"id": ""}, "id"),
    ({"id": "x" * 257}, "id"),
    ({"rid": "a"}, "id"),
    ({"id": "S", "other": 1}, "other"),
    ({"id": "S", "rid": "a" * 300}, "rid"),
]


@pytest.mark.parametrize(("place", "words"), BAD, ids=range(len(BAD)))
def test_bad_places(service: Service, place: dict[str, Any], words: str) -> None:
    name = opened(service)
    said(service, "one ", "a", id=name)
    place = {**place, "id": name} if place.get("id") == "S" else place
    number = len(service.engine.requests)
    reply = service.post("/generate", text="x", session_params=place)
    assert reply.status_code == 400
    assert words in reply.text
    assert len(service.engine.requests) == number, "the engine does not hear of it"


def test_what_a_session_refuses(service: Service) -> None:
    name = opened(service)
    said(service, "one ", "a", id=name)
    refused(said(service, "x", "a", id=name), "this id already")
    several = {"sampling_params": {"n": 2}, "session_params": {"id": name}}
    refused(service.post("/generate", text="x", **several), "one sample")
    refused(service.post("/open_session", capacity_of_str_len=10, session_id=name), "is open")
    for body, words in (
        ({}, "capacity_of_str_len"),
        ({"capacity_of_str_len": 0}, "capacity_of_str_len"),
        ({"capacity_of_str_len": 2**70}, "capacity_of_str_len"),
        ({"capacity_of_str_len": 9, "timeout": 0}, "timeout"),
        ({"capacity_of_str_len": 9, "timeout": -1}, "timeout"),
        ({"capacity_of_str_len": 9, "timeout": 1e9}, "timeout"),
        ({"capacity_of_str_len": 9, "streaming": True}, "streaming"),
        ({"capacity_of_str_len": 9, "session_id": "x" * 999}, "session_id"),
    ):
        reply = service.post("/open_session", **body)
        assert reply.status_code == 400
        assert words in reply.text
    assert service.post("/close_session").status_code == 400


def test_a_session_has_a_capacity(service: Service) -> None:
    """In characters of all the text, however many bytes they have."""
    name = opened(service, capacity_of_str_len=29)
    assert said(service, "é" * 12, "a", id=name).status_code == 200
    refused(said(service, "x", "b", id=name, at="a"), "30 characters")  # 12 + 13 + </s> + 1
    assert said(service, "x", "c", id=name, at="a", offset=-1).status_code == 200


def test_closing(service: Service) -> None:
    name = opened(service, session_id="mine")
    assert name == "mine"
    said(service, "one ", "a", id=name)
    for _ in range(2):
        reply = service.post("/close_session", session_id=name)
        assert (reply.status_code, reply.content) == (200, b"")
    refused(said(service, "x", "b", id=name, at="a"), "no such session")
    assert opened(service, session_id="mine") == "mine"
    refused(said(service, "x", "b", id=name, at="a"), "no such request")
    service.post("/close_session", session_id=name)


def test_a_request_that_fails_is_forgotten(service: Service) -> None:
    name = opened(service)
    service.engine.refuse = Finish(FinishReason.ABORT, message="full", status=503, code="full")
    assert said(service, "one ", "a", id=name).status_code == 503
    service.engine.refuse = None
    refused(said(service, "x", "b", id=name, at="a"), "no such request")
    assert said(service, "one ", "a", id=name).status_code == 200


def test_idle_sessions_are_closed(start: Start) -> None:
    service = start(session_timeout_s=30.0)
    sessions = service.state.frontend.sessions  # type: ignore[union-attr]
    kept = opened(service)
    name = opened(service, timeout=0.3)
    service.engine.delay_s = 0.06  # a request of 14 tokens runs for longer than that
    assert said(service, "one ", "a", id=name).status_code == 200
    service.engine.delay_s = 0.0
    assert said(service, "x", "b", id=name, at="a").status_code == 200
    until(lambda: sessions.count == 1)
    refused(said(service, "x", "c", id=name, at="a"), "no such session")
    assert said(service, "x", "c", id=kept).status_code == 200


def test_limits(start: Start) -> None:
    service = start(max_sessions=3, max_session_tokens=4 * (RECORD_TOKENS + 24))
    names = [opened(service) for _ in range(3)]
    reply = service.post("/open_session", capacity_of_str_len=9)
    refused(reply, "--max-sessions")
    assert reply.json()["error"]["code"] == "too_many_sessions"
    for number, name in enumerate([*names, names[0]]):
        assert said(service, "0123456789", str(number), id=name).status_code == 200
    reply = said(service, "x", "more", id=names[1])
    refused(reply, "--max-session-tokens")
    assert reply.json()["error"]["code"] == "sessions_full"
    metrics = service.http.get("/metrics").text
    assert f'tupelo:session_tokens{{model_name="tiny"}} {4.0 * (RECORD_TOKENS + 24)}' in metrics
    assert 'tupelo:num_sessions{model_name="tiny"} 3.0' in metrics
    service.post("/close_session", session_id=names[0])
    assert said(service, "x", "more", id=names[1]).status_code == 200
    assert opened(service)


def test_sessions_leave_with_their_model(start: Start) -> None:
    service = start()
    frontend = service.state.frontend
    assert frontend is not None
    said(service, "one ", "a", id=opened(service))
    service.loop.call_soon_threadsafe(frontend.close, "another model comes")
    until(lambda: not frontend.open)
    assert (frontend.sessions.count, frontend.sessions.num_tokens) == (0, 0)
    assert service.post("/open_session", capacity_of_str_len=9).status_code == 503


def test_sessions_are_their_callers_own(start: Start) -> None:
    service = start(api_key="key-a,key-b", max_sessions=1)

    def post(key: str, path: str, **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return service.http.post(path, json=body, headers=headers)

    place = {"id": "same", "rid": "a"}
    wanted = {"capacity_of_str_len": 500, "session_id": "same"}
    assert post("key-a", "/open_session", **wanted).status_code == 200
    first = {"text": "one ", "rid": "a", "session_params": {"id": "same"}}
    assert post("key-a", "/generate", **first).status_code == 200
    refused(post("key-b", "/generate", text="x", session_params=place), "no such session")
    assert post("key-b", "/close_session", session_id="same").status_code == 200
    assert post("key-b", "/open_session", **wanted).status_code == 200
    refused(post("key-b", "/generate", text="x", session_params=place), "no such request")
    assert post("key-a", "/generate", text="x", session_params=place).status_code == 200


def test_a_tree_of_random_requests_holds_what_plain_lists_hold() -> None:
    rng = random.Random(5)
    for _ in range(20):
        session, lists = Session(1, 1.0), dict[str, list[int]]()
        for number in range(60):
            parent = session.nodes[rng.choice(list(session.nodes))] if lists else None
            before = lists[parent.rid] if parent else []
            kept = rng.randint(0, len(before))
            own = [rng.randrange(1000) for _ in range(rng.randint(0, 5))]
            node = Node(str(number), parent if kept else None, kept, array("i", own), len(own))
            session.add(node)
            output = [rng.randrange(1000) for _ in range(rng.randint(0, 5))]
            session.extend(node, output)
            session.end(node, keep=True)
            lists[node.rid] = [*before[:kept], *own, *output]
            assert node.num_prompt == kept + len(own)
            if rng.random() < 0.1:
                found = session.nodes[rng.choice(list(session.nodes))]
                for gone in list(found.walk()):
                    del lists[gone.rid]
                session.remove([found])
        assert {rid: list(node.ids(node.num_tokens)) for rid, node in session.nodes.items()} == (
            lists
        )
        weight = sum(len(node.own) + RECORD_TOKENS for node in session.nodes.values())
        assert session.num_tokens == weight
        session.remove(session.roots())
        assert (session.num_tokens, session.nodes) == (0, {})
