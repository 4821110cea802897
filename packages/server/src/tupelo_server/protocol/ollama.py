"""Bodies of Ollama's ``/api`` routes, as the chat body that asks for the same."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_MESSAGES
from tupelo_server.protocol.chat import ChatBody
from tupelo_server.protocol.fields import Body, Texts, Tolerated
from tupelo_server.protocol.ollama_messages import chat_messages
from tupelo_server.protocol.ollama_options import OllamaOptions, check_keep_alive
from tupelo_server.protocol.schemas import bounded

_LEVELS = ("low", "medium", "high")
_SWITCHED_ON = {"enable_thinking": True, "thinking": True}
"""For templates that switch thinking; others do not look at these."""

_OPTIONS: list[Any] = [bounded(OllamaOptions.model_json_schema()), {"type": "null"}]
NAMES = {
    "max_tokens": "num_predict",
    "max_new_tokens": "num_predict",
    "repetition_penalty": "repeat_penalty",
    "json_schema": "format",
    "response_format": "format",
    "reasoning_effort": "think",
    "input_ids": "context",
}
"""What these routes call the fields of a chat body."""


class ModelBody(Body):
    """What all bodies share: ``model``, of which the reply repeats the name."""

    unsupported: ClassVar[Tolerated] = {}

    model: str = Field(min_length=1)
    options: dict[str, Any] | None = Field(default=None, json_schema_extra={"anyOf": _OPTIONS})
    keep_alive: str | float | None = None

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check an untrusted object; see ``Body.parse``."""
        body = super().parse(values)
        check_keep_alive(body.keep_alive)
        return body

    def checked_options(self) -> OllamaOptions:
        """The options.

        Raises:
            InvalidRequest: one that is wrong, or that this server does not support.
        """
        return OllamaOptions.parse(self.options or {})


class _GeneratingBody(ModelBody):
    unsupported: ClassVar[Tolerated] = {"truncate": (), "shift": ()}

    stream: bool = True
    format: str | dict[str, Any] | None = None
    think: bool | str | None = None
    logprobs: bool = False
    top_logprobs: int | None = None

    def _values(self) -> dict[str, Any]:
        """The fields of a chat body but its messages."""
        values = {**self.checked_options().sampling(), "model": self.model, "stream": self.stream}
        if self.logprobs or self.top_logprobs:
            values |= {"logprobs": self.logprobs, "top_logprobs": self.top_logprobs}
        return values | self._form() | self._thoughts()

    def _form(self) -> dict[str, Any]:
        if isinstance(self.format, dict):
            return {"json_schema": self.format}
        if self.format == "json":
            return {"response_format": {"type": "json_object"}}
        if self.format:
            raise InvalidRequest('format: must be "json" or a JSON Schema', param="format")
        return {}

    def _thoughts(self) -> dict[str, Any]:
        if self.think is None:
            return {}
        if self.think is True:
            return {"chat_template_kwargs": _SWITCHED_ON}
        if self.think is False:
            return {"reasoning_effort": "none"}
        if self.think not in _LEVELS:
            raise InvalidRequest(
                f"think: got {self.think!r:.60}; allowed: true, false, {', '.join(_LEVELS)}",
                param="think",
            )
        return {"reasoning_effort": self.think}


class OllamaChatBody(_GeneratingBody):
    """A request of ``/api/chat``. ``tool_choice`` is OpenAI's, which Ollama has not."""

    messages: list[dict[str, Any]] = Field(default_factory=list, max_length=MAX_MESSAGES)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None

    def chat(self) -> ChatBody:
        """The chat body that asks for the same.

        Raises:
            InvalidRequest: what this server does not take.
        """
        values = {**self._values(), "messages": chat_messages(self.messages)}
        last = values["messages"][-1]
        if last["role"] == "assistant" and not last.get("tool_calls"):
            values["continue_final_message"] = True
        if self.tools:
            values["tools"] = self.tools
        if self.tool_choice is not None:
            values["tool_choice"] = self.tool_choice
        return ChatBody.parse(values)


class OllamaGenerateBody(_GeneratingBody):
    """A request of ``/api/generate``.

    ``raw``: the prompt is the model's input as it is. ``context``: of an earlier reply, the tokens
    before this turn.
    """

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **_GeneratingBody.unsupported,
        **dict.fromkeys(("suffix", "template", "images", "width", "height", "steps"), ()),
    }

    prompt: str = ""
    system: str = ""
    raw: bool = False
    context: list[int] | None = None

    def chat(self) -> ChatBody:
        """The chat body that asks for the same, where the prompt is a user's turn.

        Raises:
            InvalidRequest: what this server does not take.
        """
        if self.raw:
            for name in ("system", "context", "think"):
                if getattr(self, name):
                    raise InvalidRequest(f"{name}: has no meaning with raw", param=name)
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, {"role": "user", "content": self.prompt}]
        values = {**self._values(), "messages": messages}
        return ChatBody.parse(values)


class OllamaEmbedBody(ModelBody):
    """A request of ``/api/embed``. ``truncate``: cut what is too long, else it is refused."""

    input: Texts
    truncate: bool = True
    dimensions: int | None = None


class OllamaEmbeddingsBody(ModelBody):
    """A request of ``/api/embeddings``."""

    prompt: str = ""


class OllamaShowBody(Body):
    """A request of ``/api/show``; ``name`` is the older word for ``model``."""

    unsupported: ClassVar[Tolerated] = dict.fromkeys(
        ("system", "template", "options", "verbose"), ()
    )

    model: str = ""
    name: str = ""
