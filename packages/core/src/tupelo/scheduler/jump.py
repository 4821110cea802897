"""Jumping forward: tokens that a grammar forces become known without the model."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tupelo.scheduler.entry import Entry, Phase
from tupelo.scheduler.results import Ended, ending
from tupelo.scheduler.slots import SlotTable

MIN_FORCED = 3
"""Fewer forced tokens come as quickly one by one: with two steps in flight, a row of the second is
lost to a jump."""


@dataclass(slots=True)
class Jumps:
    """What jumping led to.

    Attributes:
        entries: requests whose forced tokens are to be computed, as a prompt is.
        ended: requests that end with theirs. num_tokens: appended in all.
    """

    entries: list[Entry] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    num_tokens: int = 0


def jump_forward(entries: Iterable[Entry], slots: SlotTable) -> Jumps:
    """Append to each decoding request what its grammar forces, up to a token that ends it.

    What steps in flight sample for it is void from then on; the K/V that they compute is not.
    """
    jumps = Jumps()
    for entry in entries:
        if not entry.jumps or entry.matcher is None or entry.phase is not Phase.DECODE:
            continue
        tokens = entry.matcher.forced()
        if len(tokens) < MIN_FORCED:
            continue
        before = entry.num_ids
        end = _append(entry, tokens)
        jumps.num_tokens += entry.num_ids - before
        if end is not None:
            jumps.ended.append(end)
            continue
        slots.decoding[entry.slot] = False
        slots.left[entry.slot] = entry.max_new_tokens - entry.num_generated
        entry.phase = Phase.PREFILL
        jumps.entries.append(entry)
    return jumps


def _append(entry: Entry, tokens: Iterable[int]) -> Ended | None:
    assert entry.matcher is not None
    entry.epoch += 1
    entry.num_pending = 0
    for token in tokens:
        entry.matcher.accept(token)
        entry.append(token)
        end = ending(entry)
        if end is not None:
            return end
    return None
