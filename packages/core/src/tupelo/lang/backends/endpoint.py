"""A server of Tupelo, or any that has SGLang's ``/generate``, as a backend."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tupelo.lang.backends.base import Turn
from tupelo.lang.backends.http import Http
from tupelo.lang.backends.native import NativeBackend, Reply
from tupelo.lang.backends.openai_form import chat_names, tool_choice, turn_of
from tupelo.lang.content import Message, Prompt
from tupelo.lang.options import Sampling

_NATIVE_DEFAULTS: Sampling = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}
"""Of ``/generate``; chats would have the model's own."""


class RuntimeEndpoint(NativeBackend):
    """A server at an address.

    Args:
        base_url: such as ``http://localhost:30000``.
        api_key: if the server wants one.
        verify: whether, or with which file of authorities, certificates are checked.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, verify: bool | str | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.base_url = base_url.rstrip("/")
        self.name = f"the server at {self.base_url}"
        self._http = Http(self.base_url, headers, verify=True if verify is None else verify)

    @cached_property
    def model_info(self) -> Mapping[str, Any]:
        """What ``/model_info`` tells."""
        found: Mapping[str, Any] = self._http.get("/model_info")
        return found

    def encode_texts(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids of texts."""
        body = {"prompt": list(texts), "add_special_tokens": special}
        found: list[list[int]] = self._http.post("/tokenize", body)["tokens"]
        return found

    def decode_ids(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        body = {"tokens": list(ids), "skip_special_tokens": False}
        return str(self._http.post("/detokenize", body)["text"])

    def render_ids(self, messages: Sequence[Message], *, opens: bool, continues: bool) -> list[int]:
        """Ids of a conversation."""
        body = {
            "messages": list(messages),
            "add_generation_prompt": opens,
            "continue_final_message": continues,
        }
        found: list[int] = self._http.post("/tokenize", body)["tokens"]
        return found

    def call(self, **body: Any) -> list[Reply]:
        """Replies of ``/generate``."""
        found = self._http.post("/generate", body)
        return found if isinstance(found, list) else [found]

    def call_stream(self, **body: Any) -> Iterator[Reply]:
        """Cumulative replies of ``/generate``."""
        return self._http.events("/generate", {**body, "stream": True})

    def converse(
        self, prompt: Prompt, tools: Sequence[dict[str, Any]], choice: str, sampling: Sampling
    ) -> Turn:
        """The assistant's next turn, taken apart by the server."""
        body = {
            "model": "default",
            "messages": list(prompt.messages),
            "tools": list(tools),
            "tool_choice": tool_choice(choice),
            "return_meta_info": True,
            **chat_names({**_NATIVE_DEFAULTS, **sampling}),
        }
        return turn_of(self._http.post("/v1/chat/completions", body))

    def flush_cache(self) -> bool:
        """Empty the prefix cache."""
        self._http.post("/flush_cache")
        return True

    def server_info(self) -> dict[str, Any]:
        """What ``/server_info`` tells."""
        return dict(self._http.get("/server_info"))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
