"""Tools over HTTP: offered, called, forced, streamed; conversations that hold calls."""

import json
import re
from typing import Any

import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.request import Request

TEMPLATE = (
    "{% if tools %}[{% for t in tools %}{{ t.function.name }} {% endfor %}]{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "{% if m.tool_call_id %}({{ m.tool_call_id }}){% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "parameters": {
                "type": "object",
                "properties": {"place": {"$ref": "#/$defs/P"}, "days": {"type": "integer"}},
                "required": ["place"],
                "$defs": {"P": {"type": "string"}},
            },
        },
    },
    {"type": "function", "function": {"name": "ping"}},
]
HI = [{"role": "user", "content": "Hi"}]
TWO_CALLS = (
    b'Wait.\n<tool_call>\n{"name": "lookup", "arguments": {"place": "\xc5\x8csaka", "days": 3}}\n'
    b'</tool_call>\n<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
)
ONE_CALL = b'<tool_call>\n{"name": "lookup", "arguments": {"place": "Rome"}}\n</tool_call>'
LISTED_CALL = b'[{"name": "lookup", "parameters": {"place": "Rome"}}]'
CALLS = [("lookup", {"place": "Ōsaka", "days": 3}), ("ping", {})]


@pytest.fixture(scope="module")
def tooled() -> Any:
    """A server whose template takes tools, shared by the module."""
    from tests.unit.server.conftest import _running

    with _running({}, {"template": TEMPLATE}) as service:
        yield service


@pytest.fixture
def service(tooled: Service) -> Service:
    tooled.engine.reset()
    tooled.engine.script = lambda request: TWO_CALLS
    return tooled


def ask(service: Service, **body: Any) -> dict[str, Any]:
    reply = service.post("/v1/chat/completions", **{"messages": HI, "tools": TOOLS, **body})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def assembled(service: Service, **body: Any) -> dict[int, dict[str, Any]]:
    """The messages of a streamed reply, put together as clients do, by the index of the choice."""
    options = {"messages": HI, "tools": TOOLS, "model": "tiny", "stream": True, **body}
    known = {k: options.pop(k) for k in ("messages", "tools", "model", "stream")}
    found: dict[int, dict[str, Any]] = {}
    for chunk in service.openai.chat.completions.create(**known, extra_body=options):
        for choice in chunk.choices:
            message = found.setdefault(choice.index, {"content": None, "calls": [], "finish": []})
            delta = choice.delta
            if delta.content is not None:
                message["content"] = (message["content"] or "") + delta.content
            for call in delta.tool_calls or []:
                if call.id is not None:
                    assert call.index == len(message["calls"])
                    message["calls"].append([call.id, call.function.name, ""])
                else:
                    assert call.function.name is None
                message["calls"][call.index][2] += call.function.arguments or ""
            message["finish"] += [choice.finish_reason] if choice.finish_reason else []
    return found


def calls_of(message: dict[str, Any]) -> list[tuple[str, Any]]:
    functions = [call["function"] for call in message.get("tool_calls", [])]
    return [(f["name"], json.loads(f["arguments"])) for f in functions]


@pytest.mark.parametrize("extra", [{}, {"n": 2}, {"stream_interval": 5}, {"logprobs": True}])
def test_a_stream_assembles_to_the_unstreamed_calls(start: Start, extra: dict[str, Any]) -> None:
    service = start(template=TEMPLATE, stream_interval=extra.pop("stream_interval", 1))
    service.engine.script = lambda request: TWO_CALLS
    reply = ask(service, **extra)
    streamed = assembled(service, **extra)
    assert sorted(streamed) == [choice["index"] for choice in reply["choices"]]
    for choice in reply["choices"]:
        message, other = choice["message"], streamed[choice["index"]]
        assert message["content"] == other["content"] == "Wait."
        assert calls_of(message) == CALLS
        assert [(name, json.loads(arguments)) for _, name, arguments in other["calls"]] == CALLS
        assert [choice["finish_reason"]] == other["finish"] == ["tool_calls"]
        ids = [call["id"] for call in message["tool_calls"]] + [c[0] for c in other["calls"]]
        assert len(set(ids)) == 4
        assert all(call_id.startswith("call_") for call_id in ids)


def test_tools_are_offered_to_the_model(service: Service) -> None:
    ask(service)
    (request,) = service.engine.requests
    prompt = service.state.frontend.prompts.tokenizer.decode(request.input_ids)
    assert prompt == "[lookup ping ]<user>Hi<assistant>"
    assert request.grammar is None


def test_without_calls_a_reply_is_text(service: Service) -> None:
    service.engine.script = lambda request: b"Just <b>text</b>.\n"
    choice = ask(service)["choices"][0]
    assert choice["message"]["content"] == "Just <b>text</b>.\n"
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"
    assert assembled(service)[0] == {
        "content": "Just <b>text</b>.\n",
        "calls": [],
        "finish": ["stop"],
    }


def test_no_tools_means_no_calls(service: Service) -> None:
    """What looks like a call is text where none may be."""
    for body in ({"tool_choice": "none"}, {"tools": None}):
        message = ask(service, **body)["choices"][0]["message"]
        assert message["content"] == TWO_CALLS.decode()
        prompt = service.engine.requests[-1].input_ids
        assert service.state.frontend.prompts.tokenizer.decode(prompt).startswith("<user>")


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_at_a_time(service: Service, stream: bool) -> None:
    """The reply ends behind the first call, and so does the engine's work."""
    if stream:
        message = assembled(service, parallel_tool_calls=False)[0]
        names = [call[1] for call in message["calls"]]
        assert message["finish"] == ["tool_calls"]
    else:
        reply = ask(service, parallel_tool_calls=False)
        names = [call[0] for call in calls_of(reply["choices"][0]["message"])]
        end = TWO_CALLS.index(b"}}") + len("}}")
        assert reply["usage"]["completion_tokens"] == end
    assert names == ["lookup"]
    (request,) = service.engine.requests
    assert service.engine.aborted == [request.rid]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", ["lookup", "ping"]),
        ({"type": "function", "function": {"name": "lookup"}}, ["lookup"]),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_forced_calls(service: Service, choice: Any, names: list[str], stream: bool) -> None:
    """They come in the model's own format, held to it and to the schemas by a grammar."""
    service.engine.script = lambda request: ONE_CALL
    if stream:
        message = assembled(service, tool_choice=choice)[0]
        (call,) = [(name, json.loads(arguments)) for _, name, arguments in message["calls"]]
        assert message["content"] is None
    else:
        found = ask(service, tool_choice=choice)["choices"][0]
        (call,) = calls_of(found["message"])
        assert found["message"]["content"] is None
        assert found["finish_reason"] == "tool_calls"
    assert call == ("lookup", {"place": "Rome"})
    (request,) = service.engine.requests
    grammar = request.grammar
    assert grammar is not None
    assert (grammar.kind, grammar.strict, grammar.after) == ("structural_tag", False, ())
    offered = [name for name in ("lookup", "ping") if f'\\"name\\": \\"{name}' in grammar.text]
    assert offered == names
    assert ('"max": 15' in grammar.text) == (choice == "required")


def test_strict_tools_are_held_to_their_schemas(service: Service) -> None:
    """Also where the model may choose; the others are only JSON then."""
    strict = {"type": "function", "function": {**TOOLS[0]["function"], "strict": True}}
    reply = ask(service, tools=[strict, TOOLS[1]])
    assert calls_of(reply["choices"][0]["message"]) == CALLS
    (request,) = service.engine.requests
    grammar = request.grammar
    assert grammar is not None
    assert grammar.strict
    form = json.loads(grammar.text)["format"]
    assert (form["type"], form["triggers"]) == ("triggered_tags", ["<tool_call>"])
    assert not form["stop_after_first"]


ANSWER = {"type": "object", "properties": {"n": {}}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("output", [b'{"n": [{"name": 1}]}', ONE_CALL])
def test_calls_beside_a_schema_for_the_text(service: Service, output: bytes, stream: bool) -> None:
    """Under auto the model answers as the schema says, or calls."""
    service.engine.script = lambda request: output
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER}}
    if stream:
        message = assembled(service, response_format=schema)[0]
        text, names = message["content"], [call[1] for call in message["calls"]]
    else:
        found = ask(service, response_format=schema)["choices"][0]["message"]
        text, names = found["content"], [name for name, _ in calls_of(found)]
    called = output == ONE_CALL
    assert names == (["lookup"] if called else [])
    assert text == (None if called else output.decode())
    (request,) = service.engine.requests
    assert request.grammar is not None
    text_form, calls_form = json.loads(request.grammar.text)["format"]["elements"]
    assert text_form == {"type": "json_schema", "json_schema": ANSWER}
    assert calls_form["type"] == "sequence"


def test_a_grammar_of_another_kind_stands_over_calls_too(service: Service) -> None:
    message = ask(service, regex=".*")["choices"][0]["message"]
    assert calls_of(message) == CALLS
    (request,) = service.engine.requests
    assert request.grammar is not None
    assert (request.grammar.kind, request.grammar.text) == ("regex", ".*")


def test_a_forced_call_needs_no_text(service: Service) -> None:
    service.engine.script = lambda request: ONE_CALL
    ask(service, tool_choice="required")
    ask(service, tool_choice="required", response_format={"type": "json_object"})
    first, second = (request.grammar for request in service.engine.requests)
    assert first is not None
    assert second is not None
    assert first.text == second.text


def _function(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": fields}]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools[0].function"),
        ({"tools": _function()}, "tools[0].function.name"),
        ({"tools": _function(name="")}, "tools[0].function.name"),
        ({"tools": _function(name="a b")}, "tools[0].function.name"),
        ({"tools": _function(name="a" * 257)}, "tools[0].function.name"),
        ({"tools": _function(name="f", parameters=[])}, "tools[0].function.parameters"),
        ({"tools": _function(name="f", description=1)}, "tools[0].function.description"),
        ({"tools": _function(name="f", strict="yes")}, "tools[0].function.strict"),
        ({"tools": _function(name="f") * 2}, "tools"),
        ({"tools": _function(name="f") * 1025}, "tools"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ],
    ids=lambda v: str(v)[:60],
)
def test_wrong_tools_are_refused_by_name(
    service: Service, body: dict[str, Any], param: str
) -> None:
    reply = service.post("/v1/chat/completions", **{"messages": HI, "tools": TOOLS, **body})
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith(param)
    assert service.engine.requests == []


@pytest.mark.parametrize("depth", [100, 300, 480, 5000])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_schemas_that_nest_deeply_do_no_harm(service: Service, depth: int, choice: str) -> None:
    schema = '{"properties": {"a": ' * depth + "{}" + "}}" * depth
    function = f'{{"type": "function", "function": {{"name": "f", "parameters": {schema}}}}}'
    body = f'{{"messages": {json.dumps(HI)}, "tools": [{function}], "tool_choice": "{choice}"}}'
    reply = service.http.post("/v1/chat/completions", content=body)
    assert reply.status_code in (200, 400), reply.text
    assert service.post("/v1/chat/completions", messages=HI).status_code == 200


CALL = {"id": "call_1", "type": "function", "function": {"name": "ping", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"a": "é"}', '{"a": "é"}'),
        ({"a": 1}, '{"a": 1}'),
        ("", "{}"),
        ('{"cut', '"{\\"cut"'),
    ],
)
def test_calls_and_results_reach_the_template(service: Service, arguments: Any, shown: str) -> None:
    call = {**CALL, "index": 0, "function": {"name": "ping", "arguments": arguments}}
    messages = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "ok"}]},
    ]
    ask(service, messages=messages)
    prompt = service.state.frontend.prompts.tokenizer.decode(service.engine.requests[-1].input_ids)
    written = f'<tool_call>{{"name": "ping", "arguments": {shown}}}</tool_call>'
    assert prompt.endswith(f"<user>Hi<assistant>{written}<tool>ok(call_1)<assistant>")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": 5, "content": "x"}, "tool_call_id"),
        ({"role": "tool", "tool_call_id": "c"}, "content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "tool_calls"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "tool_call_id"),
        ({"role": "assistant"}, "content"),
        ({"role": "assistant", "tool_calls": []}, "content"),
        ({"role": "assistant", "tool_calls": {}}, "content"),
        ({"role": "assistant", "tool_calls": "x"}, "tool_calls"),
        ({"role": "assistant", "tool_calls": [1]}, "tool_calls[0]"),
        ({"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}, "tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [{**CALL, "id": 1}]}, "tool_calls[0].id"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "tool_calls[0].function"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
            "tool_calls[0].function.name",
        ),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 1}}]},
            "tool_calls[0].function.arguments",
        ),
        ({"role": "function", "name": "f", "content": "x"}, "role"),
    ],
    ids=lambda v: str(v)[:60],
)
def test_wrong_messages_are_refused_by_name(
    service: Service, message: dict[str, Any], param: str
) -> None:
    reply = service.post("/v1/chat/completions", messages=[*HI, message])
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == f"messages[1].{param}"


def test_a_template_without_tools_refuses_them(start: Start) -> None:
    service = start()
    for choice in ("auto", "required"):
        reply = service.post("/v1/chat/completions", messages=HI, tools=TOOLS, tool_choice=choice)
        assert reply.status_code == 400
        assert reply.json()["error"]["param"] == "tools"
        assert "--chat-template" in reply.json()["error"]["message"]


@pytest.mark.parametrize("parser", ["none", "pythonic"])
def test_forced_calls_where_the_format_has_no_room_for_json(start: Start, parser: str) -> None:
    """They come as a list, whether the format is unknown or another."""
    service = start(template=TEMPLATE, tool_call_parser=parser)
    service.engine.script = lambda request: LISTED_CALL
    for extra in ({}, {"response_format": {"type": "json_object"}, "tool_choice": "auto"}):
        reply = ask(service, **{"tool_choice": "required", **extra})
        (choice,) = reply["choices"]
        assert calls_of(choice["message"]) == [("lookup", {"place": "Rome"})]
        assert choice["finish_reason"] == "tool_calls"


def test_what_cannot_be_told_or_held_is_refused(start: Start) -> None:
    unknown = start(template=TEMPLATE, tool_call_parser="none")
    reply = unknown.post("/v1/chat/completions", messages=HI, tools=TOOLS)
    assert reply.status_code == 400
    assert "--tool-call-parser" in reply.json()["error"]["message"]
    strict = _function(name="ping", strict=True)
    reply = start(template=TEMPLATE, tool_call_parser="pythonic").post(
        "/v1/chat/completions", messages=HI, tools=strict
    )
    assert reply.status_code == 400
    assert "strict" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("parser", "output", "style"),
    [
        ("mistral", b"[TOOL_CALLS]ping[ARGS]{}", r"[A-Za-z0-9]{9}"),
        ("mistral", b"[TOOL_CALLS]ping[CALL_ID]abcdefghi[ARGS]{}", "abcdefghi"),
        (
            "kimi_k2",
            b"<|tool_call_begin|>functions.ping:4<|tool_call_argument_begin|>{}<|tool_call_end|>",
            "functions.ping:4",
        ),
    ],
)
def test_ids_are_such_as_the_template_takes_back(
    start: Start, parser: str, output: bytes, style: str
) -> None:
    service = start(template=TEMPLATE, tool_call_parser=parser)
    service.engine.script = lambda request: output
    (call,) = ask(service)["choices"][0]["message"]["tool_calls"]
    (streamed,) = assembled(service)[0]["calls"]
    assert re.fullmatch(style, call["id"])
    assert re.fullmatch(style, streamed[0])


def test_an_id_that_comes_again_is_replaced(start: Start) -> None:
    call = b"<|tool_call_begin|>functions.ping:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    service = start(template=TEMPLATE, tool_call_parser="kimi_k2")
    service.engine.script = lambda request: b"<|tool_calls_section_begin|>" + 3 * call
    whole = [call["id"] for call in ask(service)["choices"][0]["message"]["tool_calls"]]
    for ids in (whole, [call[0] for call in assembled(service)[0]["calls"]]):
        assert ids[0] == "functions.ping:0"
        assert len(set(ids)) == 3


def test_a_cut_call_ends_with_length(service: Service) -> None:
    def script(request: Request) -> bytes:
        return TWO_CALLS

    service.engine.script = script
    choice = ask(service, max_tokens=70)["choices"][0]
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "lookup"
    assert call["function"]["arguments"].startswith('{"place": "')


def test_tokenize_counts_the_tools(service: Service) -> None:
    plain = service.post("/tokenize", messages=HI).json()["count"]
    assert service.post("/tokenize", messages=HI, tools=TOOLS).json()["count"] > plain


def test_parse_function_call(service: Service) -> None:
    reply = service.post(
        "/parse_function_call",
        text=TWO_CALLS.decode(),
        tools=TOOLS,
        tool_call_parser="qwen25",
    ).json()
    assert reply["normal_text"] == "Wait."
    calls = [(call["tool_index"], call["name"]) for call in reply["calls"]]
    assert calls == [(0, "lookup"), (1, "ping")]
    assert json.loads(reply["calls"][0]["parameters"]) == CALLS[0][1]
    own = service.post("/parse_function_call", text=TWO_CALLS.decode(), tools=TOOLS).json()
    assert own == reply


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"text": "x", "tool_call_parser": "nobody"}, "tool_call_parser"),
        ({"tool_call_parser": "hermes"}, "text"),
        ({"text": 5}, "text"),
        ({"text": "x", "tools": [{}]}, "tools[0]"),
    ],
)
def test_wrong_bodies_of_the_parsers_route(
    service: Service, body: dict[str, Any], word: str
) -> None:
    reply = service.post("/parse_function_call", **body)
    assert reply.status_code == 400
    assert word in reply.text
