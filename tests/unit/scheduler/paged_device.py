"""A device of a few numpy arrays that stores tokens where a real one stores K/V.

The next token is a hash of everything that the row can see through its page table, so a wrong
page, a stale table, or a page read before it is written changes the output. The oracle hashes the
tokens alone.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from tupelo.batch import LAST_TOKEN, Batch, StepResult
from tupelo.request import Request, SamplingParams
from tupelo.scheduler import Ended, Scheduler, SchedulerConfig, Step

VOCAB = 97


def next_token(context: Sequence[int]) -> int:
    """The model: a function of all tokens before."""
    return zlib.crc32(np.asarray(context, np.int32).tobytes()) % VOCAB


def expected_tokens(prompt: Sequence[int], num_tokens: int, stops: Iterable[int] = ()) -> list[int]:
    """What the model generates for a prompt, computed without pages."""
    context = list(prompt)
    while len(context) < len(prompt) + num_tokens:
        context.append(next_token(context))
        if context[-1] in set(stops):
            break
    return context[len(prompt) :]


class PagedDevice:
    """Page tables, pools and last tokens; runs a batch as a runner would."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        slots, pages = config.max_running, -(-config.context_length // config.page_size) + 1
        self.tables = [np.zeros((slots, pages), np.int64) for _ in config.groups]
        self.pools = [np.full(g.num_pages * config.page_size, -7) for g in config.groups]
        self.last = np.zeros(slots, np.int64)
        self.prefilled = 0
        self.num_grouped = 0

    def run(self, batch: Batch) -> StepResult:
        """One step: deltas, then every write, then every read."""
        size = self.config.page_size
        for table, delta in zip(self.tables, batch.page_deltas, strict=True):
            table[delta.slots, delta.indices] = delta.pages
        counts = np.diff(batch.cu_seqlens_q)
        token_slots = np.repeat(batch.slots, counts)
        ids = np.where(batch.input_ids == LAST_TOKEN, self.last[token_slots], batch.input_ids)
        self.prefilled += int(counts[batch.num_decode_rows :].sum())
        for group, pool in enumerate(self.pools):
            where = self.tables[group][token_slots, batch.positions // size]
            mapping = where * size + batch.positions % size
            np.testing.assert_array_equal(mapping, batch.slot_mapping[group])
            pool[mapping] = ids
        self._check_groups(batch)
        tokens = [self._sample(batch.slots[row], batch.seq_lens[row]) for row in batch.sample_rows]
        np.testing.assert_array_equal(
            batch.logits_rows, batch.cu_seqlens_q[batch.sample_rows + 1] - 1
        )
        self.last[batch.slots[batch.sample_rows]] = tokens
        return StepResult(token_ids=np.array(tokens, np.int32))

    def _sample(self, slot: int, length: int) -> int:
        """Reads the row's tokens through its table; windowed groups must agree inside their
        window."""
        seen = self._read(0, slot, 0, length)
        for group, spec in enumerate(self.config.groups):
            if spec.window is not None:
                first = max(0, length - spec.window)
                part = self._read(group, slot, first, length)
                if self.config.groups[0].window is None:
                    np.testing.assert_array_equal(part, seen[first:])
        if self.config.groups[0].window is not None:
            return 0
        return next_token(seen)

    def _check_groups(self, batch: Batch) -> None:
        """Rows of a prefix group read the same pages, and each has tokens of its own after them."""
        groups, size = batch.prefix_groups, self.config.page_size
        if groups is None:
            return
        self.num_grouped += 1
        starts, shared = groups.row_starts.tolist(), groups.shared_tokens.tolist()
        assert starts[0] == 0
        assert starts[-1] <= batch.num_decode_rows
        for first, end, tokens in zip(starts[:-1], starts[1:], shared, strict=True):
            assert end - first > 1
            assert tokens > 0
            assert tokens % size == 0
            assert tokens < batch.seq_lens[first:end].min()
            for table, spec in zip(self.tables, self.config.groups, strict=True):
                pages = table[batch.slots[first:end], : tokens // size]
                assert spec.window is not None or (pages == pages[0]).all()

    def _read(self, group: int, slot: int, first: int, length: int) -> np.ndarray:
        positions = np.arange(first, length)
        size = self.config.page_size
        pages = self.tables[group][slot, positions // size]
        return self.pools[group][pages * size + positions % size]


class Driver:
    """Scheduler and device with ``depth`` steps in flight; checks the books after each step."""

    def __init__(self, config: SchedulerConfig, depth: int = 1) -> None:
        self.scheduler = Scheduler(config)
        self.device = PagedDevice(config)
        self.depth = depth
        self.flights: deque[tuple[Step, StepResult]] = deque()
        self.ended: dict[str, Ended] = {}
        self.num_steps = 0

    def submit(self, rid: str, prompt: Sequence[int], **options: object) -> None:
        """Queue a request; ``options`` of Request or of SamplingParams."""
        names = {"salt", "adapter", "priority", "stream"}
        outer = {k: v for k, v in options.items() if k in names}
        inner = {k: v for k, v in options.items() if k not in names}
        self.scheduler.submit(
            Request(rid=rid, input_ids=tuple(prompt), params=SamplingParams(**inner), **outer)  # type: ignore[arg-type]
        )

    def step(self) -> bool:
        """Launch if there is room, else land; False if nothing is left."""
        launched = False
        if len(self.flights) < self.depth:
            step = self.scheduler.schedule()
            if step is not None:
                self.num_steps += 1
                self.flights.append((step, self.device.run(step.batch)))
                launched = True
        if self.flights and (not launched or len(self.flights) >= self.depth):
            self._take(self.scheduler.commit(*self.flights.popleft())[1])
        self.scheduler.check()
        return launched or bool(self.flights) or self.scheduler.has_work()

    def abort(self, rids: Sequence[str]) -> None:
        """Abort requests."""
        self._take(self.scheduler.abort(rids))
        self.scheduler.check()

    def run(self, limit: int = 20_000) -> None:
        """Step until everything has ended."""
        while self.step():
            limit -= 1
            assert limit, "the scheduler makes no progress"

    def tokens(self, rid: str) -> list[int]:
        """What a request generated."""
        entry = self.ended[rid].entry
        return [int(t) for t in entry.ids[entry.num_prompt : entry.num_ids]]

    def _take(self, ended: Sequence[Ended]) -> None:
        for item in ended:
            assert item.entry.rid not in self.ended, "a request ended twice"
            self.ended[item.entry.rid] = item
