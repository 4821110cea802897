"""Bodies of ``/v1/responses``, as the chat body that asks for the same.

What this server cannot do (built-in tools, stored prompts, conversations, summaries of thoughts) is
refused by name. ``max_tool_calls`` counts built-in tools alone, of which there are none.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

from pydantic import Field

from tupelo.errors import InvalidRequest, RequestError
from tupelo.request import MAX_MESSAGES
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.fields import ANY, COMMON_UNSUPPORTED, Body, client_names

LOGPROBS = "message.output_text.logprobs"
SEALED = "reasoning.encrypted_content"
INCLUDABLE = (
    LOGPROBS,
    SEALED,
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
"""The last six are of items that no response of this server has."""

MAX_METADATA, MAX_KEY, MAX_VALUE = 16, 64, 512

_NAMES = {
    "prompt": "input",
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_new_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_SAME = (
    "model", "stream", "parallel_tool_calls", "temperature", "top_p", "top_k", "min_p",
    "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "seed", "stop",
    "stop_token_ids", "min_tokens", "ignore_eos", "regex", "ebnf", "cache_salt", "extra_key",
    "priority", "chat_template_kwargs", "max_thinking_tokens",
)  # fmt: skip
"""Fields that a chat has too."""


class ResponsesBody(Body):
    """A request. ``input`` keeps its form; ``responses_items`` looks into it."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **COMMON_UNSUPPORTED,
        "access_programs": (),
        "background_options": (),
        "context_management": (),
        "conversation": (),
        "image": (),
        "max_tool_calls": ANY,
        "moderation": (),
        "prompt": (),
        "prompt_cache_options": ANY,
        "prompt_cache_retention": ANY,
        "service_tier": ("auto", "default"),
        "truncation": ("disabled",),
    }

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_MESSAGES)]
    model: str = ""
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool = False
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    include: list[str] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    metadata: dict[str, Any] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, Any] | None = Field(
        default=None, json_schema_extra={"additionalProperties": {"type": "number"}}
    )
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    regex: str | None = None
    ebnf: str | None = None
    cache_salt: str | None = None
    extra_key: str | None = None
    priority: int | None = Field(default=None, description="needs the priority policy")
    chat_template_kwargs: dict[str, Any] | None = None
    max_thinking_tokens: int | None = None

    def check(self) -> None:
        """Look at what no chat has.

        Raises:
            InvalidRequest: a value that this server does not take.
        """
        for name in self.include or ():
            check_includable(name)
        if self.top_logprobs and not self.logprobs:
            raise _wrong("top_logprobs", f"needs include to name {LOGPROBS}")
        if self.stream_options and not self.stream:
            raise _wrong("stream_options", "needs stream to be true")
        _refuse("stream_options", self.stream_options, {"include_obfuscation": (False,)})
        if self.background and self.store is False:
            raise _wrong(
                "background", "needs store: a response that is not stored is found by none"
            )
        _check_metadata(self.metadata or {})

    @property
    def logprobs(self) -> bool:
        """Whether the reply tells the log-probabilities of its text."""
        return LOGPROBS in (self.include or ())

    @property
    def seals(self) -> bool:
        """Whether thoughts have ``encrypted_content``."""
        return SEALED in (self.include or ())

    @property
    def format(self) -> dict[str, Any]:
        """What the text must look like, as the API tells it."""
        given = (self.text or {}).get("format") or {"type": "text"}
        return given if isinstance(given, dict) else {"type": given}

    @property
    def effort(self) -> str | None:
        """How hard to think."""
        effort = (self.reasoning or {}).get("effort")
        if not isinstance(effort, str | None):
            raise _wrong("reasoning.effort", "must be a string")
        return effort

    def told(self) -> dict[str, Any]:
        """What the response repeats of its request."""
        given = self.format
        tools = [{"strict": False, "description": None, **tool} for tool in self.tools or ()]
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": None,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls,
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": self.effort, "summary": None},
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "text": {"format": given, "verbosity": "medium"},
            "tool_choice": "auto" if self.tool_choice is None else self.tool_choice,
            "tools": tools,
            "top_logprobs": self.top_logprobs or 0,
            "truncation": "disabled",
            "user": self.user,
        }

    def chat(self, messages: list[dict[str, Any]], rid: str) -> ChatBody:
        """The chat body that asks for the same.

        Args:
            messages: the conversation; the instructions are put before it.
            rid: the id that the request may be aborted by.

        Raises:
            InvalidRequest: a tool, a choice or a form that this server does not take.
        """
        head = [] if self.instructions is None else [_system(self.instructions)]
        given = {name: getattr(self, name) for name in _SAME}
        values = {name: value for name, value in given.items() if value is not None}
        values |= {"messages": [*head, *messages], "rid": rid}
        if self.background:  # who asks for it meanwhile sees how far it is
            values["stream"] = True
        if self.max_output_tokens is not None:
            values["max_completion_tokens"] = self.max_output_tokens
        if self.logprobs:
            values |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return ChatBody.parse(
            {**values, **self._tool_values(), **self._text_values(), **self._thoughts()}
        )

    def _tool_values(self) -> dict[str, Any]:
        tools = [_tool(f"tools[{n}]", tool) for n, tool in enumerate(self.tools or ())]
        choice: Any = self.tool_choice
        match choice:
            case {"type": "function", **rest}:
                choice = {"type": "function", "function": {"name": rest.get("name")}}
            case {"type": "allowed_tools"}:
                tools, choice = _allowed(tools, choice)
            case {"type": kind}:
                raise _wrong(
                    "tool_choice.type", f"{kind!r:.60} is not supported; allowed: "
                    "function, allowed_tools",
                )  # fmt: skip
        values: dict[str, Any] = {"tools": tools} if tools else {}
        return values if choice is None else {**values, "tool_choice": choice}

    def _text_values(self) -> dict[str, Any]:
        _refuse("text", self.text, {"verbosity": ("medium",)}, known={"format"})
        form = self.format
        kind = form.get("type")
        if kind not in ("text", "json_object", "json_schema"):
            raise _wrong(
                "text.format.type", f"got {kind!r:.60}; allowed: text, json_object, json_schema"
            )
        if kind != "json_schema":
            _refuse("text.format", form, {}, known={"type"})
            return {} if kind == "text" else {"response_format": {"type": kind}}
        _refuse("text.format", form, {}, {"type", "name", "schema", "strict", "description"})
        schema = {name: value for name, value in form.items() if name != "type"}
        return {"response_format": {"type": kind, "json_schema": schema}}

    def _thoughts(self) -> dict[str, Any]:
        asks_nothing = {"context": ("auto",), "mode": ("standard",)}
        _refuse("reasoning", self.reasoning, asks_nothing, known={"effort"})
        return {} if self.effort is None else {"reasoning_effort": self.effort}


def check_includable(name: str) -> None:
    """Refuse what cannot be included.

    Raises:
        InvalidRequest: there is no such thing.
    """
    if name not in INCLUDABLE:
        raise _wrong("include", f"got {name!r:.60}; allowed: {', '.join(INCLUDABLE)}")


@contextmanager
def response_names() -> Iterator[None]:
    """Errors about a chat's fields name them as they are called here."""
    try:
        with client_names(_NAMES):
            yield
    except RequestError as error:
        place = error.param or ""
        name = place.replace("response_format.json_schema", "text.format", 1)
        if re.match(r"tools\[\d+\]\.function\.", place):
            name = place.replace(".function", "", 1)
        error.param = name or None
        text = str(error).replace("text.format.json_schema", "text.format")
        error.args = (text.replace(place, name) if place else text,)
        raise


def _tool(place: str, tool: dict[str, Any]) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise _wrong(f"{place}.type", f"{kind!r:.60} is not supported; allowed: function")
    known = ("name", "description", "parameters", "strict")
    _refuse(place, tool, {"allowed_callers": (["direct"],)}, {"type", *known})
    return {"type": "function", "function": {name: tool.get(name) for name in known}}


def _allowed(
    tools: list[dict[str, Any]], choice: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], str]:
    """The tools that may be called, which alone are offered, and whether one must be."""
    mode, given = choice.get("mode"), choice.get("tools")
    if mode not in ("auto", "required"):
        raise _wrong("tool_choice.mode", f"got {mode!r:.60}; allowed: auto, required")
    names = {
        tool["function"]["name"] for tool in tools if isinstance(tool["function"]["name"], str)
    }
    wanted = []
    for number, item in enumerate(given if isinstance(given, list) else ()):
        match item:
            case {"type": "function", "name": str(name)} if name in names:
                wanted.append(name)
            case _:
                raise _wrong(f"tool_choice.tools[{number}]", "names no tool of this request")
    if not wanted:
        raise _wrong("tool_choice.tools", "must be a list with a tool of this request at least")
    return [tool for tool in tools if tool["function"]["name"] in wanted], mode


def _system(text: str) -> dict[str, Any]:
    return {"role": "system", "content": text}


def _refuse(
    place: str,
    given: Mapping[str, Any] | None,
    nothing: Mapping[str, tuple[Any, ...]],
    known: set[str] | frozenset[str] = frozenset(),
) -> None:
    """Refuse fields but those ``known``; others may have a value that asks for ``nothing``."""
    for name, value in (given or {}).items():
        if name not in known and value and value not in nothing.get(name, ()):
            raise InvalidRequest(
                f"{place}.{name:.60} is not supported by this server",
                param=f"{place}.{name:.60}",
                code="unsupported_parameter",
            )


def _check_metadata(metadata: dict[str, Any]) -> None:
    if len(metadata) > MAX_METADATA:
        raise _wrong("metadata", f"got {len(metadata)} pairs; at most {MAX_METADATA}")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(value) > MAX_VALUE or len(key) > MAX_KEY:
            raise _wrong(
                f"metadata.{key:.60}",
                f"must be a string of at most {MAX_VALUE} characters, under a name of at most "
                f"{MAX_KEY}",
            )


def _wrong(place: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {reason}", param=place)
