"""Running requests as columns: one row a slot, so that a decode step is built without a loop over
requests.

Holds the host's mirror of the device's page tables, and collects the changes that the next batch
carries.
"""

from collections.abc import Sequence

import numpy as np

from tupelo.batch import Feature, IntArray, PageDelta
from tupelo.scheduler.entry import Entry

_FEATURES = tuple(Feature)


class SlotTable:
    """Columns of the running requests.

    Args:
        num_slots: requests that can run at once. num_groups: page groups.
        page_size: tokens a page. max_pages: of one request.
    """

    def __init__(self, num_slots: int, num_groups: int, page_size: int, max_pages: int) -> None:
        self.page_size = page_size
        self.entries: list[Entry | None] = [None] * num_slots
        self.length = np.zeros(num_slots, np.int32)
        """Tokens whose K/V are computed by scheduled steps."""
        self.left = np.zeros(num_slots, np.int32)
        """Tokens that may still be sampled, steps in flight counted."""
        self.decoding = np.zeros(num_slots, np.bool_)
        """Slots that take part in the next decode step."""
        self.features = np.zeros(num_slots, np.int32)
        """Bit i: the request needs ``Feature`` number i."""
        self.streamed = np.zeros(num_slots, np.bool_)
        """Slots whose tokens are reported as they come."""
        self.top_logprobs = np.zeros(num_slots, np.int32)
        self.wants_ids = np.zeros(num_slots, np.bool_)
        """Slots whose requests name ids that they want log-probabilities of."""
        self.tables = np.zeros((num_groups, num_slots, max_pages), np.int32)
        self.num_table_pages = np.zeros(num_slots, np.int32)
        self.num_taken = 0
        """Slots handed out so far: while it stands still, no slot has changed hands."""
        self._free = list(range(num_slots - 1, -1, -1))
        self._deltas: list[tuple[int, int, int]] = []

    @property
    def num_free(self) -> int:
        """Slots that no request holds."""
        return len(self._free)

    def take(self, entry: Entry) -> int:
        """Give ``entry`` a free slot and fill its columns."""
        slot = self._free.pop()
        self.num_taken += 1
        self.entries[slot] = entry
        entry.slot = slot
        self.length[slot] = 0
        self.left[slot] = entry.max_new_tokens - (entry.num_ids - entry.num_prompt)
        self.features[slot] = _feature_bits(entry)
        self.streamed[slot] = entry.request.stream
        self.top_logprobs[slot] = entry.request.top_logprobs
        self.wants_ids[slot] = bool(entry.request.token_ids_logprob)
        self.num_table_pages[slot] = 0
        return slot

    def give_back(self, entry: Entry) -> None:
        """Free the slot of ``entry``; changes of its table that no batch has carried are
        forgotten."""
        slot = entry.slot
        self.entries[slot] = None
        self.decoding[slot] = self.streamed[slot] = False
        self._deltas = [d for d in self._deltas if d[0] != slot]
        self._free.append(slot)
        entry.slot = -1

    def sync_pages(self, entry: Entry) -> None:
        """Copy pages that the lease gained into the mirror, and note the change."""
        assert entry.lease is not None
        slot, start, stop = entry.slot, int(self.num_table_pages[entry.slot]), entry.lease.num_pages
        if stop > start:
            self.tables[:, slot, start:stop] = entry.lease.table[:, start:stop]
            self.num_table_pages[slot] = stop
            self._deltas.append((slot, start, stop))

    def take_deltas(self) -> tuple[PageDelta, ...]:
        """The changes since the last call, for each page group."""
        deltas, self._deltas = self._deltas, []
        if not deltas:
            empty = np.empty(0, np.int32)
            return tuple(PageDelta(empty, empty, empty) for _ in self.tables)
        slots = np.repeat(
            np.array([d[0] for d in deltas], np.int32), [stop - start for _, start, stop in deltas]
        )
        indices = np.concatenate([np.arange(a, b, dtype=np.int32) for _, a, b in deltas])
        return tuple(PageDelta(slots, indices, table[slots, indices]) for table in self.tables)

    def mapping(self, slots: IntArray, positions: IntArray) -> tuple[IntArray, ...]:
        """For each page group, where the K/V of a token at ``positions`` of ``slots`` go."""
        page, offset = np.divmod(positions, np.int32(self.page_size))
        return tuple(
            table[slots, page] * np.int32(self.page_size) + offset for table in self.tables
        )

    def features_of(self, slots: IntArray) -> frozenset[Feature]:
        """The union of what these slots need."""
        bits = int(np.bitwise_or.reduce(self.features[slots], initial=0))
        return frozenset(f for i, f in enumerate(_FEATURES) if bits >> i & 1)

    def running(self) -> Sequence[Entry]:
        """Every entry that holds a slot."""
        return [entry for entry in self.entries if entry is not None]


def _feature_bits(entry: Entry) -> int:
    request, params = entry.request, entry.request.params
    needs = {
        Feature.SAMPLING: not params.greedy,
        Feature.PENALTIES: params.penalised,
        Feature.BIAS: bool(params.logit_bias) or params.min_new_tokens > 0,
        Feature.LOGPROBS: request.logprobs,
        Feature.MASK: entry.matcher is not None,
    }
    return sum(1 << i for i, feature in enumerate(_FEATURES) if needs[feature])
