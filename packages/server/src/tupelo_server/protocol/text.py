"""Bodies of ``/tokenize`` and ``/detokenize``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tupelo_server.protocol.fields import Body


class TokenizeBody(Body):
    """``prompt`` (a string or a list), or ``messages``."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {"tools": ()}

    model: str = ""
    prompt: str | list[str] | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    chat_template_kwargs: dict[str, Any] | None = None


class DetokenizeBody(Body):
    """``tokens``: ids, or a list of lists of ids."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    model: str = ""
    tokens: list[int] | list[list[int]]
    skip_special_tokens: bool = True
