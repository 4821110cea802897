"""What request bodies may take: each by itself, and all that are being read together."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive, Scope

from tupelo.errors import QueueFull
from tupelo_server.errors import BodyTooLarge

BODIES_AT_ONCE = 16
"""So many bodies of the largest size may be arriving at a time; smaller ones as many more."""


class Intake:
    """Limits on bodies. One for a server, used by its event loop."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._total_bytes = 0

    @contextmanager
    def reading(self, scope: Scope, receive: Receive) -> Iterator[Receive]:
        """``receive`` that refuses a body longer than the limit, announced or not, and one for
        which there is no room beside others that are only half there.

        Raises:
            BodyTooLarge: at once if the announced length is above the limit.
        """
        limit = self._max_body_bytes
        refusal = f"the request body is larger than {limit} bytes"
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > limit):
                raise BodyTooLarge(refusal)
        seen = held = 0

        async def receiving() -> Message:
            nonlocal seen, held
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                seen += size
                if seen > limit:
                    raise BodyTooLarge(refusal)
                held += size
                self._total_bytes += size
                if message.get("more_body", False):
                    if self._total_bytes > BODIES_AT_ONCE * limit:
                        raise QueueFull("too many large bodies arrive at once. Try again later")
                else:  # whole: from here on it is the work of a request like any other
                    self._total_bytes -= held
                    held = 0
            return message

        try:
            yield receiving
        finally:
            self._total_bytes -= held
