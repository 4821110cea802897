"""The Responses API, which keeps what it was asked, for the tests of several dangers."""

from typing import Any

from tests.security.guarded import Guarded

ROUTE = "/v1/responses"
LONG = {"input": "the rain", "max_output_tokens": 400, "ignore_eos": True, "seed": 1}


def ended(server: Guarded, id: str, **more: Any) -> dict[str, Any]:
    """The response, when it has ended."""
    found: dict[str, Any] = {}

    def over() -> bool:
        found.update(server.get(f"{ROUTE}/{id}", **more).json())
        return found["status"] not in ("queued", "in_progress")

    server.wait_for(over, 30)
    return found
