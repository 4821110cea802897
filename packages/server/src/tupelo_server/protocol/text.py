"""Bodies of ``/tokenize`` and ``/detokenize``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from tupelo.request import MAX_MESSAGES
from tupelo_server.protocol.fields import Body, Ids, Texts
from tupelo_server.protocol.schemas import MESSAGES


class TokenizeBody(Body):
    """``prompt`` (a string or a list), or ``messages`` with ``tools``."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str = ""
    prompt: Texts | None = None
    messages: list[dict[str, Any]] | None = Field(
        default=None, max_length=MAX_MESSAGES, json_schema_extra=MESSAGES
    )
    tools: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False


class DetokenizeBody(Body):
    """``tokens``: ids, or a list of lists of ids."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str = ""
    tokens: Ids
    skip_special_tokens: bool = True
