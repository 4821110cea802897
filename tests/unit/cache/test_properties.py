"""The prefix cache against an oracle that spells everything out.

The oracle knows nothing of nodes: it keeps, for each group, a dict from (namespace, whole prefix)
to the page that holds the prefix's last tokens, and the content of every page as steps write it.
Steps run later than they are scheduled, in order; a step must find, in every page that it can see,
exactly its own prompt's tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tupelo.cache import Lease, Namespace, PrefixCache
from tupelo.specs import PageGroup

Key = tuple[Namespace, tuple[int, ...]]

HOME, HOG = Namespace(), Namespace("hog")
STRANGERS = (Namespace("s/\x00", ""), Namespace("", "s/\x00"))
# A letter is a page. Shared beginnings are made likely.
PROMPTS = st.builds(
    str.__add__,
    st.sampled_from(["ab", "abab", "ababba", ""]),
    st.text("abc", min_size=1, max_size=3),
)


@dataclass(eq=False)
class Request:
    namespace: Namespace
    ids: tuple[int, ...]
    lease: Lease
    done: int
    claimed: int = 0

    @property
    def array(self) -> np.ndarray:
        return np.array(self.ids, dtype=np.int64)


@dataclass(eq=False)
class Step:
    """Tokens ``[start, stop)`` of a request, with the page tables of the time it was scheduled."""

    request: Request
    start: int
    stop: int
    tables: list[list[int]] = field(default_factory=list)


class CacheMachine(RuleBasedStateMachine):
    """Random requests; subclasses set the configuration."""

    groups: tuple[PageGroup, ...] = ()
    page_size = 1
    eviction = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(self.groups, self.page_size, eviction=self.eviction)
        self.requests: list[Request] = []
        self.hogs: list[Lease] = []
        self.pending: list[Step] = []
        self.held: list[dict[Key, int]] = [{} for _ in self.groups]
        self.content: list[dict[int, Key]] = [{} for _ in self.groups]
        self.evicted = [0] * len(self.groups)

    # Rules. Few and composite, for hypothesis leaves some out of each run.

    @initialize(prompts=st.lists(PROMPTS, min_size=1, max_size=3), stays=st.booleans())
    def fill(self, prompts: list[str], stays: bool) -> None:
        """Something to find."""
        for prompt in prompts:
            request = self.open(HOME, prompt, tail=1, claims=stays)
            self.schedule(request, len(request.ids), publishes=True)
            if not stays:
                self.run(len(self.pending))
                self.finish(request)

    @precondition(lambda self: len(self.requests) < 6)
    @rule(
        namespace=st.sampled_from((HOME, HOME, HOME, *STRANGERS)),
        prompt=PROMPTS,
        tail=st.integers(0, 2),
        claims=st.booleans(),
        num_pages=st.sampled_from([9, 1, 3, 0]),
    )
    def arrive(
        self, namespace: Namespace, prompt: str, tail: int, claims: bool, num_pages: int
    ) -> None:
        request = self.open(namespace, prompt, tail, claims)
        if num_pages:
            self.schedule(request, num_pages * self.page_size, publishes=True)

    @precondition(lambda self: self.requests)
    @rule(
        data=st.data(), num_pages=st.integers(1, 4), publishes=st.sampled_from([True, True, False])
    )
    def go_on(self, data: st.DataObject, num_pages: int, publishes: bool) -> None:
        """A chunk of a prompt, or tokens generated one by one; late pages are adopted first."""
        request = data.draw(st.sampled_from(self.requests))
        if data.draw(st.booleans()):
            self.rematch(request)
        if request.done < len(request.ids):
            odd = data.draw(st.sampled_from([0, 0, 1]))
            self.schedule(request, max(1, num_pages * self.page_size - odd), publishes)
            return
        for token in data.draw(st.text("ab", min_size=1, max_size=2 * self.page_size)):
            request.ids += (ord(token),)
            if not self.schedule(request, 1, publishes):
                break

    @precondition(lambda self: self.pending)
    @rule(count=st.integers(1, 6))
    def run(self, count: int) -> None:
        """The device gets on with its work."""
        for step in self.pending[:count]:
            self.execute(step, self.content, reads=True)
        del self.pending[:count]

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), goes_on=st.booleans())
    def withdraw(self, data: st.DataObject, goes_on: bool) -> None:
        """One request's scheduled steps will not run."""
        # The steps of closed requests, and what was scheduled before, are past recall.
        for index in reversed(range(len(self.pending))):
            if self.pending[index].request not in self.requests:
                self.run(index + 1)
                break
        if not self.pending:
            return
        request = data.draw(st.sampled_from([step.request for step in self.pending]))
        start = min(step.start for step in self.pending if step.request is request)
        readers = self.readers_of(request, start)
        lost = self.cache.withdraw(request.lease, start)
        lost_requests = [peer for peer in self.requests if peer.lease in lost]
        assert readers <= set(lost_requests)
        runs = {peer: peer.lease.num_pages * self.page_size for peer in lost_requests}
        runs[request] = start
        self.pending = [
            step for step in self.pending if step.stop <= runs.get(step.request, step.stop)
        ]
        request.done = start
        for group, held in enumerate(self.held):
            cached = set(self.cache.cached_pages(group).tolist())
            self.held[group] = {key: page for key, page in held.items() if page in cached}
        self.cache.check(self.leases())
        for peer in lost_requests:
            assert peer.lease.lost
            self.finish(peer)
        if not goes_on or request.lease.num_pages * self.page_size < start:
            self.finish(request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), abandons=st.booleans(), then_flush=st.sampled_from([False] * 7 + [True]))
    def close(self, data: st.DataObject, abandons: bool, then_flush: bool) -> None:
        request = data.draw(st.sampled_from(self.requests))
        if abandons:
            self.cache.unclaim(request.lease)
            request.claimed = 0
        else:
            self.finish(request)
        if then_flush:
            assert self.cache.flush() == (not self.leases())
            if not self.leases():
                self.run(len(self.pending))
                self.held = [{} for _ in self.groups]

    @rule(count=st.integers(1, 6))
    def press(self, count: int) -> None:
        """Pressure from elsewhere evicts, then eases."""
        lease = self.cache.open(HOG, np.arange(1), max_tokens=0)
        self.hogs.append(lease)
        self.extend(lease, count * self.page_size)
        if len(self.hogs) == 2:
            self.cache.close(self.hogs.pop(0))

    # Invariants

    @invariant()
    def books_balance(self) -> None:
        self.cache.check(self.leases())

    @invariant()
    def tree_holds_what_the_oracle_says(self) -> None:
        for group, held in enumerate(self.held):
            assert sorted(held.values()) == self.cache.cached_pages(group).tolist()

    @invariant()
    def cached_pages_hold_their_prefix_once_all_steps_have_run(self) -> None:
        content = [dict(pages) for pages in self.content]
        for step in self.pending:
            self.execute(step, content, reads=False)
        for held, written in zip(self.held, content, strict=True):
            for key, page in held.items():
                assert written[page] == key

    # What rules are made of

    def open(self, namespace: Namespace, prompt: str, tail: int, claims: bool) -> Request:
        ids = tuple(token for letter in prompt for token in self.word(letter))
        ids += (ord("a"),) * min(tail, self.page_size - 1)
        array = np.array(ids, dtype=np.int64)
        length = self.longest_match(namespace, ids, len(ids))
        assert self.cache.match_length(namespace, array) == length
        self.compare_owner(namespace, ids, length)
        lease = self.cache.open(namespace, array, max_tokens=len(ids) - 1)
        assert lease.num_cached_tokens == self.longest_match(namespace, ids, len(ids) - 1)
        request = Request(namespace, ids, lease, lease.num_cached_tokens)
        self.requests.append(request)
        self.compare_adopted(request, 0)
        if claims:
            self.cache.claim(lease, array, len(ids))
            request.claimed = len(ids)
        return request

    def schedule(self, request: Request, size: int, publishes: bool) -> bool:
        stop = min(len(request.ids), request.done + size)
        if not self.extend(request.lease, stop):
            return False
        tables = [request.lease.pages(group).tolist() for group in range(len(self.groups))]
        self.pending.append(Step(request, request.done, stop, tables))
        request.done = stop
        if publishes:
            self.publish(request)
        self.release(request, min(step.start for step in self.pending if step.request is request))
        return True

    def rematch(self, request: Request) -> None:
        lease, before = request.lease, request.lease.num_pages
        limit = len(request.ids) - 1
        expected = 0
        if lease.num_published == before and limit > request.done:
            own = [
                set(np.flatnonzero(lease.pages(group) >= 0).tolist())
                for group in range(len(self.groups))
            ]
            longest = self.longest_match(request.namespace, request.ids, limit, before, own)
            expected = longest - request.done
        gained = self.cache.rematch(lease, request.array, max_tokens=limit)
        assert gained == expected
        request.done += gained
        self.compare_adopted(request, before)

    # The oracle

    def word(self, letter: str) -> tuple[int, ...]:
        """One page; "c" differs from "a" in the last token only."""
        if letter == "c":
            return (ord("a"),) * (self.page_size - 1) + (ord("c"),)
        return (ord(letter),) * self.page_size

    def leases(self) -> list[Lease]:
        return [request.lease for request in self.requests] + self.hogs

    def prefix(self, request: Request, position: int) -> Key:
        return request.namespace, request.ids[: (position + 1) * self.page_size]

    def needed(self, group: int, num_tokens: int) -> Iterator[int]:
        """Positions whose pages the query at ``num_tokens`` sees, token by token."""
        window = self.groups[group].window
        seen = {
            token // self.page_size
            for token in range(num_tokens)
            if window is None or num_tokens - window < token
        }
        return iter(sorted(seen))

    def longest_match(
        self,
        namespace: Namespace,
        ids: tuple[int, ...],
        limit: int,
        start: int = 0,
        own: list[set[int]] | None = None,
    ) -> int:
        for pages in range(limit // self.page_size, start, -1):
            tokens = pages * self.page_size
            if all(
                (namespace, ids[: (position + 1) * self.page_size]) in self.held[group]
                if own is None or position >= start
                else position in own[group]
                for group in range(len(self.groups))
                for position in self.needed(group, tokens)
            ):
                return tokens
        return start * self.page_size

    def compare_adopted(self, request: Request, start: int) -> None:
        """Adopted pages are the tree's, and just those that will be seen."""
        lease = request.lease
        for group in range(len(self.groups)):
            needed = set(self.needed(group, lease.num_pages * self.page_size))
            for position in range(start, lease.num_pages):
                page = lease.pages(group)[position]
                if position in needed:
                    assert page == self.held[group][self.prefix(request, position)]
                else:
                    assert page == -1

    def compare_owner(self, namespace: Namespace, ids: tuple[int, ...], matched: int) -> None:
        best = 0
        for peer in self.requests:
            if peer.namespace == namespace and peer.lease.num_published * self.page_size <= matched:
                claimed = peer.ids[: peer.claimed]
                same = 0
                while (same + 1) * self.page_size <= min(len(ids), len(claimed)) and ids[
                    : (same + 1) * self.page_size
                ] == claimed[: (same + 1) * self.page_size]:
                    same += 1
                best = max(best, same * self.page_size - matched)
        found = self.cache.owner_of_next_page(namespace, np.array(ids), matched)
        assert (found.shared_tokens if found else 0) == best

    def publish(self, request: Request) -> None:
        lease = request.lease
        first = lease.num_published
        self.cache.publish(lease, request.array, request.done)
        for position in range(first, request.done // self.page_size):
            for group, held in enumerate(self.held):
                page = int(lease.pages(group)[position])
                if page >= 0:
                    held.setdefault(self.prefix(request, position), page)

    def release(self, request: Request, num_tokens: int) -> None:
        """All goes that no query from ``num_tokens`` on sees; what the next one sees stays."""
        self.cache.release_window(request.lease, num_tokens)
        for group, spec in enumerate(self.groups):
            first = min(self.needed(group, num_tokens), default=request.lease.num_pages)
            if spec.window is not None and num_tokens:
                first = min(first, num_tokens // self.page_size)
                assert (request.lease.pages(group)[:first] == -1).all()
            for position in self.needed(group, request.done):
                assert request.lease.pages(group)[position] >= 0

    def extend(self, lease: Lease, num_tokens: int) -> bool:
        count = max(0, -(-num_tokens // self.page_size) - lease.num_pages)
        fits = all(count <= self.available(group) for group in range(len(self.groups)))
        extended = self.cache.extend(lease, num_tokens)
        assert extended == fits
        for group, held in enumerate(self.held):
            cached = set(self.cache.cached_pages(group).tolist())
            left = {key: page for key, page in held.items() if page in cached}
            evicted = self.cache.stats().groups[group].evicted
            assert len(held) - len(left) == evicted - self.evicted[group]
            assert extended or left == held
            self.held[group], self.evicted[group] = left, evicted
        return extended

    def available(self, group: int) -> int:
        """Pages that are free, or cached where no lease can lose them."""
        used = {page for lease in self.leases() for page in lease.pages(group).tolist()} - {-1}
        held = set(self.held[group].values())
        locked = used
        if self.groups[group].window is None:
            paths = {
                self.prefix(request, position)
                for request in self.requests
                for position in range(request.lease.num_published)
            }
            locked = {page for key, page in self.held[group].items() if key in paths}
        return self.groups[group].num_pages - len(used | held) + len(held - locked)

    def readers_of(self, giver: Request, start: int) -> set[Request]:
        """Others that have a page of ``giver``'s, from ``start`` on, in their tables."""
        first = start // self.page_size
        return {
            peer
            for peer in self.requests
            if peer is not giver
            for group in range(len(self.groups))
            if set(peer.lease.pages(group)[first:].tolist()) & self.given(giver, group, first)
        }

    def given(self, giver: Request, group: int, first: int) -> set[int]:
        row = giver.lease.pages(group).tolist()
        written = {
            step.tables[group][position]
            for step in self.pending
            if step.request is giver
            for position in range(step.start // self.page_size, -(-step.stop // self.page_size))
        }
        return set(row[first:]) & written

    def finish(self, request: Request) -> None:
        self.requests.remove(request)
        self.cache.close(request.lease)

    def execute(self, step: Step, content: list[dict[int, Key]], *, reads: bool) -> None:
        request, size = step.request, self.page_size
        last = -(-step.stop // size)
        for group, table in enumerate(step.tables):
            for position in range(step.start // size, last):
                ids = request.ids[: min(step.stop, (position + 1) * size)]
                content[group][table[position]] = (request.namespace, ids)
            if reads:
                first = min(self.needed(group, step.start), default=step.start // size)
                for position in range(first, last):
                    ids = request.ids[: min(step.stop, (position + 1) * size)]
                    assert content[group][table[position]] == (request.namespace, ids)


def full(num_pages: int) -> PageGroup:
    return PageGroup(num_pages=num_pages)


def windowed(num_pages: int, window: int) -> PageGroup:
    return PageGroup(num_pages=num_pages, window=window)


SHAPES = ("full", "full-window", "full-two-windows", "window", "roomy")


@pytest.mark.parametrize(
    ("shape", "page_size", "eviction"),
    [(shape, page_size, "lru") for shape in SHAPES for page_size in (1, 4, 16)]
    + [("full", 4, "lfu"), ("full-two-windows", 1, "lfu"), ("window", 4, "lfu")],
)
def test_random_life_agrees_with_the_oracle(shape: str, page_size: int, eviction: str) -> None:
    groups = {
        "full": (full(12),),
        "full-window": (full(16), windowed(11, 2 * page_size + 1)),
        "full-two-windows": (full(16), windowed(12, 2), windowed(12, 3 * page_size)),
        "window": (windowed(12, page_size + 2),),
        "roomy": (full(400), windowed(400, 2 * page_size + 2)),
    }[shape]
    machine = type(
        "Machine", (CacheMachine,), {"groups": groups, "page_size": page_size, "eviction": eviction}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=50,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
