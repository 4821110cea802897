"""Several asynchronous generators as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """The items of all ``streams`` as they come; the first error ends it. All are closed after."""
    queue: asyncio.Queue[tuple[T] | Exception | None] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(stream, queue)) for stream in streams]
    try:
        running = len(tasks)
        while running:
            found = await queue.get()
            if found is None:
                running -= 1
            elif isinstance(found, Exception):
                raise found
            else:
                yield found[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    stream: AsyncGenerator[T, None], queue: "asyncio.Queue[tuple[T] | Exception | None]"
) -> None:
    """Move a stream's items into ``queue``, then its error or None."""
    try:
        async with aclosing(stream):
            async for item in stream:
                queue.put_nowait((item,))
    except Exception as error:
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)
