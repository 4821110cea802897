"""Anthropic's messages as a backend."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tupelo.lang.backends.base import Completion, ToolCall, Turn
from tupelo.lang.backends.http import Http
from tupelo.lang.backends.remote import RemoteBackend
from tupelo.lang.content import Message, Prompt
from tupelo.lang.media import Media
from tupelo.lang.options import Sampling

ANTHROPIC_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"

_NAMES = {"max_new_tokens": "max_tokens", "stop": "stop_sequences"}


class Anthropic(RemoteBackend):
    """A model behind Anthropic's API.

    Args:
        model: its name there.
        api_key: of the account. Give it; the environment is not read.
        base_url: of another service with this API, without ``/v1``.
        continues: the model goes on with a message of the assistant that has begun; newer ones
            refuse that.
    """

    options = frozenset({"max_new_tokens", "temperature", "top_p", "top_k", "stop", "json_schema"})

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str = ANTHROPIC_URL,
        *,
        continues: bool = False,
    ) -> None:
        self.model = model
        self.name = f"Anthropic({model!r})"
        self.continues = continues
        key = {"x-api-key": api_key} if api_key else {}
        self._http = Http(base_url, {**key, "anthropic-version": VERSION})

    def complete(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """Go on with a conversation."""
        turn = _turn(self._http.post("/v1/messages", self._body(prompt, sampling)))
        return [Completion(turn.text, turn.meta, turn.meta.pop("reasoning"))]

    def complete_stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Completion]:
        """Go on with a conversation; pieces of the completion as they come."""
        body = {**self._body(prompt, sampling), "stream": True}
        for event in self._http.events("/v1/messages", body):
            delta = event.get("delta") or {}
            if event["type"] == "content_block_delta":
                yield Completion(delta.get("text", ""), reasoning=delta.get("thinking", ""))
            elif event["type"] == "message_delta":
                yield Completion("", _meta(delta.get("stop_reason"), event.get("usage") or {}))

    def converse(
        self, prompt: Prompt, tools: Sequence[dict[str, Any]], choice: str, sampling: Sampling
    ) -> Turn:
        """The assistant's next turn in a conversation with tools."""
        kinds = {"auto": {"type": "auto"}, "required": {"type": "any"}}
        body = {
            **self._body(prompt, sampling),
            "tools": [_tool(tool["function"]) for tool in tools],
            "tool_choice": kinds.get(choice, {"type": "tool", "name": choice}),
        }
        return _turn(self._http.post("/v1/messages", body))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        values = {_NAMES.get(name, name): value for name, value in sampling.items()}
        if isinstance(stop := values.get("stop_sequences"), str):
            values["stop_sequences"] = [stop]
        if schema := values.pop("json_schema", None):
            form = {"type": "json_schema", "schema": json.loads(schema)}
            values["output_config"] = {"format": form}
        messages = prompt.all_messages
        system = [_blocks(m["content"]) for m in messages if m["role"] == "system"]
        if system:
            values["system"] = [block for blocks in system for block in blocks]
        turns = [_message(m) for m in messages if m["role"] != "system"]
        return {"model": self.model, "messages": _merged(turns), **values}


def _message(message: Message) -> Message:
    """A message of OpenAI's form as Anthropic has it."""
    if message["role"] == "tool":
        result = {
            "type": "tool_result",
            "tool_use_id": message["tool_call_id"],
            "content": message["content"],
        }
        return {"role": "user", "content": [result]}
    blocks = _blocks(message["content"])
    for call in message.get("tool_calls", ()):
        asked = call["function"]
        given = json.loads(asked["arguments"] or "{}")
        blocks.append({"type": "tool_use", "id": call["id"], "name": asked["name"], "input": given})
    return {"role": message["role"], "content": blocks}


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Messages of one role that follow each other as one: results of several calls are."""
    found: list[Message] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            found[-1]["content"] += message["content"]
        else:
            found.append(message)
    return found


def _blocks(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return [_block(part) for part in content]


def _block(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "text":
        return dict(part)
    url = part["image_url"]["url"]
    media_type, data = Media("image", url).data
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "image", "source": source if data else {"type": "url", "url": url}}


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": function["name"],
        "description": function.get("description", ""),
        "input_schema": function["parameters"],
    }


def _turn(reply: Mapping[str, Any]) -> Turn:
    texts, thoughts, calls = [], [], []
    for block in reply["content"]:
        match block["type"]:
            case "text":
                texts.append(block["text"])
            case "thinking":
                thoughts.append(block["thinking"])
            case "tool_use":
                calls.append(ToolCall(block["id"], block["name"], json.dumps(block["input"])))
    meta = _meta(reply.get("stop_reason"), reply.get("usage") or {})
    meta = {**meta, "id": reply.get("id"), "reasoning": "".join(thoughts)}
    return Turn("".join(texts), tuple(calls), meta)


def _meta(reason: Any, usage: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "finish_reason": {"type": reason},
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
    }
