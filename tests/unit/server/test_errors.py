"""Bad input: the status and the body of each refusal, and that nothing reaches the engine."""

from typing import Any

import pytest
from tests.unit.server.conftest import Service, Start

HI = [{"role": "user", "content": "Hi"}]
IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}

# Field of a chat body that is refused, its value, and the ``param`` of the error.
CHAT_FIELDS: list[tuple[str, Any, str]] = [
    ("messages", [], "messages"),
    ("messages", None, "messages"),
    ("messages", "Hi", "messages"),
    ("messages", [{"role": "pirate", "content": "x"}], "messages[0].role"),
    ("messages", [{"role": "user"}], "messages[0].content"),
    ("messages", [{"role": "user", "content": [IMAGE]}], "messages[0].content[0].type"),
    ("messages", [{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
    ("messages", [{"role": "user", "content": "x", "weird": 1}], "messages[0].weird"),
    ("messages", [{"role": "user", "content": 7}], "messages[0].content"),
    ("n", 0, "n"),
    ("n", -1, "n"),
    ("n", 10**9, "n"),
    ("n", 1.5, "n"),
    ("n", True, "n"),
    ("n", "2", "n"),
    ("max_tokens", -1, "max_tokens"),
    ("max_tokens", 2.5, "max_tokens"),
    ("max_tokens", 10**30, "max_tokens"),
    ("max_completion_tokens", -1, "max_completion_tokens"),
    ("min_tokens", -1, "min_tokens"),
    ("temperature", -0.1, "temperature"),
    ("temperature", "hot", "temperature"),
    ("temperature", True, "temperature"),
    ("top_p", 0, "top_p"),
    ("top_p", 1.01, "top_p"),
    ("top_k", 0, "top_k"),
    ("min_p", 2, "min_p"),
    ("frequency_penalty", 3, "frequency_penalty"),
    ("presence_penalty", -3, "presence_penalty"),
    ("repetition_penalty", 0, "repetition_penalty"),
    ("logit_bias", {"x": 1}, "logit_bias"),
    ("logit_bias", {"999999": 1}, "logit_bias"),
    ("logit_bias", {"1": 1000}, "logit_bias"),
    ("logit_bias", {str(i): 0 for i in range(5000)}, "logit_bias"),
    ("stop", ["x"] * 33, "stop"),
    ("stop", "x" * 2000, "stop"),
    ("stop", [1], "stop"),
    ("stop_token_ids", [-1], "stop_token_ids"),
    ("stop_token_ids", [10**6], "stop_token_ids"),
    ("seed", 2**63, "seed"),
    ("seed", 1.5, "seed"),
    ("top_logprobs", 3, "top_logprobs"),
    ("logprobs", 3, "logprobs"),
    ("stream", "yes", "stream"),
    ("stream_options", {"include_usage": True}, "stream_options"),
    ("priority", 5, "priority"),
    ("rid", "x" * 1_000_000, "rid"),
    ("cache_salt", "x" * 5000, "cache_salt"),
    ("continue_final_message", True, "continue_final_message"),
    ("chat_template_kwargs", {"messages": []}, "messages"),
    ("chat_template_kwargs", {"bos_token": "x"}, "chat_template_kwargs"),
    ("tools", [{"type": "function", "function": {"name": "f"}}], "tools"),
    ("regex", 5, "regex"),
    ("regex", "a" * 20_000, "regex"),
    ("json_schema", ["a"], "json_schema"),
    ("response_format", "json", "response_format"),
    ("response_format", {}, "response_format.type"),
    ("response_format", {"type": "xml"}, "response_format.type"),
    ("response_format", {"type": "json_object", "x": 1}, "response_format.x"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "x"}},
        "response_format.json_schema.schema",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"schema": {}, "strict": "yes"}},
        "response_format.json_schema.strict",
    ),
    ("stop_regex", ["a"] * 33, "stop_regex"),
    ("stop_regex", "a" * 257, "stop_regex"),
    ("stop_regex", r"(a)\1", "stop_regex"),
    ("stop_regex", 7, "stop_regex"),
    ("rid", ["a", "b"], "rid"),
    ("cache_salt", ["a", "b"], "cache_salt"),
    ("input_ids", [-1], "input_ids"),
    ("input_ids", [], "messages"),
    ("chat_template", "{{ 1 }}", "chat_template"),
    ("chat_template_kwargs", {"chat_template": "{{ 1 }}"}, "chat_template"),
    ("chat_template_kwargs", {"chat_template": 1}, "chat_template_kwargs"),
    ("return_hidden_states", True, "return_hidden_states"),
    ("return_routed_experts", True, "return_routed_experts"),
    ("custom_params", {"a": 1}, "custom_params"),
    ("custom_logit_processor", "x", "custom_logit_processor"),
    ("custom_labels", {"a": "b"}, "custom_labels"),
    ("suffix", "x", "suffix"),
    ("echo", True, "echo"),
    ("best_of", 2, "best_of"),
    ("return_token_ids", "yes", "return_token_ids"),
    ("lora_path", "adapter", "lora_path"),
    ("modalities", ["text", "audio"], "modalities"),
    ("store", True, "store"),
    ("service_tier", "priority", "service_tier"),
    ("reasoning_effort", "high", "reasoning_effort"),
    ("no_such_field", 1, "no_such_field"),
]


@pytest.mark.parametrize(("name", "value", "param"), CHAT_FIELDS, ids=lambda v: str(v)[:30])
def test_chat_field_is_refused_by_name(service: Service, name: str, value: Any, param: str) -> None:
    reply = service.post("/v1/chat/completions", **{"messages": HI, "model": "tiny", name: value})
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param, error
    assert len(error["message"]) < 1000
    assert service.engine.requests == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": "a", "logprobs": 1000}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "best_of": 3, "stream": True}, "best_of"),
        ({"prompt": "a", "best_of": 1, "n": 2}, "best_of"),
        ({"prompt": "a", "best_of": 10**9}, "best_of"),
        ({"prompt": "a", "n": -1}, "n"),
        ({"prompt": ["a", "b"], "rid": ["x"]}, "rid"),
        ({"prompt": ["a", "b"], "cache_salt": ["x", "y", "z"]}, "cache_salt"),
        ({"prompt": "a", "regex": "a", "ebnf": "root ::= x"}, "ebnf"),
        (
            {"prompt": "a", "regex": "a", "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": ["a"] * 5000}, "prompt"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_completion_body_is_refused(service: Service, body: dict[str, Any], param: str) -> None:
    reply = service.post("/v1/completions", **body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert service.engine.requests == []


@pytest.mark.parametrize(
    "extra",
    [
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"},
        {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"regex": "", "json_schema": None, "lora_path": None, "modalities": ["text"]},
        {"temperature": None, "stop": None, "max_tokens": None, "logit_bias": None},
        {"parallel_tool_calls": True, "separate_reasoning": True, "priority": 0},
    ],
    ids=lambda v: ",".join(v),
)
def test_fields_that_ask_for_nothing_are_taken(service: Service, extra: dict[str, Any]) -> None:
    assert service.post("/v1/chat/completions", messages=HI, **extra).status_code == 200


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 5000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 600}]}),
        ("/v1/completions", {"prompt": "x" * 600}),
        ("/v1/completions", {"prompt": [1] * 512, "max_tokens": 1}),
    ],
    ids=["output", "conversation", "prompt", "one over"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_context_length(service: Service, route: str, body: dict[str, Any], stream: bool) -> None:
    reply = service.post(route, **body, stream=stream)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "context_length_exceeded"


def test_prompt_that_just_fits(service: Service) -> None:
    assert service.post("/v1/completions", prompt=[1] * 511, max_tokens=1).status_code == 200


@pytest.mark.parametrize(
    "content",
    [b"{", b"\xff", b'{"a": "\xff"}', b"[]", b"7", b"[" * 100_000, b'{"a":' * 100_000, b"NaN"],
    ids=["cut", "no utf-8", "no utf-8 inside", "list", "number", "deep", "deep object", "nan"],
)
@pytest.mark.parametrize("route", ["/v1/completions", "/generate"])
def test_body_that_is_no_object(service: Service, route: str, content: bytes) -> None:
    reply = service.http.post(route, content=content)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert "request body" in (error["message"] if route.startswith("/v1") else error)


def test_content_type_does_not_matter(service: Service) -> None:
    reply = service.http.post(
        "/v1/completions", content=b'{"prompt": "a"}', headers={"content-type": "text/plain"}
    )
    assert reply.status_code == 200


def test_last_of_two_equal_keys_counts(service: Service) -> None:
    service.http.post("/v1/completions", content=b'{"prompt": "a", "prompt": "bc"}')
    assert len(service.engine.requests[-1].input_ids) == 2


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nothing", 404), ("GET", "/nothing", 404), ("GET", "/v1/completions", 405)],
)
def test_unknown_route(service: Service, method: str, path: str, status: int) -> None:
    reply = service.http.request(method, path)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["message"]
    assert ("param" in error) == path.startswith("/v1")


def test_nothing_answers_422(service: Service) -> None:
    document = service.http.get("/openapi.json").json()
    assert "422" not in {
        status
        for path in document["paths"].values()
        for operation in path.values()
        for status in operation["responses"]
    }


def test_not_ready_is_a_503(start: Start) -> None:
    service = start()
    service.state.frontend = None
    for path in ("/v1/chat/completions", "/generate"):
        reply = service.post(path, messages=HI)
        assert reply.status_code == 503
        assert "not ready" in reply.json()["error"]["message"]
