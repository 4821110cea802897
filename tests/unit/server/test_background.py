"""Responses that are kept, and those made in the background: followed, cancelled, forgotten."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import openai
import pytest
from tests.unit.server.conftest import Service, _running
from tests.unit.server.test_responses import ROUTE, assembled, parsed, plain, until

from tupelo.errors import QueueFull
from tupelo_server.response_store import Entry, ResponseStore
from tupelo_server.wire import encode_json

KEYS = {"alice": "sk-alice", "bob": "sk-bob"}
LIMITS = {
    "response_store_entries": 6,
    "response_store_bytes": 60_000,
    "api_key": ",".join(KEYS.values()),
}


CLIENTS: dict[str, Any] = {}


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    with _running({}, LIMITS) as service, ExitStack() as stack:
        for name, key in KEYS.items():
            client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0)
            CLIENTS[name] = stack.enter_context(client)
        yield service


@pytest.fixture
def service(shared: Service) -> Service:
    shared.engine.reset()
    return shared


def ask(service: Service, name: str = "alice", **body: Any) -> Any:
    return CLIENTS[name].responses.create(**{"model": "m", "input": "Hi", **body})


def ended(id: str) -> Any:
    """The response, when it has ended."""
    responses = CLIENTS["alice"].responses
    until(lambda: responses.retrieve(id).status not in ("queued", "in_progress"))
    return responses.retrieve(id)


def test_in_the_background(service: Service) -> None:
    service.engine.delay_s = 0.05
    begun = ask(service, background=True)
    assert (begun.status, begun.background, begun.output) == ("queued", True, [])
    response = ended(begun.id)
    assert (response.status, response.output_text) == ("completed", "Hello, world.")
    assert response.usage.output_tokens == len("Hello, world.") + 1
    assert CLIENTS["alice"].responses.cancel(begun.id).status == "completed"
    again = ask(service, previous_response_id=begun.id)
    assert again.usage.input_tokens > response.usage.input_tokens


def test_cancelling_frees_the_request_in_the_engine(service: Service) -> None:
    service.engine.delay_s = 5
    begun = ask(service, background=True)
    until(lambda: bool(service.engine.live))
    with pytest.raises(openai.BadRequestError, match="still being made"):
        ask(service, previous_response_id=begun.id)
    response = CLIENTS["alice"].responses.cancel(begun.id)
    assert response.status == "cancelled"
    until(lambda: not service.engine.live)
    assert service.engine.aborted
    assert CLIENTS["alice"].responses.cancel(begun.id).status == "cancelled"
    deleted = ask(service, background=True)
    until(lambda: bool(service.engine.live))
    CLIENTS["alice"].responses.delete(deleted.id)
    assert not service.engine.live
    with pytest.raises(openai.NotFoundError):
        CLIENTS["alice"].responses.retrieve(deleted.id)


def test_what_is_not_in_the_background_is_not_cancelled(service: Service) -> None:
    with pytest.raises(openai.BadRequestError, match="background"):
        CLIENTS["alice"].responses.cancel(ask(service).id)


def test_a_stream_goes_on_without_its_client(service: Service) -> None:
    service.engine.delay_s = 0.03
    stream = ask(service, background=True, stream=True)
    first = [next(stream) for _ in range(6)]
    stream.close()
    assert [event.type for event in first[:3]] == [
        "response.created",
        "response.queued",
        "response.in_progress",
    ]
    id = first[0].response.id
    rest = list(CLIENTS["alice"].responses.retrieve(id, stream=True, starting_after=3))
    assert [event.sequence_number for event in rest] == list(range(4, 4 + len(rest)))
    assert rest[-1].type == "response.completed"
    whole = CLIENTS["alice"].responses.retrieve(id)
    assert whole.output_text == rest[-1].response.output_text == "Hello, world."
    headers = {"authorization": f"Bearer {KEYS['alice']}"}
    text = service.http.get(f"{ROUTE}/{id}?stream=true", headers=headers).text
    output = [item.model_dump(exclude_none=True) for item in whole.output]
    assert plain(assembled(parsed(text)), "status") == plain(output, "status")
    for path in (f"{id}?stream=true&starting_after=x", f"{id}?starting_after=1", f"{id}?stream=1"):
        assert service.http.get(f"{ROUTE}/{path}", headers=headers).status_code == 400
    other = ask(service).id
    assert service.http.get(f"{ROUTE}/{other}?stream=true", headers=headers).status_code == 400


def test_a_response_that_fails_says_so(service: Service) -> None:
    service.engine.broken = RuntimeError("secret")
    response = ended(ask(service, background=True).id)
    assert response.status == "failed"
    assert response.error.code == "server_error"
    assert "secret" not in response.error.message


def test_another_tenant_s_response_is_unknown(service: Service) -> None:
    mine = ask(service)
    bob = CLIENTS["bob"]
    calls = [
        lambda: bob.responses.retrieve(mine.id),
        lambda: bob.responses.delete(mine.id),
        lambda: bob.responses.cancel(mine.id),
        lambda: bob.responses.input_items.list(mine.id),
        lambda: bob.responses.retrieve("resp_x"),
    ]
    told = set()
    for call in calls:
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        told.add(str(caught.value).replace(mine.id, "resp_x"))
    assert len(told) == 1, "nothing tells that it is there"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(service, "bob", previous_response_id=mine.id)
    assert refused.value.code == "previous_response_not_found"
    item = {"type": "item_reference", "id": mine.output[0].id}
    with pytest.raises(openai.BadRequestError):
        ask(service, "bob", input=[item])
    assert CLIENTS["alice"].responses.retrieve(mine.id).id == mine.id


def test_the_oldest_of_whoever_has_the_most_go_first(service: Service) -> None:
    bobs = ask(service, "bob").id
    ids = [ask(service).id for _ in range(10)]
    assert len(service.state.responses) <= LIMITS["response_store_entries"]
    with pytest.raises(openai.NotFoundError):
        CLIENTS["alice"].responses.retrieve(ids[4])
    assert CLIENTS["alice"].responses.retrieve(ids[-1]).id == ids[-1]
    assert CLIENTS["bob"].responses.retrieve(bobs).id == bobs


def test_what_is_too_long_is_not_kept(service: Service) -> None:
    long = [{"role": "user", "content": "x", "id": "i" * 250} for _ in range(40)]
    response = ask(service, input=long)
    assert (response.status, response.store) == ("completed", False)
    for field in ({"store": True}, {"background": True}):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(service, input=long, **field)
        assert caught.value.param == next(iter(field))
    assert service.state.responses.num_bytes <= LIMITS["response_store_bytes"]


def test_no_more_than_fit_are_made_at_once(service: Service) -> None:
    service.engine.delay_s = 5
    begun = [ask(service, background=True).id for _ in range(6)]
    with pytest.raises(openai.RateLimitError):
        ask(service, background=True)
    for id in begun:
        CLIENTS["alice"].responses.delete(id)
    assert len(service.state.responses) == 0
    assert service.state.responses.num_bytes == 0


def test_a_server_that_keeps_nothing_says_so() -> None:
    with _running({}, {"response_store_entries": 0}) as service:
        reply = service.post(ROUTE, input="Hi")
        assert (reply.status_code, reply.json()["store"]) == (200, False)
        for field in ({"store": True}, {"background": True}, {"previous_response_id": "resp_x"}):
            reply = service.post(ROUTE, input="Hi", **field)
            assert reply.status_code == 400
            assert reply.json()["error"]["param"] == next(iter(field))


RESPONSE = {"status": "completed", "output": [{"id": "msg_1", "type": "message"}]}


async def test_time_ends_what_is_kept() -> None:
    now = 0.0
    store = ResponseStore(10, 1 << 20, 60, clock=lambda: now)
    entry = Entry("resp_1", "alice", encode_json([{"id": "a"}]))
    store.end(entry, RESPONSE, [{"id": "a"}])
    now = 59.0
    assert store.find("alice", "resp_1") is entry
    assert store.items_of("alice")("a") == {"id": "a"}
    assert store.items_of("bob")("a") is None
    now = 60.0
    assert store.find("alice", "resp_1") is None
    assert store.items_of("alice")("msg_1") is None
    store.end(Entry("resp_2", "alice", b"[]"), RESPONSE, [])
    assert len(store) == 1, "the old one is gone, not only hidden"
    assert store.items_of("alice")("msg_1") == RESPONSE["output"][0]  # type: ignore[index]


async def test_bytes_bound_what_is_kept() -> None:
    store = ResponseStore(1000, 40_000, 60)
    for number in range(50):
        store.end(Entry(f"resp_{number}", "alice", b"[]" + b" " * 3000), RESPONSE, [])
        assert store.num_bytes <= 40_000
    assert 5 < len(store) < 12
    running = Entry("resp_x", "bob", b"[]")
    store.begin(running)
    assert not store.grow(running, 39_000), "that is more than its share"
    assert store.grow(running, 5000)
    assert store.num_bytes <= 40_000
    with pytest.raises(QueueFull):
        store.begin(Entry("resp_y", "carol", b" " * 36_000))
    store.remove(running)
    store.remove(running)
    store.begin(Entry("resp_y", "carol", b" " * 36_000))
    assert len(store) == 1
