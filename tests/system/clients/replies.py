"""What replies of OpenAI's two, Anthropic's and Ollama's APIs say, to requests that are sent again.

Each is read whole, or put together of its stream as clients do.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

_READING = ("/v1/messages/count_tokens", "/api/show")
"""What takes a body and generates nothing."""


@dataclass
class Said:
    """One sample: its text, and its calls, each a name and arguments in JSON."""

    text: str = ""
    calls: list[list[str]] = field(default_factory=list)
    ends: int = 0


def generates(request: dict[str, Any]) -> bool:
    """Whether a request that is taken makes the model say something."""
    body = request["body"] or {}
    asks = any(body.get(name) for name in ("messages", "prompt", "input"))
    return request["path"] not in _READING and asks


def schema_of(request: dict[str, Any]) -> dict[str, Any] | None:
    """The schema that the text must fit."""
    body = request["body"] or {}
    form = body.get("response_format") or (body.get("output_config") or {}).get("format") or {}
    form = (body.get("text") or {}).get("format") or form
    form = form.get("json_schema") or form
    found = body.get("format") or form.get("schema")
    return found if isinstance(found, dict) else None


def forced_tools(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schemas of the tools of which one must be called; none where that is up to the model."""
    body = request["body"] or {}
    choice = body.get("tool_choice")
    if choice in (None, "auto", "none") or choice in ({"type": "auto"}, {"type": "none"}):
        return {}
    tools = [tool.get("function", tool) for tool in body["tools"]]
    return {tool["name"]: tool.get("parameters") or tool["input_schema"] for tool in tools}


def error_of(request: dict[str, Any], reply: httpx.Response) -> str:
    """The message of an error, which has the shape that the API's clients read."""
    error: Any = reply.json()["error"]
    if request["path"].startswith("/api/"):
        assert list(reply.json()) == ["error"]
        return str(error)
    if request["path"].startswith("/v1/messages"):
        assert reply.json()["type"] == "error"
        assert set(error) == {"type", "message"}
    else:
        assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


def said(request: dict[str, Any], reply: httpx.Response) -> list[Said]:
    """The samples of a reply; each ends once, having counted its tokens."""
    if request["path"].startswith("/api/"):
        return [_ollama(reply)]
    if request["path"].startswith("/v1/messages"):
        return [_anthropic(reply)]
    if request["path"] == "/v1/responses":
        return [_responses(reply)]
    return _openai(request, reply)


def _openai(request: dict[str, Any], reply: httpx.Response) -> list[Said]:
    if not request["body"].get("stream"):
        usage = reply.json()["usage"]
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        events = [reply.json()]
    else:
        events = [event for event in _events(reply) if event != "[DONE]"]
        assert reply.text.endswith("data: [DONE]\n\n")
        if (request["body"].get("stream_options") or {}).get("include_usage"):
            assert events[-1]["usage"]["completion_tokens"] > 0
    found: dict[int, Said] = {}
    for choice in (choice for event in events for choice in event["choices"]):
        sample = found.setdefault(choice["index"], Said())
        part = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
        sample.text += part.get("content") or ""
        for number, call in enumerate(part.get("tool_calls") or []):
            if call.get("id"):
                assert call.get("index", number) == len(sample.calls)
                sample.calls.append([call["function"]["name"], ""])
            sample.calls[call.get("index", number)][1] += call["function"]["arguments"]
        sample.ends += choice["finish_reason"] is not None
    return [found[index] for index in sorted(found)]


def _responses(reply: httpx.Response) -> Said:
    sample = Said()
    if not reply.headers["content-type"].startswith("text/event-stream"):
        response = reply.json()
        assert response["usage"]["output_tokens"] > 0
        for item in response["output"]:
            sample.text += "".join(part["text"] for part in item.get("content", []))
            if item["type"] == "function_call":
                sample.calls.append([item["name"], item["arguments"]])
        sample.ends = 1
        return sample
    for number, event in enumerate(_events(reply)):
        assert event["sequence_number"] == number
        if event["type"] == "response.output_item.added" and "call_id" in event["item"]:
            sample.calls.append([event["item"]["name"], ""])
        elif event["type"] == "response.output_text.delta":
            sample.text += event["delta"]
        elif event["type"] == "response.function_call_arguments.delta":
            sample.calls[-1][1] += event["delta"]
        sample.ends += event["type"] in ("response.completed", "response.incomplete")
    return sample


def _anthropic(reply: httpx.Response) -> Said:
    sample = Said()
    if not reply.headers["content-type"].startswith("text/event-stream"):
        message = reply.json()
        assert message["usage"]["output_tokens"] > 0
        for block in message["content"]:
            sample.text += block.get("text", "")
            if block["type"] == "tool_use":
                sample.calls.append([block["name"], json.dumps(block["input"])])
        sample.ends = 1
        return sample
    for event in _events(reply):
        block, delta = event.get("content_block", {}), event.get("delta", {})
        if block.get("type") == "tool_use":
            sample.calls.append([block["name"], ""])
        sample.text += delta.get("text", "")
        if "partial_json" in delta:
            sample.calls[-1][1] += delta["partial_json"]
        sample.ends += event["type"] == "message_stop"
    sample.calls = [[name, json.dumps(json.loads(text))] for name, text in sample.calls]
    return sample


def _ollama(reply: httpx.Response) -> Said:
    sample = Said()
    for line in reply.text.splitlines():
        part = json.loads(line)
        message = part.get("message") or {"content": part["response"]}
        sample.text += message["content"]
        for call in message.get("tool_calls", []):
            sample.calls.append([call["function"]["name"], json.dumps(call["function"])])
        sample.ends += part["done"]
        assert not part["done"] or part["eval_count"] > 0
    return sample


def _events(reply: httpx.Response) -> Iterator[Any]:
    assert reply.headers["content-type"].startswith("text/event-stream")
    for line in reply.text.splitlines():
        if line.startswith("data: "):
            text = line.removeprefix("data: ")
            yield text if text == "[DONE]" else json.loads(text)
