"""Odd requests: good ones with one or a few things wrong, in the body, the head or the path.

Each request follows from its number alone, so that one that does harm can be sent again.
"""

import json
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

CHAT = [{"role": "user", "content": "the rain"}, {"role": "assistant", "content": "in spain"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

SEEDS: dict[str, list[dict[str, Any]]] = {
    "/v1/completions": [
        {"prompt": "the rain", "max_tokens": 4},
        {"prompt": ["a", "b"], "max_tokens": 3, "n": 2, "logprobs": 2, "echo": True},
        {"prompt": [5, 6, 7], "max_tokens": 4, "stream": True, "stop": ["ab", "c"]},
        {"prompt": [[5], [6, 7]], "max_tokens": 2, "logit_bias": {"7": 3}, "seed": 1},
        {"prompt": "a", "max_tokens": 6, "regex": "[ab]{2,4}"},
        {"prompt": "a", "max_tokens": 4, "stream": True, "stream_options": {"include_usage": True}},
        {"prompt": "a", "max_tokens": 4, "top_p": 0.5, "min_p": 0.1, "frequency_penalty": 0.5},
    ],
    "/v1/chat/completions": [
        {"messages": CHAT[:1], "max_tokens": 4},
        {"messages": CHAT, "max_tokens": 4, "continue_final_message": True},
        {"messages": CHAT[:1], "max_tokens": 3, "logprobs": True, "top_logprobs": 3, "n": 2},
        {"messages": CHAT[:1], "max_tokens": 8, "response_format": {"type": "json_object"}},
        {
            "messages": CHAT[:1],
            "max_tokens": 8,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            },
            "stream": True,
        },
        {"messages": CHAT[:1], "max_tokens": 4, "tools": [TOOL], "tool_choice": "auto"},
        {"messages": CHAT[:1], "max_tokens": 4, "chat_template_kwargs": {"a": 1}},
    ],
    "/generate": [
        {"text": "a", "sampling_params": {"max_new_tokens": 4}},
        {"text": ["a", "b"], "sampling_params": {"max_new_tokens": 2, "n": 2}, "rid": ["x", "y"]},
        {"input_ids": [[5], [6]], "sampling_params": [{"max_new_tokens": 1}, {}]},
        {"input_ids": [5, 6], "return_logprob": True, "logprob_start_len": 0, "stream": True},
        {"text": "a", "sampling_params": {"max_new_tokens": 5, "ebnf": 'root ::= "a" | "b"'}},
    ],
    "/v1/messages": [{"messages": CHAT[:1], "max_tokens": 4, "model": "tiny"}],
    "/api/chat": [
        {"model": "tiny", "messages": CHAT, "options": {"num_predict": 4, "seed": 1}},
        {"model": "tiny", "messages": CHAT[:1], "options": {"num_predict": 8}, "format": SCHEMA},
    ],
    "/api/generate": [
        {"model": "tiny", "prompt": "a", "raw": True, "options": {"num_predict": 4}},
        {"model": "tiny", "prompt": "a", "context": [5, 6], "options": {"num_ctx": 100}},
    ],
    "/v1/responses": [
        {"input": "the rain", "max_output_tokens": 4},
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "b"},
            ],
            "max_output_tokens": 4,
            "stream": True,
            "tools": [{"type": "function", **TOOL["function"]}],  # type: ignore[dict-item]
        },
        {
            "input": "a",
            "max_output_tokens": 8,
            "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
            "store": False,
        },
        {"input": "a", "max_output_tokens": 4, "background": True, "stream": True},
        {"input": "a", "max_output_tokens": 4, "background": True, "metadata": {"a": "b"}},
    ],
    "/tokenize": [{"prompt": "a"}, {"messages": CHAT}, {"prompt": ["a", "b"]}],
    "/detokenize": [{"tokens": [5, 6]}, {"tokens": [[5], [6]]}],
    "/abort_request": [{"rid": "nobody"}],
    "/v1/embeddings": [{"input": "a"}],
    "/v1/rerank": [{"query": "a", "documents": ["b", "c"]}],
    "/v1/score": [{"query": "a", "items": ["b"], "label_token_ids": [5, 6]}],
    "/v1/classify": [{"input": "a"}],
    "/parse_function_call": [{"text": "a", "tools": [TOOL], "tool_call_parser": "hermes"}],
    "/separate_reasoning": [{"text": "<think>a</think>b", "reasoning_parser": "deepseek-r1"}],
    "/update_weights_from_disk": [{"model_path": "x"}],
    "/configure_logging": [{"log_requests": True}],
}

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 128, 2**31, -(2**31), 2**53, 2**63, 2**64, 10**30, 0.5, -0.0,
    1e-300, 1e308, "", "a", "0", "1", "null", "true", "a" * 5000, "\0", "\n", "\ufffd",
    "\U0001f642",
    "漢字", "\u202e", "{{7*7}}", "${a}", "../..", "<|im_start|>", "%s%n", "(a+)+$", "[", "\\",
    [], {}, [[]], [{}], [None], [0], [""], {"": ""}, {"a": None}, {"type": "text"}, [[[[[]]]]],
    {"$ref": "#"}, {"type": "object", "additionalProperties": {"$ref": "#"}}, ["a"] * 50, [7] * 600,
    {"role": "user", "content": "x"}, [{"type": "image_url", "image_url": {"url": "data:,"}}],
    "data:image/png;base64,AAAA", "file:///etc/passwd", "https://127.0.0.1/x",
]  # fmt: skip
NAMES = [
    "", "a", "__class__", "__proto__", "constructor", "model", "n", "stream", "rid", "priority",
    "tools",
    "tool_choice", "response_format", "regex", "ebnf", "json_schema", "structural_tag",
    "stop_regex",
    "image_data", "input_embeds", "lora_path", "best_of", "user", "metadata", "logprobs", "echo",
    "stream_options", "max_completion_tokens", "cache_salt", "extra_key", "custom_labels", "\0",
    "token_ids_logprob", "return_token_ids", "reasoning_effort", "separate_reasoning", "x" * 3000,
]  # fmt: skip
HEADERS: list[tuple[str, str]] = [
    ("content-type", "text/plain"), ("content-type", "application/json; charset=utf-16"),
    ("content-type", "multipart/form-data; boundary=a"), ("content-encoding", "gzip"),
    ("accept", "image/png"), ("accept-encoding", "zstd;q=9"), ("expect", "100-continue"),
    ("authorization", "Bearer"), ("authorization", "Basic a"), ("authorization", "a" * 3000),
    ("x-request-id", "a" * 2000), ("x-request-timeout-s", "0"), ("x-request-timeout-s", "nan"),
    ("x-request-timeout-s", "1e9"), ("x-request-timeout-s", "5"), ("x-tupelo-timing", "1"),
    ("x-tupelo-timing", "maybe"), ("cookie", "a=b; " * 200), ("host", "x/?"), ("range", "bytes=9-"),
    ("upgrade", "h2c"), ("connection", "keep-alive, upgrade"), ("te", "trailers"), ("origin",
    "null"),
    ("x-forwarded-for", "127.0.0.1"), ("content-length", "7"), ("if-match", "*"), ("a" * 900, "b"),
]  # fmt: skip
PATHS = [
    "/", "//", "/v1", "/v1/", "/v1/models", "/v1/models/x", "/v1/models/%00", "/v1/models/..%2f..",
    "/api/tags", "/api/show", "/api/pull", "/api/delete", "/api",
    "/health", "/ready", "/metrics", "/server_info", "/model_info", "/openapi.json", "/docs",
    "/v1/loads",
    "/v1/loads?include=all&format=prometheus", "/v1/loads?dp_rank=x", "/flush_cache", "/get_load",
    "/flush_cache?timeout=x", "/flush_cache?timeout=-1", "/start_profile", "/stop_profile", "/%",
    "/weight_version", "/v1/completions/", "/V1/completions", "/generate?a=b&a=c",
    "/health_generate",
    "/v1/responses", "/v1/responses/x", "/v1/responses/x?stream=true&starting_after=-1",
    "/v1/responses/x/cancel", "/v1/responses/x/input_items?limit=x", "/v1/responses/%00",
    "/invocations", "/.env", "/v1/chat/completions?stream=1",
    "/v1/messages/batches",
]  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]


@dataclass
class Odd:
    """One request, as bytes go over the wire but for the head's usual lines."""

    method: str
    path: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    leave_after: int | None = None
    """Bytes of the reply after which the client is gone; None reads it all."""


def odd(number: int) -> Odd:
    """Request ``number``: three of four have an odd body, the rest an odd head or path."""
    draw = random.Random(number)
    if draw.random() < 0.12:
        request = Odd(draw.choice(METHODS), draw.choice(PATHS), body=b"{}" * draw.randrange(2))
    else:
        path = draw.choice([*SEEDS, *list(SEEDS)[:3] * 4])
        value = deepcopy(draw.choice(SEEDS[path]))
        if path in GOOD:
            _season(draw, value if path != "/generate" else value.get("sampling_params"), path)
        for _ in range(draw.choice([0, 0, 0, 1, 1, 1, 2, 3, 5])):
            _spoil(draw, value)
        request = Odd("PUT" if draw.random() < 0.02 else "POST", path, body=_written(draw, value))
    while draw.random() < 0.15:
        request.headers.append(draw.choice(HEADERS))
    if draw.random() < 0.08:
        request.leave_after = draw.choice([0, 0, 1, 200, 2000])
    return request


def _season(draw: random.Random, value: Any, path: str) -> None:
    """Add some good parameters, of any number that is allowed."""
    if not isinstance(value, dict):
        return
    for name in draw.sample(sorted(GOOD[path]), draw.randrange(5)):
        value.setdefault(name, GOOD[path][name](draw))


_SAMPLING: dict[str, Callable[[random.Random], Any]] = {
    "temperature": lambda draw: draw.choice([0, 0.1, 1, 2.5, 1e4, 1e-7]),
    "top_p": lambda draw: draw.choice([1e-9, 0.3, 0.999, 1]),
    "top_k": lambda draw: draw.choice([-1, 1, 2, 50, 2**31 - 1]),
    "min_p": lambda draw: draw.choice([0, 0.2, 1]),
    "frequency_penalty": lambda draw: draw.uniform(-2, 2),
    "presence_penalty": lambda draw: draw.uniform(-2, 2),
    "repetition_penalty": lambda draw: draw.choice([1e-6, 0.5, 1, 2]),
    "logit_bias": lambda draw: {str(draw.randrange(320)): draw.uniform(-100, 100)},
    "stop": lambda draw: draw.choice(["a", [" ", "\n"], "漢", ["x" * 1024] * 32, []]),
    "stop_token_ids": lambda draw: [draw.randrange(320) for _ in range(draw.randrange(9))],
    "ignore_eos": lambda draw: draw.random() < 0.5,
    "no_stop_trim": lambda draw: draw.random() < 0.5,
    "skip_special_tokens": lambda draw: draw.random() < 0.5,
    "n": lambda draw: draw.choice([1, 1, 2, 7]),
}
_OPENAI: dict[str, Callable[[random.Random], Any]] = {
    **_SAMPLING,
    "seed": lambda draw: draw.randrange(-(2**63), 2**63),
    "min_tokens": lambda draw: draw.randrange(3),
    "stream": lambda draw: draw.random() < 0.5,
    "cache_salt": lambda draw: draw.choice(["", "x", "/" * 100]),
    "rid": lambda draw: draw.choice(["same", "x" * 256, "\n"]),
}
_NOT_RESPONSES = {"n", "no_stop_trim", "skip_special_tokens", "rid"}
GOOD = {
    "/v1/completions": _OPENAI,
    "/v1/chat/completions": _OPENAI,
    "/v1/responses": {name: make for name, make in _OPENAI.items() if name not in _NOT_RESPONSES},
    "/generate": {**_SAMPLING, "sampling_seed": _OPENAI["seed"], "min_new_tokens": lambda d: 1},
}


def _spoil(draw: random.Random, root: dict[str, Any]) -> None:
    """Change one place somewhere in a value."""
    holder: Any = root
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys or draw.random() < 0.1:
            break
        key = draw.choice(keys)
        inner = holder[key]
        if isinstance(inner, dict | list) and inner and draw.random() < 0.7:
            holder = inner
            continue
        change = draw.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1:
            holder[key] = [inner]
        elif change == 2 and isinstance(inner, str):
            holder[key] = inner * draw.choice([0, 2, 50])
        else:
            holder[key] = deepcopy(draw.choice(VALUES))
        return
    if isinstance(holder, dict):
        holder[draw.choice(NAMES)] = deepcopy(draw.choice(VALUES))
    else:
        holder.append(deepcopy(draw.choice(VALUES)))


def _written(draw: random.Random, value: Any) -> bytes:
    """As JSON, now and then as JSON that was damaged on the way."""
    text = json.dumps(value, ensure_ascii=draw.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.12:
        place = draw.randrange(len(data) + 1)
        noise = draw.randbytes(draw.randrange(1, 9))
        data = draw.choice(
            [
                data[:place],
                data[:place] + noise + data[place:],
                data + data,
                data.replace(b'"', b"'"),
                data.replace(b":", b":NaN,", 1),
                b"[" * draw.choice([1, 2000]) + data,
                text.encode("utf-16"),
                data.replace(b"a", b"\\ud800", 1),
            ]
        )
    return data
