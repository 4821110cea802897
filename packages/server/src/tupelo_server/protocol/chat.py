"""Bodies of ``/v1/chat/completions``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from tupelo.errors import InvalidRequest
from tupelo.request import MAX_MESSAGES, check_count
from tupelo_server.protocol.fields import ANY, COMMON_UNSUPPORTED, SamplingBody
from tupelo_server.protocol.messages import checked_messages
from tupelo_server.protocol.schemas import MESSAGES
from tupelo_server.tools import ToolUse, tool_use

_UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    **COMMON_UNSUPPORTED,
    "user": ANY,
    "metadata": ANY,
    "safety_identifier": ANY,
    "prompt_cache_key": ANY,
    "prompt_cache_options": ANY,
    "prompt_cache_retention": ANY,
    "service_tier": ("auto", "default"),
    "store": (),
    "functions": (),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "moderation": (),
    "prediction": (),
    "reasoning": (),
    "verbosity": (),
    "web_search_options": (),
    "echo": (),
    "suffix": (),
    "thinking": (),
    "task": (),
    "return_input_ids_in_sglext": (),
    "return_output_ids_in_sglext": (),
    "best_of": (1,),
}
"""What has no effect by its definition (``ANY``), or asks for nothing at these values."""


class ChatBody(SamplingBody):
    """A request. ``messages`` keep their form; ``checked_messages`` looks into them."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = _UNSUPPORTED

    messages: list[dict[str, Any]] = Field(
        min_length=1, max_length=MAX_MESSAGES, json_schema_extra=MESSAGES
    )
    max_tokens: int | None = None
    session_params: dict[str, Any] | None = None
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
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool = True
    separate_reasoning: bool = True
    stream_reasoning: bool = True
    reasoning_effort: str | None = None
    max_thinking_tokens: int | None = Field(
        default=None, description="behind so many tokens of thoughts they are ended"
    )

    @property
    def tool_use(self) -> ToolUse:
        """The tools, and which of them are to be called.

        Raises:
            InvalidRequest: see ``tools.tool_use``.
        """
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

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
        messages = checked_messages(self.messages)
        if self.continue_final_message and messages[-1]["role"] != "assistant":
            raise InvalidRequest(
                "continue_final_message needs the last message to be the assistant's",
                param="continue_final_message",
            )
        return messages


def _num_parts(messages: list[dict[str, Any]]) -> int:
    """Messages, where one in parts counts as many as it has."""
    contents = (message.get("content") for message in messages)
    return sum(len(c) if isinstance(c, list) else 1 for c in contents)
