"""OpenAI's chat completions, and whatever server has them, as a backend."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tupelo.lang.backends.base import Completion, Turn
from tupelo.lang.backends.http import Http
from tupelo.lang.backends.openai_form import chat_names, meta_of, tool_choice, turn_of
from tupelo.lang.backends.remote import RemoteBackend
from tupelo.lang.content import Prompt
from tupelo.lang.options import Sampling

OPENAI_URL = "https://api.openai.com/v1"
OPTIONS = frozenset(
    {
        "max_new_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "frequency_penalty",
        "presence_penalty",
        "sampling_seed",
        "json_schema",
    }
)


class OpenAI(RemoteBackend):
    """A model behind OpenAI's API.

    Args:
        model: its name there.
        api_key: of the account. Give it; the environment is not read.
        base_url: of another service with this API, up to and with ``/v1``.
        max_tokens_name: how the service calls the limit of tokens.
        headers: further ones of each request.
    """

    options = OPTIONS

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str = OPENAI_URL,
        *,
        max_tokens_name: str = "max_completion_tokens",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.name = f"OpenAI({model!r})"
        self._max_tokens_name = max_tokens_name
        key = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = Http(base_url, {**key, **(headers or {})})

    def complete(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """Go on with a conversation; one completion for each of ``n`` samples."""
        reply = self._ask(self._body(prompt, sampling))
        return [completion_of(reply, choice) for choice in reply["choices"]]

    def complete_stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Completion]:
        """Go on with a conversation; pieces of one completion as they come."""
        body = {
            **self._body(prompt, sampling),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for event in self._events(body):
            yield piece_of(event)

    def converse(
        self, prompt: Prompt, tools: Sequence[dict[str, Any]], choice: str, sampling: Sampling
    ) -> Turn:
        """The assistant's next turn in a conversation with tools."""
        body = self._body(prompt, sampling)
        return turn_of(
            self._ask({**body, "tools": list(tools), "tool_choice": tool_choice(choice)})
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": prompt.all_messages,
            **chat_body(sampling, self._max_tokens_name),
        }

    def _ask(self, body: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._http.post("/chat/completions", body)
        return found

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        return self._http.events("/chat/completions", body)


def chat_body(sampling: Sampling, max_tokens_name: str) -> dict[str, Any]:
    """Sampling as a chat's body has it."""
    values = chat_names(sampling)
    if "max_tokens" in values:
        values[max_tokens_name] = values.pop("max_tokens")
    if schema := values.pop("json_schema", None):
        form = json.loads(schema)
        named = {"name": "output", "schema": form, "strict": _closed(form)}
        values["response_format"] = {"type": "json_schema", "json_schema": named}
    return values


def _closed(schema: Any) -> bool:
    """Whether every object in a schema lists all that it has, which is what strict ones must."""
    if isinstance(schema, list):
        return all(_closed(part) for part in schema)
    if not isinstance(schema, dict):
        return True
    if "properties" in schema:
        named = set(schema["properties"]) == set(schema.get("required", ()))
        if not named or schema.get("additionalProperties") is not False:
            return False
    return all(_closed(part) for part in schema.values())


def completion_of(reply: Mapping[str, Any], choice: Mapping[str, Any]) -> Completion:
    """One choice of a reply."""
    message = choice["message"]
    return Completion(
        message.get("content") or "",
        meta_of(reply, choice),
        message.get("reasoning_content") or "",
    )


def piece_of(event: Mapping[str, Any]) -> Completion:
    """One event of a stream."""
    choice: Mapping[str, Any] = next(iter(event.get("choices") or ()), {})
    delta = choice.get("delta") or {}
    over = choice.get("finish_reason") or event.get("usage")
    return Completion(
        delta.get("content") or "",
        meta_of(event, choice) if over else {},
        delta.get("reasoning_content") or "",
    )
