"""The engine's own numbers, asked for once however many want them."""

import asyncio
from typing import TYPE_CHECKING, Any

from tupelo.errors import RequestError

if TYPE_CHECKING:
    from tupelo_server.engine_client import Engine

TIMEOUT_S = 2.0
"""An engine that takes longer is shown without numbers."""


class EngineStats:
    """Asks an engine for its numbers; who asks meanwhile shares the answer."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._asking: asyncio.Task[dict[str, Any]] | None = None

    async def now(self) -> dict[str, Any]:
        """The numbers by name; nothing where the engine does not answer in time."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return dict(await asyncio.shield(self._asking))

    async def _ask(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found: dict[str, Any] = await self._engine.control("stats")
                return found
        except (RequestError, TimeoutError):
            return {}
