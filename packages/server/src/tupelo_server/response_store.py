"""Responses that can be asked for later.

They are in memory alone, each its owner's, bounded in number, bytes and time.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tupelo.errors import QueueFull
from tupelo_server.wire import decode_json, encode_json

if TYPE_CHECKING:
    from tupelo_server.response_runs import Run

logger = logging.getLogger(__name__)

Item = dict[str, Any]

_SHARE = 4
"""One response may have the fourth part of the bytes."""
_ENTRY_BYTES, _ID_BYTES = 1024, 400
"""What an entry takes besides its content, and each item for being found by its id."""


@dataclass(eq=False, slots=True)
class Entry:
    """A response that is kept.

    Attributes:
        before: the conversation that it answers, as JSON. said: the response, as JSON; empty while
            it is being made.
        run: what makes it in the background, and keeps its events; None for others.
        item_ids: of its own items, by which they are found.
        size: in bytes. expires_s: by the store's clock; None while it is being made.
    """

    id: str
    owner: str
    before: bytes
    said: bytes = b""
    run: "Run | None" = None
    item_ids: tuple[str, ...] = ()
    size: int = 0
    expires_s: float | None = None

    @property
    def response(self) -> Item:
        """The response as it is now."""
        if not self.said:
            assert self.run is not None
            return self.run.response
        found: Item = decode_json(self.said)
        return found

    @property
    def input(self) -> list[Item]:
        """The conversation that it answers."""
        found: list[Item] = decode_json(self.before)
        return found


class ResponseStore:
    """The responses of all owners. Used by the event loop alone.

    Where there is no room, the owner with the most bytes loses the oldest of theirs. What is still
    being made is never lost.
    """

    def __init__(
        self,
        max_entries: int,
        max_bytes: int,
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep ``max_entries`` at most (0 keeps none), each for ``ttl_s`` seconds from its end."""
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._owners: dict[str, OrderedDict[str, Entry]] = {}
        self._sizes: dict[str, int] = {}
        self._items: dict[tuple[str, str], Entry] = {}
        self._num_entries = self._num_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def enabled(self) -> bool:
        """Whether anything is kept."""
        return self._max_entries > 0

    @property
    def num_bytes(self) -> int:
        """What is kept, in bytes."""
        return self._num_bytes

    def __len__(self) -> int:
        return self._num_entries

    def takes(self, num_bytes: int) -> bool:
        """Whether one entry may have so many bytes."""
        return num_bytes + _ENTRY_BYTES <= self._max_bytes // _SHARE

    def begin(self, entry: Entry) -> None:
        """Keep a response that is about to be made.

        Raises:
            QueueFull: all that is kept is being made as well.
        """
        self._sweep()
        entry.size = _ENTRY_BYTES + len(entry.before)
        if not self._make_room(1, entry.size):
            raise QueueFull("too many responses are made in the background. Try again later")
        self._add(entry)

    def grow(self, entry: Entry, num_bytes: int) -> bool:
        """Let an entry that is kept have more bytes; whether there is room for them."""
        fits = self.takes(entry.size + num_bytes) and self._make_room(0, num_bytes)
        if fits:
            self._resize(entry, entry.size + num_bytes)
        return fits

    def end(self, entry: Entry, response: Item, own: list[Item]) -> None:
        """Keep a response that has been made, begun before or not; one that is too long is lost.

        Args:
            own: the items of its input that no earlier response has.
        """
        self._sweep()
        if entry.run is not None and self.find(entry.owner, entry.id) is not entry:
            return  # deleted meanwhile
        self._drop(entry)
        entry.said = encode_json(response)
        ids = (item["id"] for item in (*own, *response["output"]))
        entry.item_ids = tuple(dict.fromkeys(ids))
        size = max(entry.size, _ENTRY_BYTES + len(entry.before))
        size += len(entry.said) + _ID_BYTES * len(entry.item_ids)
        if self.takes(size) and self._make_room(1, size):
            entry.size = size
            entry.expires_s = self._clock() + self._ttl_s
            self._add(entry)
            self._wake()
        else:
            logger.warning("a response of %d bytes is not kept: there is no room", size)

    def find(self, owner: str, id: str) -> Entry | None:
        """This owner's response; None if there is none."""
        owned = self._owners.get(owner)
        entry = None if owned is None else owned.get(id)
        return None if entry is None or self._is_old(entry) else entry

    def items_of(self, owner: str) -> Callable[[str], Item | None]:
        """A function from an id to the item that has it among all that this owner's responses
        have; None if there is none. It reads each response once, so make one for a request."""
        read: dict[str, dict[str, Item]] = {}

        def find(id: str) -> Item | None:
            entry = self._items.get((owner, id))
            if entry is None or self._is_old(entry):
                return None
            if entry.id not in read:
                items = (*entry.input, *entry.response["output"])
                read[entry.id] = {item["id"]: item for item in items}
            return read[entry.id][id]

        return find

    def remove(self, entry: Entry) -> None:
        """Forget a response."""
        self._drop(entry)

    def _add(self, entry: Entry) -> None:
        self._owners.setdefault(entry.owner, OrderedDict())[entry.id] = entry
        self._num_entries += 1
        self._num_bytes += entry.size
        self._sizes[entry.owner] = self._sizes.get(entry.owner, 0) + entry.size
        for id in entry.item_ids:
            self._items[entry.owner, id] = entry

    def _drop(self, entry: Entry) -> None:
        """Take an entry out, if it is there."""
        owned = self._owners.get(entry.owner)
        if owned is None or owned.get(entry.id) is not entry:
            return
        del owned[entry.id]
        self._num_entries -= 1
        self._num_bytes -= entry.size
        self._sizes[entry.owner] -= entry.size
        if not owned:
            del self._owners[entry.owner], self._sizes[entry.owner]
        for id in entry.item_ids:
            if self._items.get((entry.owner, id)) is entry:
                del self._items[entry.owner, id]

    def _resize(self, entry: Entry, size: int) -> None:
        self._num_bytes += size - entry.size
        self._sizes[entry.owner] += size - entry.size
        entry.size = size

    def _make_room(self, entries: int, num_bytes: int) -> bool:
        while (
            self._num_entries + entries > self._max_entries
            or self._num_bytes + num_bytes > self._max_bytes
        ):
            victim = next(self._victims(), None)
            if victim is None:
                return False
            self._drop(victim)
        return True

    def _victims(self) -> Iterator[Entry]:
        for owner in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            ended = (e for e in self._owners[owner].values() if e.expires_s is not None)
            yield from ended

    def _is_old(self, entry: Entry) -> bool:
        return entry.expires_s is not None and entry.expires_s <= self._clock()

    def _sweep(self) -> None:
        entries = [entry for owned in self._owners.values() for entry in owned.values()]
        for entry in entries:
            if self._is_old(entry):
                self._drop(entry)

    def _wake(self) -> None:
        """Sweep when the next entry is old, whether or not anybody asks for one."""
        ends = [
            entry.expires_s
            for owned in self._owners.values()
            for entry in owned.values()
            if entry.expires_s is not None
        ]
        if self._timer is None and ends:
            wait_s = max(0.0, min(ends) - self._clock()) + 1.0
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._sweep()
        self._wake()
