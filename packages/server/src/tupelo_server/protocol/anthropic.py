"""Bodies of ``/v1/messages``, as the chat body that asks for the same.

What this server cannot do (images, documents, tools that only Anthropic's models know) is refused
by name. ``cache_control`` asks for what happens anyway: prefixes are cached.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_MESSAGES
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.fields import ANY, Body

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "metadata": ANY,
    "cache_control": ANY,
    "service_tier": ("auto", "standard_only"),
    "inference_geo": (),
    "container": (),
    "mcp_servers": (),
    "context_management": (),
    "diagnostics": (),
    "speed": ("standard",),
    "user_profile_id": (),
    "workspace_id": (),
}
_THINKING = {"enabled", "adaptive", "disabled"}
_SWITCHED_ON = {"enable_thinking": True, "thinking": True}
"""For templates that switch thinking; others do not look at these."""

_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "max": "xhigh"}


class CountBody(Body):
    """A request of ``/v1/messages/count_tokens``."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _UNSUPPORTED

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None

    def chat(self) -> ChatBody:
        """The chat body that asks for the same.

        Raises:
            InvalidRequest: a block, a tool or a choice that this server does not take.
        """
        return ChatBody.parse(self._values())

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {"model": self.model, "messages": list(self._messages())}
        if self.tools:
            values["tools"] = [_tool(f"tools[{n}]", tool) for n, tool in enumerate(self.tools)]
        if self.tool_choice is not None:
            values |= _choice(self.tool_choice)
        if values["messages"][-1]["role"] == "assistant":
            values["continue_final_message"] = True
        values |= self._thoughts()
        form = (self.output_config or {}).get("format")
        if form is not None:
            values["response_format"] = _format(form)
        return values

    def _messages(self) -> Iterator[dict[str, Any]]:
        if self.system:
            yield {"role": "system", "content": _text("system", self.system)}
        for number, message in enumerate(self.messages):
            place = f"messages[{number}]"
            role = message.get("role")
            if role not in ("user", "assistant", "system"):
                raise _wrong(f"{place}.role", f"got {role!r:.60}; allowed: user, assistant")
            unknown = set(message) - {"role", "content", "cache_control"}
            if unknown:
                raise _wrong(f"{place}.{min(unknown):.60}", "is no field of a message")
            content = message.get("content")
            if isinstance(content, str):
                yield {"role": role, "content": content}
            elif not isinstance(content, list):
                raise _wrong(f"{place}.content", "must be a string or a list of blocks")
            elif role == "assistant":
                yield _assistant(f"{place}.content", content)
            else:
                yield from _user(f"{place}.content", content, role)

    def _thoughts(self) -> dict[str, Any]:
        """How hard to think, and for how long."""
        thinking, config = self.thinking or {}, self.output_config or {}
        unknown = set(config) - {"effort", "format"}
        if unknown:
            raise _wrong(f"output_config.{min(unknown):.60}", "is not supported by this server")
        kind = thinking.get("type", "adaptive")
        if kind not in _THINKING:
            raise _wrong("thinking.type", f"got {kind!r:.60}; allowed: {', '.join(_THINKING)}")
        if kind == "disabled":
            return {"reasoning_effort": "none"}
        effort = config.get("effort")
        if effort is not None and effort not in _EFFORTS:
            raise _wrong("output_config.effort", f"allowed: {', '.join(_EFFORTS)}")
        values = {} if effort is None else {"reasoning_effort": _EFFORTS[effort]}
        if kind != "enabled":
            return values
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int) or isinstance(budget, bool):
            raise _wrong("thinking.budget_tokens", "must be an integer")
        return {**values, "max_thinking_tokens": budget, "chat_template_kwargs": _SWITCHED_ON}


class MessagesBody(CountBody):
    """A request of ``/v1/messages``."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None

    def _values(self) -> dict[str, Any]:
        same = ("max_tokens", "stream", "temperature", "top_p", "top_k")
        given = {name: getattr(self, name) for name in same}
        values = {name: value for name, value in given.items() if value is not None}
        if self.stop_sequences:
            values["stop"] = self.stop_sequences
        return {**super()._values(), **values}


def _user(place: str, blocks: list[Any], role: str) -> Iterator[dict[str, Any]]:
    """Results of tools are messages of their own, before what the user says to them."""
    said: list[str] = []
    for number, block in enumerate(blocks):
        where = f"{place}[{number}]"
        match _kind(where, block):
            case "text":
                said.append(_string(where, block, "text"))
            case "tool_result":
                if said:
                    yield {"role": role, "content": "\n".join(said)}
                    said = []
                yield {
                    "role": "tool",
                    "tool_call_id": _string(where, block, "tool_use_id"),
                    "content": _text(f"{where}.content", block.get("content") or ""),
                }
            case kind:
                raise _wrong(f"{where}.type", f"{kind!r:.60} is not supported by this server")
    if said:
        yield {"role": role, "content": "\n".join(said)}


def _assistant(place: str, blocks: list[Any]) -> dict[str, Any]:
    said: list[str] = []
    thought: list[str] = []
    calls: list[dict[str, Any]] = []
    for number, block in enumerate(blocks):
        where = f"{place}[{number}]"
        match _kind(where, block):
            case "text":
                said.append(_string(where, block, "text"))
            case "thinking":
                thought.append(_string(where, block, "thinking"))
            case "redacted_thinking":
                continue  # nobody but its author can read it
            case "tool_use":
                arguments = block.get("input", {})
                if not isinstance(arguments, dict):
                    raise _wrong(f"{where}.input", "must be an object")
                function = {"name": _string(where, block, "name"), "arguments": arguments}
                call = {"id": _string(where, block, "id"), "type": "function"}
                calls.append({**call, "function": function})
            case kind:
                raise _wrong(f"{where}.type", f"{kind!r:.60} is not supported by this server")
    message: dict[str, Any] = {"role": "assistant", "content": "".join(said)}
    if thought:
        message["reasoning_content"] = "".join(thought)
    if calls:
        message["tool_calls"] = calls
    return message


def _tool(place: str, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom":
        raise _wrong(f"{place}.type", f"{tool['type']!r:.60} is not supported by this server")
    known = {"type", "name", "description", "input_schema", "strict", "cache_control"}
    unknown = set(tool) - known
    if unknown:
        raise _wrong(f"{place}.{min(unknown):.60}", "is not supported by this server")
    function = {
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("input_schema"),
        "strict": tool.get("strict"),
    }
    return {"type": "function", "function": function}


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    match choice.get("type"):
        case "auto":
            values: dict[str, Any] = {"tool_choice": "auto"}
        case "any":
            values = {"tool_choice": "required"}
        case "none":
            values = {"tool_choice": "none"}
        case "tool":
            name = choice.get("name")
            values = {"tool_choice": {"type": "function", "function": {"name": name}}}
        case kind:
            raise _wrong("tool_choice.type", f"got {kind!r:.60}; allowed: auto, any, tool, none")
    alone = choice.get("disable_parallel_tool_use", False)
    if not isinstance(alone, bool):
        raise _wrong("tool_choice.disable_parallel_tool_use", "must be true or false")
    return {**values, "parallel_tool_calls": not alone}


def _format(form: Any) -> dict[str, Any]:
    if not isinstance(form, dict) or form.get("type") != "json_schema" or "schema" not in form:
        raise _wrong("output_config.format", "must be a json_schema with its schema")
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": form["schema"]}}


def _text(place: str, content: Any) -> str:
    """The text of a string, or of text blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(place, "must be a string or a list of text blocks")
    texts = []
    for number, block in enumerate(content):
        where = f"{place}[{number}]"
        if _kind(where, block) != "text":
            raise _wrong(f"{where}.type", f"{block['type']!r:.60} is not supported by this server")
        texts.append(_string(where, block, "text"))
    return "\n".join(texts)


def _kind(place: str, block: Any) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str):
        raise _wrong(place, "must be an object with a type")
    return kind


def _string(place: str, block: dict[str, Any], name: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise _wrong(f"{place}.{name}", "must be a string")
    return value


def _wrong(place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {reason}", param=place)
