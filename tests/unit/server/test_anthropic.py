"""Anthropic's API by its official client: blocks, tools, thoughts, events, errors."""

from typing import Any

import anthropic
import httpx
import pytest
from tests.unit.server.conftest import TOKENIZER, Service
from tests.unit.server.test_tools import CALLS, ONE_CALL, TEMPLATE, TWO_CALLS

from tupelo_server.protocol.anthropic import MessagesBody

TOOLS: list[Any] = [
    {
        "name": "lookup",
        "description": "Look a place up.",
        "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
    {"name": "ping", "input_schema": {"type": "object"}},
]
HI: list[Any] = [{"role": "user", "content": "Hi"}]
THINKER = TEMPLATE + "{# <think> </think> enable_thinking #}"


@pytest.fixture(scope="module")
def shared() -> Any:
    from tests.unit.server.conftest import _running

    with _running({}, {"template": THINKER, "reasoning_parser": "deepseek-r1"}) as service:
        yield service


@pytest.fixture
def service(shared: Service) -> Service:
    shared.engine.reset()
    shared.engine.script = lambda request: b"<think>Hm.</think>Hello"
    return shared


@pytest.fixture
def client(service: Service) -> Any:
    with anthropic.Anthropic(base_url=service.url, api_key="none", max_retries=0) as found:
        yield found


def ask(client: Any, **body: Any) -> Any:
    return client.messages.create(**{"model": "m", "max_tokens": 200, "messages": HI, **body})


def test_a_reply_in_blocks(client: Any) -> None:
    message = ask(client)
    assert (message.type, message.role, message.model) == ("message", "assistant", "m")
    assert message.id.startswith("msg_")
    thought, text = message.content
    assert (thought.type, thought.thinking) == ("thinking", "Hm.")
    assert (text.type, text.text) == ("text", "Hello")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert message.usage.output_tokens == len(b"<think>Hm.</think>Hello") + 1
    count = client.messages.count_tokens(model="m", messages=HI)
    assert message.usage.input_tokens == count.input_tokens > len("Hi")


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["text", "calls"])
def test_the_streamed_message_is_the_unstreamed_one(
    tools: list[Any], client: Any, service: Service
) -> None:
    if tools:
        service.engine.script = lambda request: TWO_CALLS
    given = {"tools": tools} if tools else {}
    whole = ask(client, **given)
    with client.messages.stream(model="m", max_tokens=200, messages=HI, **given) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_message()
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_stop"
    found = [
        [block.model_dump(exclude={"id", "parsed_output"}) for block in m.content]
        for m in (whole, streamed)
    ]
    assert found[0] == found[1]
    assert whole.stop_reason == streamed.stop_reason
    assert whole.usage.output_tokens == streamed.usage.output_tokens


def test_tools_are_called(client: Any, service: Service) -> None:
    service.engine.script = lambda request: TWO_CALLS
    message = ask(client, tools=TOOLS)
    assert message.stop_reason == "tool_use"
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == CALLS
    assert len({call.id for call in calls}) == 2


@pytest.mark.parametrize(
    "choice", [{"type": "any"}, {"type": "tool", "name": "lookup"}], ids=["any", "named"]
)
def test_calls_are_forced_by_a_grammar(
    choice: dict[str, str], client: Any, service: Service
) -> None:
    service.engine.script = lambda request: ONE_CALL
    message = ask(client, tools=TOOLS, tool_choice=choice)
    (call,) = message.content
    assert (call.name, call.input) == ("lookup", {"place": "Rome"})
    (request,) = service.engine.requests
    assert request.grammar is not None


def test_a_conversation_with_results_goes_on(client: Any, service: Service) -> None:
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Look"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "So", "signature": "s"},
            {"type": "text", "text": "I do."},
            {"type": "tool_use", "id": "t1", "name": "lookup", "input": {"place": "Oslo"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [
                {"type": "text", "text": "cold"},
            ]},
            {"type": "text", "text": "And now?"},
        ]},
    ]  # fmt: skip
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    ask(client, messages=turns, system=system, tools=TOOLS)
    (request,) = service.engine.requests
    prompt = TOKENIZER.decode(request.input_ids)
    assert "<system>Be brief." in prompt
    assert '<assistant>I do.<tool_call>{"name": "lookup"' in prompt
    assert "<tool>cold(t1)<user>And now?<assistant>" in prompt


def test_what_ends_a_message(client: Any, service: Service) -> None:
    service.engine.script = lambda request: b"one two three"
    stopped = ask(client, stop_sequences=["two"], thinking={"type": "disabled"})
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "two")
    short = ask(client, max_tokens=3)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)


def test_a_budget_bounds_the_thoughts_that_it_switches_on() -> None:
    body = {"model": "m", "max_tokens": 5, "messages": HI}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    chat = MessagesBody.parse({**body, "thinking": thinking}).chat()
    assert chat.max_thinking_tokens == 1024
    assert chat.chat_template_kwargs == {"enable_thinking": True, "thinking": True}
    assert chat.reasoning_effort is None
    assert MessagesBody.parse(body).chat().max_thinking_tokens is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "image"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "content[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "no"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "maybe"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "budget_tokens"),
        ({"output_config": {"effort": "huge"}}, "effort"),
        ({"mcp_servers": [{"url": "http://127.0.0.1"}]}, "mcp_servers"),
        ({"unknown_field": 1}, "unknown_field"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], named: str, service: Service) -> None:
    body = {"model": "m", "max_tokens": 5, "messages": HI, **change}
    reply = service.post("/v1/messages", **body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["type"] == "error"
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert named in reply.json()["error"]["message"]
    assert not service.engine.requests


def test_an_unknown_route_below_has_anthropics_shape(service: Service) -> None:
    reply = service.post("/v1/messages/batches")
    assert reply.status_code == 404
    assert reply.json()["error"]["type"] == "not_found_error"


def test_the_key_may_come_as_anthropics_clients_send_it() -> None:
    from tests.unit.server.conftest import _running

    with _running({}, {"template": TEMPLATE, "api_key": "sesame"}) as service:
        body = {"model": "m", "max_tokens": 2, "messages": HI}
        for key, status in (("sesame", 200), ("wrong", 401)):
            headers = {"x-api-key": key}
            reply = httpx.post(f"{service.url}/v1/messages", json=body, headers=headers)
            assert reply.status_code == status
        assert reply.json()["error"]["type"] == "authentication_error"
