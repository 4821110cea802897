"""What the OpenAPI document says of fields beyond their types: bounds, and the form of what the
bodies take as it comes and look into themselves."""

from typing import Any

from tupelo.request import INTEGERS, MAX_INT32, MAX_TOP_LOGPROBS, NUMBERS

_TEXT = {"type": "string"}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}

PROMPT: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        {"type": "array", "items": _TEXT, "minItems": 1},
        {**_IDS, "minItems": 1},
        {"type": "array", "items": {**_IDS, "minItems": 1}, "minItems": 1},
    ]
}
"""One text or several, ids of one or of several."""

MESSAGES: dict[str, Any] = {
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
            "content": {
                "anyOf": [
                    _TEXT,
                    {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["type", "text"],
                            "properties": {"type": {"const": "text"}, "text": _TEXT},
                        },
                    },
                    {"type": "null"},
                ]
            },
            "name": _TEXT,
        },
    }
}
"""Of a conversation's messages what all roles share."""

_BOUNDS: dict[str, tuple[float, float]] = {
    **INTEGERS,
    **NUMBERS,
    "max_tokens": INTEGERS["max_new_tokens"],
    "max_completion_tokens": INTEGERS["max_new_tokens"],
    "min_tokens": INTEGERS["min_new_tokens"],
    "sampling_seed": INTEGERS["seed"],
    "logprobs": (0, MAX_TOP_LOGPROBS),
    "top_logprobs": (0, MAX_TOP_LOGPROBS),
    "top_logprobs_num": (0, MAX_TOP_LOGPROBS),
    "priority": (-MAX_INT32, MAX_INT32),
}
"""By the names that clients use."""


def bounded(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object, with the bounds of its numbers from ``tupelo.request``; changed in
    place."""
    for name, field in schema.get("properties", {}).items():
        low_high = _BOUNDS.get(name)
        for part in field.get("anyOf", [field]):
            if low_high is not None and part.get("type") in ("integer", "number"):
                part["minimum"], part["maximum"] = low_high
    return schema


SAMPLING: dict[str, Any] = bounded(
    {
        "type": "object",
        "properties": {
            **{name: {"type": "integer"} for name in INTEGERS if name != "seed"},
            **{name: {"type": "number"} for name in NUMBERS},
            "sampling_seed": {"type": "integer"},
            "stop": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": 32}]},
            "stop_token_ids": _IDS,
            "ignore_eos": {"type": "boolean"},
            "logit_bias": {"type": "object", "additionalProperties": {"type": "number"}},
        },
    }
)
"""``sampling_params`` of the native routes."""
