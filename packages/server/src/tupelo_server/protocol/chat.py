"""Bodies of ``/v1/chat/completions``."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_MESSAGES, check_count
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Delta, Job
from tupelo_server.protocol.fields import ANY, COMMON_UNSUPPORTED, SamplingBody
from tupelo_server.protocol.meta import MetaInfo
from tupelo_server.protocol.openai import finish_fields
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
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "reasoning": (),
    "verbosity": (),
    "web_search_options": (),
    "echo": (),
    "suffix": (),
    "thinking": (),
    "task": (),
    "max_dynamic_patch": (),
    "min_dynamic_patch": (),
    "use_audio_in_video": (),
    "return_input_ids_in_sglext": (),
    "return_output_ids_in_sglext": (),
    "return_flat_raw_output_top_logprobs": (),
    "sampling_logprobs_mode": (),
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
    input_ids: list[int] | None = Field(
        default=None, description="the prompt as it is; messages are not rendered then"
    )
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    return_prompt_token_ids: bool = False
    return_meta_info: bool = False

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

    def template(self, *, trusted: bool) -> tuple[str | None, dict[str, Any]]:
        """The chat template that the client brings, if any, and its variables.

        Args:
            trusted: whether this server renders templates of clients.

        Raises:
            InvalidRequest: it does not, or there are two.
        """
        variables = dict(self.chat_template_kwargs or {})
        inner = variables.pop("chat_template", None)
        if inner is not None and (self.chat_template or not isinstance(inner, str)):
            raise InvalidRequest(
                "chat_template_kwargs.chat_template: must be a string, and the only template",
                param="chat_template_kwargs",
            )
        found = self.chat_template or inner or None
        if found and not trusted:
            raise InvalidRequest(
                "chat_template: this server renders no templates of clients; its option "
                "--trust-request-chat-template makes it",
                param="chat_template",
            )
        return found, variables

    @property
    def opens_reply(self) -> bool:
        """Whether the prompt ends with the opening of the assistant's turn.

        Raises:
            InvalidRequest: it shall, and the last message shall go on.
        """
        if self.add_generation_prompt and self.continue_final_message:
            raise InvalidRequest(
                "add_generation_prompt and continue_final_message exclude each other",
                param="add_generation_prompt",
            )
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

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
    """Turns deltas into the choices of a reply, or of its chunks.

    Args:
        tokenizer: of the model. job: what is replied to.
        logprobs: whether choices have log-probabilities.
        prompt_ids, token_ids: whether they tell the ids of the prompt, and of their own tokens.
        meta: describes samples as the native API does; None for replies that do not.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        job: Job,
        *,
        logprobs: bool,
        prompt_ids: bool = False,
        token_ids: bool = False,
        meta: MetaInfo | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._prompt_ids = job.prompt.ids if prompt_ids else None
        self._token_ids = token_ids
        self._meta = meta
        self._begun: set[int] = set()
        self._so_far: dict[int, Delta] = {}

    def whole(self, delta: Delta) -> dict[str, Any]:
        """The choice of a folded sample."""
        choice = {
            "index": delta.index,
            "message": {"role": "assistant", "content": delta.text, "refusal": None},
            "logprobs": self._rows(delta.rows) if self._logprobs else None,
            **finish_fields(delta),
        }
        if self._prompt_ids is not None:
            choice["prompt_token_ids"] = self._prompt_ids
        if self._token_ids:
            choice["response_token_ids"] = delta.token_ids
        if self._meta is not None:
            choice["meta_info"] = self._meta.of(delta)
        return choice

    def chunks(self, delta: Delta) -> Iterator[dict[str, Any]]:
        """The role first, then what is new, at last the reason of the end on its own.

        Ids of the prompt come with the role, the sample's own with what they made, and
        ``meta_info`` with the end.
        """
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            opening = self._chunk(delta.index, {"role": "assistant", "content": ""})
            if self._prompt_ids is not None:
                opening["prompt_token_ids"] = self._prompt_ids
            yield opening
        if delta.text or delta.rows or (self._token_ids and delta.token_ids):
            rows = self._rows(delta.rows) if self._logprobs else None
            chunk = self._chunk(delta.index, {"content": delta.text}, rows)
            if self._token_ids:
                chunk["response_token_ids"] = delta.token_ids
            yield chunk
        meta = None if self._meta is None else self._meta.of(self._fold(delta))
        if delta.end is not None:
            last = {**self._chunk(delta.index, {}), **finish_fields(delta)}
            yield last if meta is None else {**last, "meta_info": meta}

    def _fold(self, delta: Delta) -> Delta:
        """Everything so far of a sample."""
        known = self._so_far.get(delta.index)
        if known is None:
            known = self._so_far[delta.index] = replace(
                delta, rows=list(delta.rows), token_ids=list(delta.token_ids)
            )
        else:
            known.add(delta)
        return known

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
