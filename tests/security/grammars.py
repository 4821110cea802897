"""Grammars over HTTP, on every route that takes one."""

import json
from typing import Any

from tests.security.guarded import Guarded

ROUTES = ("/v1/chat/completions", "/v1/completions", "/generate")

EXPLODING = r"((.|\w)*[a-m](.|\w){3,300}){1,50}Z"
"""Its automaton outgrows its bounds after some two hundred random characters."""


def body_for(route: str, field: str, value: Any, **more: Any) -> dict[str, Any]:
    """A request for at most 24 tokens under a grammar; ``more`` goes beside it."""
    options = {"max_tokens": 24, "seed": 3, "temperature": 1.0, **more}
    if route == "/generate":
        options["max_new_tokens"] = options.pop("max_tokens")
        options["sampling_seed"] = options.pop("seed")
        stream = options.pop("stream", False)
        text = value if isinstance(value, str) else json.dumps(value)
        return {"text": "the", "sampling_params": {**options, field: text}, "stream": stream}
    if route == "/v1/completions":
        text = value if isinstance(value, str) else json.dumps(value)
        return {"prompt": "the", field: text, **options}
    messages = [{"role": "user", "content": "the"}]
    if field == "json_schema" and not isinstance(value, str):
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": value}}
        return {"messages": messages, "response_format": form, **options}
    text = value if isinstance(value, str) else json.dumps(value)
    return {"messages": messages, field: text, **options}


def text_of(route: str, reply: dict[str, Any]) -> str:
    """The text of an unstreamed reply."""
    if route == "/generate":
        return str(reply["text"])
    choice = reply["choices"][0]
    return str(choice["text"] if route == "/v1/completions" else choice["message"]["content"])


def reason_of(route: str, reply: dict[str, Any]) -> str:
    """Why it ended."""
    if route == "/generate":
        return str(reply["meta_info"]["finish_reason"]["type"])
    return str(reply["choices"][0]["finish_reason"])


def warm(server: Guarded) -> None:
    """Have a process for grammars started, which the first grammar of a server waits for."""
    reply = server.post("/v1/completions", body_for("/v1/completions", "regex", "a"))
    assert reply.status_code == 200, reply.text


def events(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream, but for its ``[DONE]``."""
    lines = [line[6:] for line in stream.split(b"\n\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]
