"""Bodies of ``/v1/chat/completions``."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_MESSAGES, check_count
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Delta
from tupelo_server.protocol.fields import ANY, COMMON_UNSUPPORTED, SamplingBody
from tupelo_server.protocol.openai import Reply, finish_fields
from tupelo_server.rows import Row

ROLES = ("system", "developer", "user", "assistant")
_MESSAGE_FIELDS = frozenset({"role", "content", "name", "reasoning_content"})
_MESSAGE_NULLS = frozenset(
    {"refusal", "annotations", "audio", "function_call", "tool_calls", "tool_call_id"}
)
_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **COMMON_UNSUPPORTED,
    "user": ANY,
    "metadata": ANY,
    "safety_identifier": ANY,
    "prompt_cache_key": ANY,
    "prompt_cache_options": ANY,
    "prompt_cache_retention": ANY,
    "parallel_tool_calls": ANY,
    "separate_reasoning": ANY,
    "stream_reasoning": ANY,
    "service_tier": ("auto", "default"),
    "store": (),
    "tools": (),
    "tool_choice": ("none", "auto"),
    "functions": (),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "reasoning": (),
    "verbosity": (),
    "web_search_options": (),
    "input_ids": (),
    "chat_template": (),
    "echo": (),
    "best_of": (1,),
}
"""What has no effect by its definition (``ANY``), or asks for nothing at these values."""


class ChatBody(SamplingBody):
    """A request. ``messages`` keep their form; ``checked_messages`` looks into them."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _UNSUPPORTED

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "ChatBody":
        """Check an untrusted object; tools that may not be called are left out.

        Raises:
            SchemaError, InvalidRequest: see ``Body.parse``.
        """
        if values.get("tool_choice") == "none":
            values = {name: value for name, value in values.items() if name != "tools"}
        return super().parse(values)

    @property
    def limit(self) -> tuple[str, int | None]:
        """The name and value of the limit on tokens; None fills the context.

        Raises:
            InvalidRequest: the two fields for it contradict each other.
        """
        if self.max_completion_tokens is None:
            return "max_tokens", self.max_tokens
        if self.max_tokens is not None and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest(
                "max_tokens and max_completion_tokens contradict each other; give one",
                param="max_completion_tokens",
            )
        return "max_completion_tokens", self.max_completion_tokens

    @property
    def num_top(self) -> int:
        """Alternatives a token.

        Raises:
            InvalidRequest: some are asked for without ``logprobs``.
        """
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        return self.top_logprobs or 0

    def checked_messages(self) -> list[dict[str, Any]]:
        """The conversation, without nulls.

        Raises:
            InvalidRequest: a role, a field or a part that this server does not take.
        """
        check_count("messages", _num_parts(self.messages), MAX_MESSAGES)
        messages = [_message(f"messages[{i}]", m) for i, m in enumerate(self.messages)]
        if self.continue_final_message and messages[-1]["role"] != "assistant":
            raise InvalidRequest(
                "continue_final_message needs the last message to be the assistant's",
                param="continue_final_message",
            )
        return messages


class ChatChoices:
    """Turns deltas into the choices of a reply, or of its chunks."""

    def __init__(self, tokenizer: Tokenizer, *, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._begun: set[int] = set()

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The choice of a folded sample."""
        return {
            "index": delta.index,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": self._rows(delta.rows) if self._logprobs else None,
            **finish_fields(delta),
        }

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The role first, then what is new, at last the reason of the end on its own."""
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            yield self._chunk(delta.index, {"role": "assistant", "content": ""})
        if delta.text or delta.rows:
            rows = self._rows(delta.rows) if self._logprobs else None
            yield self._chunk(delta.index, {"content": delta.text}, rows)
        if delta.end is not None:
            yield {**self._chunk(delta.index, {}), **finish_fields(delta)}

    def _chunk(self, index: int, delta: dict[str, Any], rows: Any = None) -> dict[str, Any]:
        return {
            "index": index,
            "delta": delta,
            "logprobs": rows,
            "finish_reason": None,
        }

    def _rows(self, rows: list[Row]) -> dict[str, Any]:
        return {"content": [self._row(row) for row in rows if row.shown], "refusal": None}

    def _row(self, row: Row) -> dict[str, Any]:
        tokenizer = self._tokenizer
        return {
            "token": row.text,
            "logprob": row.logprob,
            "bytes": list(row.raw),
            "top_logprobs": [
                {
                    "token": tokenizer.token_text(token_id),
                    "logprob": logprob,
                    "bytes": list(tokenizer.bytes_of(token_id)),
                }
                for token_id, logprob in row.top
            ],
        }


def chat_reply(reply: Reply, choices: ChatChoices, deltas: list[Delta]) -> dict[str, Any]:
    """The unstreamed reply."""
    reply.count(deltas)
    return {**reply.body([choices.whole(delta) for delta in deltas]), "usage": reply.usage()}


def _num_parts(messages: list[dict[str, Any]]) -> int:
    """Messages, where one in parts counts as many as it has."""
    contents = (message.get("content") for message in messages)
    return sum(len(c) if isinstance(c, list) else 1 for c in contents)


def _message(place: str, message: dict[str, Any]) -> dict[str, Any]:
    clean = {name: value for name, value in message.items() if value is not None}
    role = clean.get("role")
    if role not in ROLES:
        raise InvalidRequest(
            f"{place}.role: got {role!r:.60}; allowed: {', '.join(ROLES)}", param=f"{place}.role"
        )
    for name in clean:
        if name in _MESSAGE_NULLS and not clean[name]:
            continue
        if name not in _MESSAGE_FIELDS:
            raise InvalidRequest(
                f"{place}.{name:.60} is not supported by this server", param=f"{place}.{name:.60}"
            )
    content = clean.get("content")
    if isinstance(content, list):
        for number, part in enumerate(content):
            _check_part(f"{place}.content[{number}]", part)
    elif not isinstance(content, str):
        raise InvalidRequest(
            f"{place}.content: must be a string or a list of text parts", param=f"{place}.content"
        )
    for name in ("name", "reasoning_content"):
        if not isinstance(clean.get(name, ""), str):
            raise InvalidRequest(f"{place}.{name}: must be a string", param=f"{place}.{name}")
    return {name: value for name, value in clean.items() if name in _MESSAGE_FIELDS}


def _check_part(place: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind is None:
        raise InvalidRequest(f"{place}: must be an object with a type", param=place)
    if kind != "text":
        raise InvalidRequest(
            f"{place}.type: {kind!r:.60} is not supported by this server; allowed: text",
            param=f"{place}.type",
        )
    if not isinstance(part.get("text"), str):
        raise InvalidRequest(f"{place}.text: must be a string", param=f"{place}.text")
