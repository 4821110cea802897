"""Services behind the library LiteLLM, which has to be installed beside Tupelo."""

from collections.abc import Iterator
from typing import Any

from tupelo.errors import ProgramError, RequestError
from tupelo.lang.backends.openai import OpenAI


class LiteLLM(OpenAI):
    """A model as LiteLLM names it, such as ``anthropic/claude-…``.

    Args:
        model: its name there.
        options: of every call, such as ``api_key`` and ``api_base``.

    Raises:
        ProgramError: the library is not installed.
    """

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(model, max_tokens_name="max_tokens")
        try:
            import litellm
            import openai  # what the library's errors stem from
        except ImportError:
            raise ProgramError("LiteLLM() needs the library: pip install litellm") from None
        self.name = f"LiteLLM({model!r})"
        self._library: Any = litellm
        self._failed: type[Exception] = openai.OpenAIError
        self._options = options

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self._complete(body).model_dump())

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for event in self._complete(body):
            yield event.model_dump()

    def _complete(self, body: dict[str, Any]) -> Any:
        try:
            return self._library.completion(**body, **self._options)
        except self._failed as error:
            raise RequestError(f"{self.name}: {error}") from error
