"""Chats as OpenAI's API has them: what several backends send and receive."""

from collections.abc import Mapping
from typing import Any

from tupelo.lang.backends.base import ToolCall, Turn

_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "sampling_seed": "seed"}


def chat_names(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Sampling under the names of chats."""
    return {_NAMES.get(name, name): value for name, value in sampling.items()}


def tool_choice(choice: str) -> Any:
    """Which tool must be called: "auto", "required", or a name."""
    if choice in ("auto", "required"):
        return choice
    return {"type": "function", "function": {"name": choice}}


def turn_of(reply: Mapping[str, Any]) -> Turn:
    """The assistant's turn in a reply."""
    choice = reply["choices"][0]
    message = choice["message"]
    calls = tuple(
        ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    )
    return Turn(message.get("content") or "", calls, meta_of(reply, choice))


def meta_of(reply: Mapping[str, Any], choice: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a choice, under the native names."""
    usage = reply.get("usage") or {}
    own = choice.get("meta_info") or {}
    reason = choice.get("finish_reason")
    found = {
        "id": reply.get("id"),
        "finish_reason": {"type": reason} if reason else None,
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        **own,
    }
    return {name: value for name, value in found.items() if value is not None}
