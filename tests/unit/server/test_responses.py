"""The Responses API by the official client: items, events, tools, thoughts, what is refused."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest
from tests.unit.server.conftest import TOKENIZER, Service, _running
from tests.unit.server.test_tools import CALLS, ONE_CALL, TEMPLATE, TWO_CALLS

from tupelo_server.protocol.responses import ResponsesBody

TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "lookup",
        "description": "Look a place up.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        "strict": False,
    },
    {"type": "function", "name": "ping", "parameters": {"type": "object"}, "strict": False},
]
THINKER = TEMPLATE + "{# <think> </think> enable_thinking #}"
ROUTE = "/v1/responses"
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


@pytest.fixture(scope="module")
def shared() -> Iterator[Service]:
    options = {"template": THINKER, "reasoning_parser": "deepseek-r1", "enable_cache_report": True}
    with _running({}, options) as service:
        yield service


@pytest.fixture
def service(shared: Service) -> Service:
    shared.engine.reset()
    shared.engine.script = lambda request: b"<think>Hm.</think>Hello"
    return shared


@pytest.fixture
def client(service: Service) -> Any:
    return service.openai


def ask(client: Any, **body: Any) -> Any:
    return client.responses.create(**{"model": "m", "input": "Hi", **body})


def events_of(service: Service, **body: Any) -> list[dict[str, Any]]:
    reply = service.post(ROUTE, **{"input": "Hi", "stream": True, **body})
    assert reply.headers["content-type"].startswith("text/event-stream"), reply.text
    return parsed(reply.text)


def parsed(stream: str) -> list[dict[str, Any]]:
    found = []
    for block in stream.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def assembled(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that the deltas alone tell."""
    items: dict[int, dict[str, Any]] = {}
    for event in events:
        kind, number = event["type"], event.get("output_index")
        if kind == "response.output_item.added":
            assert number == len(items)
            items[number] = event["item"]
        elif kind == "response.content_part.added":
            items[number]["content"].append(event["part"])
            assert event["content_index"] == len(items[number]["content"]) - 1
        elif kind in ("response.output_text.delta", "response.reasoning_text.delta"):
            part = items[number]["content"][event["content_index"]]
            assert event["item_id"] == items[number]["id"]
            part["text"] += event["delta"]
            if "logprobs" in event:
                part["logprobs"] += event["logprobs"]
        elif kind == "response.function_call_arguments.delta":
            items[number]["arguments"] += event["delta"]
    return [items[number] for number in sorted(items)]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must come soon."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def plain(items: list[dict[str, Any]], *also: str) -> list[dict[str, Any]]:
    """Items without what differs from reply to reply."""
    leave = {"id", "call_id", *also}
    return [{k: v for k, v in item.items() if k not in leave} for item in items]


def prompt_of(service: Service) -> str:
    return TOKENIZER.decode(service.engine.requests[-1].input_ids)


def test_a_reply_in_items(client: Any) -> None:
    response = ask(client, metadata={"a": "b"}, user="u", max_output_tokens=99, temperature=0.5)
    assert (response.object, response.status, response.model) == ("response", "completed", "m")
    assert response.id.startswith("resp_")
    thought, message = response.output
    assert (thought.type, thought.content[0].text, thought.summary) == ("reasoning", "Hm.", [])
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert response.output_text == "Hello"
    usage = response.usage
    assert usage.output_tokens == len(b"<think>Hm.</think>Hello") + 1
    assert usage.output_tokens_details.reasoning_tokens == len(b">Hm.</think>")
    assert usage.input_tokens_details.cached_tokens == 2
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert (response.metadata, response.user) == ({"a": "b"}, "u")
    assert (response.max_output_tokens, response.temperature) == (99, 0.5)
    assert response.completed_at >= response.created_at
    assert (response.error, response.incomplete_details) == (None, None)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": TOOLS},
        {"include": [*LOGPROBS["include"], "reasoning.encrypted_content"], "top_logprobs": 2},
        {"max_output_tokens": 22},
        {"max_output_tokens": 5},
    ],
    ids=["text", "calls", "log-probabilities", "cut text", "cut thoughts"],
)
def test_the_stream_is_the_whole(body: dict[str, Any], service: Service) -> None:
    if "tools" in body:
        service.engine.script = lambda request: b"<think>Hm.</think>" + TWO_CALLS
    whole = service.post(ROUTE, input="Hi", **body).json()
    events = events_of(service, **body)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    last = events[-1]["response"]
    assert kinds[-1] == f"response.{last['status']}"
    made = assembled(events)
    assert plain(made, "status", "encrypted_content") == plain(
        whole["output"], "status", "encrypted_content"
    )
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == last["output"]
    assert plain(done) == plain(whole["output"])
    assert [item["id"] for item in made] == [item["id"] for item in done]
    differ = {"id", "created_at", "completed_at", "output"}
    assert {k: v for k, v in last.items() if k not in differ} == {
        k: v for k, v in whole.items() if k not in differ
    }
    if "max_output_tokens" in body:
        assert last["status"] == last["output"][-1]["status"] == "incomplete"
        assert last["incomplete_details"] == {"reason": "max_output_tokens"}


def test_the_client_s_own_helper_reads_the_stream(client: Any, service: Service) -> None:
    service.engine.script = lambda request: b"<think>Hm.</think>" + TWO_CALLS
    with client.responses.stream(model="m", input="Hi", tools=TOOLS) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert "response.function_call_arguments.done" in kinds
    assert "response.reasoning_text.done" in kinds
    calls = [item for item in final.output if item.type == "function_call"]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == CALLS
    assert len({call.call_id for call in calls}) == 2


@pytest.mark.parametrize(
    ("choice", "offered"),
    [
        ("required", "[lookup ping ]"),
        ({"type": "function", "name": "lookup"}, "[lookup ping ]"),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "lookup"}],
            },
            "[lookup ]",
        ),
    ],
    ids=["required", "named", "allowed"],
)
def test_calls_are_forced_by_a_grammar(
    choice: Any, offered: str, client: Any, service: Service
) -> None:
    service.engine.script = lambda request: b"<think></think>" + ONE_CALL
    response = ask(client, tools=TOOLS, tool_choice=choice)
    (call,) = [item for item in response.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("lookup", {"place": "Rome"})
    (request,) = service.engine.requests
    assert request.grammar is not None
    assert prompt_of(service).startswith(offered)


def test_tools_read_the_same_each_time() -> None:
    """The template sees their fields in one order, whatever the process: prefixes are cached."""
    body = ResponsesBody.parse({"input": "Hi", "tools": TOOLS})
    (tool, _) = body.chat([{"role": "user", "content": "Hi"}], "x").tools or []
    assert list(tool["function"]) == ["name", "description", "parameters", "strict"]


def test_a_form_for_the_text(client: Any, service: Service) -> None:
    service.engine.script = lambda request: b'<think></think>{"a": 1}'
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    response = ask(client, text={"format": form})
    assert json.loads(response.output_text) == {"a": 1}
    assert response.text.format.type == "json_schema"
    ask(client, text={"format": {"type": "json_object"}})
    ask(client, text={"format": {"type": "text"}})
    kinds = [request.grammar is not None for request in service.engine.requests]
    assert kinds == [True, True, False]


def test_a_conversation_in_items(client: Any, service: Service) -> None:
    items = [
        {"role": "user", "content": "Look"},
        {"type": "reasoning", "id": "rs_1", "summary": [],
         "content": [{"type": "reasoning_text", "text": "So"}]},
        {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "I do.", "annotations": []}]},
        {"type": "function_call", "call_id": "c1", "name": "lookup", "arguments": '{"place": "O"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "cold"},
        {"role": "user", "content": [
            {"type": "input_text", "text": "And"}]},
    ]  # fmt: skip
    ask(client, input=items, instructions="Be brief.", tools=TOOLS)
    prompt = prompt_of(service)
    assert "<system>Be brief.<user>Look<assistant>I do.<tool_call>" in prompt
    assert prompt.endswith("<tool>cold(c1)<user>And<assistant>")


def test_one_response_goes_on_from_another(client: Any, service: Service) -> None:
    first = ask(client, instructions="Be brief.")
    second = ask(client, input="More", previous_response_id=first.id)
    assert prompt_of(service) == "<user>Hi<assistant>Hello<user>More<assistant>"
    third = ask(client, input="!", previous_response_id=second.id, store=False)
    assert prompt_of(service) == (
        "<user>Hi<assistant>Hello<user>More<assistant>Hello<user>!<assistant>"
    )
    assert (second.previous_response_id, third.store) == (first.id, False)
    kept = client.responses.retrieve(second.id)
    assert kept.model_dump() == second.model_dump()
    items = client.responses.input_items.list(second.id, order="asc").data
    assert [item.type for item in items] == ["message", "reasoning", "message", "message"]
    client.responses.delete(first.id)
    for gone in (first.id, third.id):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(gone)
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, previous_response_id=gone)
        assert caught.value.code == "previous_response_not_found"


def test_items_may_be_named_instead_of_sent(client: Any, service: Service) -> None:
    first = ask(client)
    named = [
        {"type": "item_reference", "id": first.output[1].id},
        {"role": "user", "content": "B"},
    ]
    ask(client, input=named)
    assert prompt_of(service) == "<assistant>Hello<user>B<assistant>"


def test_thoughts_come_back_sealed(client: Any, service: Service) -> None:
    first = ask(client, include=["reasoning.encrypted_content"], store=False)
    seal = first.output[0].encrypted_content
    chat = service.state.frontend
    assert chat is not None
    items = [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": seal}]
    reply = service.post(ROUTE, input=[*items, {"role": "user", "content": "x"}])
    kept = service.http.get(f"{ROUTE}/{reply.json()['id']}/input_items").json()["data"]
    assert kept[-1]["content"] == [{"type": "reasoning_text", "text": "Hm."}]


def test_log_probabilities_are_those_of_the_text(service: Service) -> None:
    body = service.post(ROUTE, input="Hi", **LOGPROBS).json()
    (part,) = body["output"][1]["content"]
    assert [row["token"] for row in part["logprobs"]] == list("Hello")
    assert all(len(row["top_logprobs"]) == 2 for row in part["logprobs"])
    assert part["logprobs"][0]["logprob"] == -TOKENIZER.encode("H")[-1] / 100
    service.engine.script = lambda request: "<think>é</think>é\u00fcx".encode()
    part = service.post(ROUTE, input="Hi", **LOGPROBS).json()["output"][1]["content"][0]
    assert sum(len(row["bytes"]) for row in part["logprobs"]) == 5


def test_input_items_come_in_pages(client: Any, service: Service) -> None:
    items = [{"role": "user", "content": str(number)} for number in range(5)]
    id = ask(client, input=items).id

    def texts(**query: Any) -> list[str]:
        found = client.responses.input_items.list(id, **query)
        return [item.content[0].text for item in found]

    assert texts() == list("43210")
    assert texts(order="asc", limit=2) == list("01234"), "the client asks for the next pages"
    page = service.http.get(f"{ROUTE}/{id}/input_items?order=asc&limit=2").json()
    assert (page["has_more"], page["last_id"]) == (True, page["data"][1]["id"])
    for query in ("limit=0", "limit=x", "limit=101", "order=up", "after=x", "include[]=x"):
        reply = service.http.get(f"{ROUTE}/{id}/input_items?{query}")
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == query.partition("=")[0]


def test_an_error_after_the_beginning_is_an_event(service: Service) -> None:
    service.engine.script = lambda request: b"<think>Hm.</think>" + b"x" * 500
    service.engine.delay_s = 0.01
    headers = {"x-request-timeout-s": "0.5"}
    body = {"input": "Hi", "stream": True}
    events = parsed(service.http.post(ROUTE, json=body, headers=headers).text)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["output"][-1]["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_response(stream: bool, service: Service) -> None:
    service.engine.script = lambda request: b"x" * 200
    service.engine.delay_s = 0.05 if stream else 5
    before = len(service.state.responses)
    body = {"input": "Hi", "stream": stream}
    asking = httpx.stream("POST", service.url + ROUTE, json=body, timeout=0.5)
    with suppress(httpx.ReadTimeout), asking as reply:
        assert stream, "the reply came too soon"
        assert next(reply.iter_text())
    until(lambda: bool(service.engine.aborted) and not service.engine.live)
    assert len(service.state.responses) == before


def test_a_conversation_too_long_for_the_model(service: Service) -> None:
    reply = service.post(ROUTE, input="x" * 600)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")


MESSAGE = {"role": "user", "content": "Hi"}
CALL = {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"input": []}, "input"),
        ({"input": 1}, "input"),
        ({"input": [1]}, "input"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"type": {"a": 1}}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_x"}]}, "input[0].id"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": None}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": "x", "phase": "y"}]}, "input[0].phase"),
        ({"input": [{**MESSAGE, "status": "odd"}]}, "input[0].status"),
        ({"input": [{**MESSAGE, "id": "i" * 257}]}, "input[0].id"),
        ({"input": [{**MESSAGE, "content": [{"type": "input_image", "image_url": "x"}]}]},
         "input[0].content[0].type"),
        ({"input": [{**MESSAGE, "content": [{"type": "input_file", "file_id": "x"}]}]},
         "input[0].content[0].type"),
        ({"input": [{**MESSAGE, "content": [{"type": "input_text", "text": 1}]}]},
         "input[0].content[0].text"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
         "input[0].call_id"),
        ({"input": [{**CALL, "name": ""}]}, "input[0].name"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{"type": "reasoning", "encrypted_content": "é"}]},
         "input[0].encrypted_content"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type"),
        ({"tools": [{"type": "image_generation"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{**TOOLS[0], "defer_loading": True}]}, "tools[0].defer_loading"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "no"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto"}},
         "tool_choice.tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"include": ["everything"]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({**LOGPROBS, "top_logprobs": 1000}, "top_logprobs"),
        ({"stream": False, "stream_options": {"x": 1}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}},
         "stream_options.include_obfuscation"),
        ({"max_output_tokens": -1}, "max_output_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"background": True, "store": False}, "background"),
        ({"previous_response_id": "resp_x"}, "previous_response_id"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"priority": 3}, "priority"),
        ({"cache_salt": "a", "extra_key": "b"}, "extra_key"),
        ({"session_params": {"id": "x"}}, "session_params"),
        ({"unknown_field": 1}, "unknown_field"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, Any], named: str, service: Service) -> None:
    for also in ({}, {"stream": True}, {"background": True}):
        reply = service.post(ROUTE, **{"input": "Hi", **also, **change})
        assert reply.status_code == 400, reply.text
        error = reply.json()["error"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == named, error
        assert named in error["message"], error
    assert not service.engine.requests


def test_what_extends_the_api_reaches_the_engine(service: Service) -> None:
    body = {"top_k": 7, "min_p": 0.1, "seed": 3, "stop": ["Z"], "cache_salt": "s"}
    reply = service.post(ROUTE, input="Hi", **body)
    assert reply.status_code == 200, reply.text
    (request,) = service.engine.requests
    params = request.params
    assert (params.top_k, params.min_p, params.seed, params.stop) == (7, 0.1, 3, ("Z",))
    assert request.salt
