"""Ollama's API by its official client: lines, options, tools, thoughts, vectors, refusals."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest
from tests.unit.server.conftest import TOKENIZER, Service, Start
from tests.unit.server.fake_pooler import FakePooler, numbers
from tests.unit.server.test_tools import CALLS, ONE_CALL, TEMPLATE, TOOLS, TWO_CALLS

from tupelo_server.protocol.ollama_messages import chat_messages

HI: list[Any] = [{"role": "user", "content": "Hi"}]
THINKER = TEMPLATE + "{# <think> </think> enable_thinking #}"
SAID = b"<think>Hm.</think>Hello"
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture(scope="module")
def shared() -> Any:
    from tests.unit.server.conftest import _running

    with _running({}, {"template": THINKER, "reasoning_parser": "deepseek-r1"}) as service:
        yield service


@pytest.fixture
def service(shared: Service) -> Service:
    shared.engine.reset()
    shared.engine.script = lambda request: SAID
    return shared


@pytest.fixture
def client(service: Service) -> Iterator[Any]:
    with ollama.Client(host=service.url, timeout=30) as found:
        yield found


def prompt(service: Service) -> str:
    """What the engine got last."""
    return TOKENIZER.decode(service.engine.requests[-1].input_ids)


def test_a_turn(client: Any, service: Service) -> None:
    reply = client.chat(model="m", messages=HI)
    assert (reply.model, reply.done, reply.done_reason) == ("m", True, "stop")
    said = (reply.message.role, reply.message.content, reply.message.thinking)
    assert said == ("assistant", "Hello", "Hm.")
    assert reply.eval_count == len(SAID) + 1
    assert reply.prompt_eval_count == len(service.engine.requests[0].input_ids)
    spent = (reply.load_duration, reply.prompt_eval_duration, reply.eval_duration)
    assert min(*spent, reply.total_duration) > 0
    assert reply.prompt_eval_duration == 2_000_000, "what the engine said, in nanoseconds"
    assert reply.created_at.endswith("Z")


@pytest.mark.parametrize("tools", [[], TOOLS], ids=["text", "calls"])
def test_the_streamed_turn_is_the_unstreamed_one(
    tools: list[Any], client: Any, service: Service
) -> None:
    if tools:
        service.engine.script = lambda request: b"<think>Hm.</think>" + TWO_CALLS
    whole = client.chat(model="m", messages=HI, tools=tools)
    lines = list(client.chat(model="m", messages=HI, tools=tools, stream=True))
    *parts, last = lines
    assert not any(part.done for part in parts)
    assert "".join(line.message.content for line in lines) == whole.message.content
    assert "".join(line.message.thinking or "" for line in lines) == whole.message.thinking
    found = [call.function for line in lines for call in line.message.tool_calls or []]
    assert found == [call.function for call in whole.message.tool_calls or []]
    assert [(f.name, f.arguments) for f in found] == (CALLS if tools else [])
    assert (last.done, last.done_reason) == (whole.done, whole.done_reason)
    counts = [(r.prompt_eval_count, r.eval_count) for r in (last, whole)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("raw", [False, True])
def test_a_prompt_streamed_and_not(raw: bool, client: Any, service: Service) -> None:
    whole = client.generate(model="m", prompt="Hi", raw=raw)
    assert prompt(service) == ("Hi" if raw else "<user>Hi<assistant>")
    lines = list(client.generate(model="m", prompt="Hi", raw=raw, stream=True))
    assert "".join(line.response for line in lines) == whole.response
    assert whole.response == (SAID.decode() if raw else "Hello")
    assert lines[-1].context == whole.context
    assert (whole.context is None) == raw


def test_lines_are_the_default(service: Service) -> None:
    reply = service.post("/api/chat", model="m", messages=HI)
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert len(reply.text.splitlines()) > 2
    assert reply.text.endswith("\n")
    whole = service.post("/api/chat", model="m", messages=HI, stream=False)
    assert whole.headers["content-type"] == "application/json"


def test_a_context_goes_on(client: Any, service: Service) -> None:
    first = client.generate(model="m", prompt="Hi", system="Be brief.")
    assert prompt(service) == "<system>Be brief.<user>Hi<assistant>"
    client.generate(model="m", prompt="More", context=first.context)
    end = TOKENIZER.eos_token_ids[0]
    before = "<system>Be brief.<user>Hi<assistant>" + SAID.decode()
    ids = service.engine.requests[-1].input_ids
    assert TOKENIZER.decode(ids) == before + "<user>More<assistant>"
    assert ids.count(end) == 1


def test_options_reach_the_sampler(client: Any, service: Service) -> None:
    options = {
        "num_predict": 3, "temperature": 0.5, "top_k": 7, "top_p": 0.4, "min_p": 0.1, "seed": 5,
        "repeat_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.2, "stop": ["!"],
    }  # fmt: skip
    reply = client.chat(model="m", messages=HI, options=options)
    assert (reply.done_reason, reply.eval_count) == ("length", 3)
    (request,) = service.engine.requests
    params = request.params
    assert (params.max_new_tokens, params.temperature, params.top_k) == (3, 0.5, 7)
    assert (params.top_p, params.min_p, params.seed) == (0.4, 0.1, 5)
    found = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
    assert found == (1.2, 0.3, 0.2)
    service.engine.script = lambda request: b"ab!cd"
    assert client.chat(model="m", messages=HI, options=options).message.content == "ab"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"temperature": 0.6, "top_k": 20}),
        ({"top_k": 0}, {"top_k": -1}),
        ({"num_predict": -1}, {"max_new_tokens": 512 - 19}),
        ({"num_predict": -2, "num_ctx": 100}, {"max_new_tokens": 100 - 19}),
        ({"num_predict": 500, "num_ctx": 100}, {"max_new_tokens": 100 - 19}),
        ({"repeat_penalty": 1.5, "repeat_last_n": 0}, {"repetition_penalty": 1.0}),
        ({"repeat_penalty": 1.5, "repeat_last_n": -1}, {"repetition_penalty": 1.5}),
    ],
)
def test_what_options_mean(
    options: dict[str, Any], expected: dict[str, Any], client: Any, service: Service
) -> None:
    client.chat(model="m", messages=HI, options={**options, "num_gpu": -1, "mirostat": 0})
    (request,) = service.engine.requests
    assert len(request.input_ids) == len("<user>Hi<assistant>") == 19
    assert {name: getattr(request.params, name) for name in expected} == expected


@pytest.mark.parametrize("form", ["json", PERSON], ids=["json", "schema"])
def test_a_form_is_a_grammar(form: Any, client: Any, service: Service) -> None:
    client.chat(model="m", messages=HI, format=form)
    client.generate(model="m", prompt="Hi", format=form)
    assert all(request.grammar is not None for request in service.engine.requests)


def test_calls_can_be_forced(service: Service) -> None:
    service.engine.script = lambda request: ONE_CALL
    body = {"model": "m", "messages": HI, "tools": TOOLS, "stream": False}
    reply = service.post("/api/chat", **body, tool_choice="required").json()
    (call,) = reply["message"]["tool_calls"]
    assert call["function"]["arguments"] == {"place": "Rome"}
    assert service.engine.requests[-1].grammar is not None


@pytest.mark.parametrize("route", ["/api/chat", "/v1/messages"])
def test_code_in_calls_is_data(route: str, service: Service) -> None:
    """Case T7: nothing that a model writes as a call is evaluated."""
    code = "__import__('os').abort()"
    call = f'<tool_call>{{"name": "lookup", "arguments": {{"place": "{code}"}}}}</tool_call>'
    broken = f'<tool_call>{{"name": "lookup", "arguments": {code}}}</tool_call>'
    tools: list[Any] = TOOLS
    if route == "/v1/messages":
        tools = [{"name": "lookup", "input_schema": {"type": "object"}}]
    body = {"model": "m", "messages": HI, "tools": tools, "stream": False}
    body |= {"max_tokens": 200} if route == "/v1/messages" else {}
    for said in (call, broken, code, f"[lookup(place={code})]"):
        service.engine.script = lambda request, said=said: said.encode()
        reply = service.post(route, **body)
        assert (reply.status_code, code in reply.text) == (200, True), reply.text


def test_a_conversation_with_results_goes_on(client: Any, service: Service) -> None:
    calls = [
        {"function": {"name": "lookup", "arguments": {"place": place}}} for place in ("Oslo", "Rom")
    ]
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Look"},
        {"role": "assistant", "content": "", "thinking": "So", "tool_calls": calls},
        {"role": "tool", "content": "cold", "tool_name": "lookup"},
        {"role": "tool", "content": "warm", "tool_name": "lookup"},
        {"role": "tool", "content": "none", "tool_name": "ping"},
    ]
    client.chat(model="m", messages=turns, tools=TOOLS)
    said = prompt(service)
    assert '<assistant><tool_call>{"name": "lookup", "arguments": {"place": "Oslo"}}' in said
    assert "<tool>cold(call00001)<tool>warm(call00002)<tool>none(call00003)<assistant>" in said


def test_results_find_their_calls_by_id_by_tool_and_by_order() -> None:
    def call(name: str, **more: str) -> dict[str, Any]:
        return {"function": {"name": name, "arguments": {}}, **more}

    calls = [call("a"), call("b", id="mine"), call("a"), call("c")]
    results: list[dict[str, Any]] = [
        {"tool_name": "a"},
        {"tool_call_id": "mine"},
        {},
        {"tool_name": "a"},
        {"tool_name": "c"},
    ]
    turns = [{"role": "assistant", "tool_calls": calls}]
    turns += [{"role": "tool", "content": "x", **result} for result in results]
    found = chat_messages(turns)
    assert [call["id"] for call in found[0]["tool_calls"]] == [
        "call00001", "mine", "call00002", "call00003",
    ]  # fmt: skip
    ids = [message["tool_call_id"] for message in found[1:]]
    assert ids == ["call00001", "mine", "call00002", "call00004", "call00003"]


def test_the_assistants_last_turn_goes_on(client: Any, service: Service) -> None:
    client.chat(model="m", messages=[*HI, {"role": "assistant", "content": "Well"}])
    assert prompt(service).endswith("<assistant>Well")


@pytest.mark.parametrize("think", [True, False, "low"])
def test_thinking_is_switched(think: Any, start: Start) -> None:
    template = THINKER + "{{ enable_thinking }}/{{ reasoning_effort }}"
    service = start(template=template, reasoning_parser="deepseek-r1")
    reply = service.post("/api/chat", model="m", messages=HI, think=think, stream=False)
    assert reply.status_code == 200, reply.text
    ending = {True: "True/", False: "False/", "low": "/low"}[think]
    assert prompt(service).removesuffix("none").endswith(ending)


def test_log_probabilities(client: Any, service: Service) -> None:
    whole = client.chat(model="m", messages=HI, think=None, logprobs=True, top_logprobs=2)
    lines = client.chat(model="m", messages=HI, logprobs=True, top_logprobs=2, stream=True)
    streamed = [row for line in lines for row in line.logprobs or []]
    assert streamed == list(whole.logprobs)
    assert len(streamed[0].top_logprobs) == 2


def test_a_model_is_there_without_a_prompt(client: Any, service: Service) -> None:
    assert client.generate(model="m", prompt="", keep_alive=-1).done_reason == "load"
    assert client.chat(model="m", messages=[], keep_alive="5m").done_reason == "load"
    assert not service.engine.requests


def test_what_is_known_of_models(client: Any, service: Service) -> None:
    (tag,) = client.list().models
    assert tag.model == "tiny"
    (loaded,) = client.ps().models
    assert (loaded.digest, loaded.context_length) == (tag.digest, 512)
    shown = client.show("tiny")
    assert shown.template == THINKER
    assert set(shown.capabilities) == {"completion", "tools", "thinking"}
    assert shown.modelinfo["tiny.context_length"] == 512
    assert "secret" not in service.post("/api/show", model="tiny").text
    assert service.http.get("/api/version").json()["version"].count(".") == 2
    with pytest.raises(ollama.ResponseError) as missing:
        client.show("other")
    assert missing.value.status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pull"),
        ("POST", "/api/push"),
        ("POST", "/api/create"),
        ("POST", "/api/copy"),
        ("DELETE", "/api/delete"),
    ],
)
def test_models_are_the_operators_business(service: Service, method: str, path: str) -> None:
    reply = service.http.request(method, path, json={"model": "tiny"})
    assert reply.status_code == 400
    assert path in reply.json()["error"]


def test_leaving_ends_the_request(service: Service) -> None:
    service.engine.script = lambda request: b"x" * 400
    service.engine.delay_s = 0.02
    body = {"model": "m", "messages": HI}
    with service.http.stream("POST", "/api/chat", json=body) as reply:
        next(reply.iter_lines())
    limit = time.monotonic() + 5
    while service.engine.live and time.monotonic() < limit:
        time.sleep(0.01)
    assert len(service.engine.aborted) == 1


def test_an_error_after_the_first_line_is_a_line(service: Service) -> None:
    service.engine.delay_s = 0.02
    with service.http.stream("POST", "/api/chat", json={"model": "m", "messages": HI}) as reply:
        lines = reply.iter_lines()
        next(lines)
        service.loop.call_soon_threadsafe(service.engine.die)
        *_, last = lines
    assert set(httpx.Response(200, text=last).json()) == {"error"}


CHAT_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{**HI[0], "images": ["AAAA"]}]}, "messages[0].images"),
    ({"messages": [{**HI[0], "name": "x"}]}, "messages[0].name"),
    ({"messages": [{**HI[0], "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    ({"messages": "x"}, "messages"),
    ({"options": {"temperature": -1.0}}, "temperature"),
    ({"options": {"num_predict": -3}}, "num_predict"),
    ({"options": {"num_ctx": 513}}, "num_ctx"),
    ({"options": {"num_ctx": 8}}, "8"),
    ({"options": {"top_p": "x"}}, "top_p"),
    ({"options": {"repeat_penalty": 0}}, "repeat_penalty"),
    ({"options": {"repeat_last_n": 64}}, "repeat_last_n"),
    ({"options": {"mirostat": 2}}, "mirostat"),
    ({"options": {"num_gpu": 1}}, "num_gpu"),
    ({"options": {"num_thread": 4}}, "num_thread"),
    ({"options": {"use_mmap": True}}, "use_mmap"),
    ({"options": {"penalize_newline": False}}, "penalize_newline"),
    ({"options": {"nothing": 1}}, "nothing"),
    ({"keep_alive": 0}, "keep_alive"),
    ({"keep_alive": "0s"}, "keep_alive"),
    ({"keep_alive": "soon"}, "keep_alive"),
    ({"format": "yaml"}, "format"),
    ({"think": "hard"}, "think"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"truncate": True}, "truncate"),
    ({"shift": True}, "shift"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"model": 1}, "model"),
    ({"unknown_field": 1}, "unknown_field"),
]


@pytest.mark.parametrize(("change", "named"), CHAT_WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named(change: dict[str, Any], named: str, service: Service) -> None:
    reply = service.post("/api/chat", **{"model": "m", "messages": HI, **change})
    assert reply.status_code == 400, reply.text
    assert list(reply.json()) == ["error"]
    assert named in reply.json()["error"]
    assert not service.engine.requests


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": ["AAAA"]}, "images"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"suffix": "x"}, "suffix"),
        ({"raw": True, "system": "x"}, "system"),
        ({"raw": True, "context": [1]}, "context"),
        ({"raw": True, "think": True}, "think"),
        ({"context": [100_000]}, "context"),
        ({"context": ["x"]}, "context"),
        ({"messages": HI}, "messages"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_prompt(change: dict[str, Any], named: str, service: Service) -> None:
    reply = service.post("/api/generate", **{"model": "m", "prompt": "Hi", **change})
    assert reply.status_code == 400, reply.text
    assert named in reply.json()["error"]
    assert not service.engine.requests


def test_a_model_that_does_not_think(start: Start) -> None:
    service = start()
    reply = service.post("/api/chat", model="m", messages=HI, think=True)
    assert (reply.status_code, "think" in reply.json()["error"]) == (400, True)


def test_keys_and_routes_in_ollamas_shape(start: Start) -> None:
    service = start(api_key="sesame")
    assert service.post("/api/chat").status_code == 401
    assert isinstance(service.post("/api/chat").json()["error"], str)
    service.http.headers["authorization"] = "Bearer sesame"
    missing = service.post("/api/blobs")
    assert (missing.status_code, list(missing.json())) == (404, ["error"])


def test_vectors(start: Start) -> None:
    service = start()
    assert service.state.frontend is not None
    service.state.frontend.pooler = pooler = FakePooler("embed", TOKENIZER)
    client: Any
    with ollama.Client(host=service.url) as client:
        found = client.embed(model="m", input=["ab", "cde"])
        assert len(found.embeddings) == 2
        assert found.embeddings[0] == pytest.approx(_unit("ab"))
        assert found.prompt_eval_count == sum(len(job.prompt.ids) for job in pooler.jobs) > 4
        assert found.total_duration > 0
        assert client.embed(model="m", input="ab").embeddings == [found.embeddings[0]]
        assert client.embed(model="m", input="").embeddings == []
        assert client.embed(model="m", input="ab", dimensions=2).embeddings[0][0] != 0
        older = client.embeddings(model="m", prompt="ab")
        assert list(older.embedding) == list(found.embeddings[0])
        assert client.show("tiny").capabilities == ["embedding"]
        cut = client.embed(model="m", input="abcdefgh", options={"num_ctx": 5})
        assert cut.prompt_eval_count == 5
    for body, named in (
        ({"options": {"temperature": 1}}, "temperature"),
        ({"truncate": False, "input": "x" * 600}, "too long"),
        ({"truncate": False, "options": {"num_ctx": 5}}, "num_ctx"),
        ({"input": [1]}, "input"),
    ):
        reply = service.post("/api/embed", **{"model": "m", "input": "a", **body})
        assert reply.status_code == 400, reply.text
        assert named in reply.json()["error"]


def _unit(text: str) -> list[float]:
    row = numbers(TOKENIZER.encode(text), 4)
    return [float(x) for x in row / (row @ row) ** 0.5]


def test_a_model_that_makes_no_vectors(service: Service) -> None:
    reply = service.post("/api/embed", model="m", input="a")
    assert reply.status_code == 400
    assert isinstance(reply.json()["error"], str)
