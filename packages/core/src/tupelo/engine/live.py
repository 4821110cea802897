"""What an onlooker sees of a running engine: its requests, its last steps, its prefix tree.

Sizes, counts and ages; no text, no token, no id that a client chose. The cost of a look is bounded,
whatever the engine holds, and who does not look pays for nothing.
"""

import time
from itertools import islice
from typing import Any

from tupelo.engine.loop import EngineLoop
from tupelo.scheduler import Entry

MAX_NODES = 256
MAX_REQUESTS = 64
SCANNED_REQUESTS = 1024
"""Live requests that are looked through for those to show."""


def look(loop: EngineLoop, after: int, salt: str | None) -> dict[str, Any]:
    """See ``loop`` now.

    Args:
        after: steps up to this number are known already.
        salt: show requests and branches of this cache salt only; None: all.

    Returns:
        ``now_s`` of the steps' clock; ``steps``, each as ``StepNote``; ``requests``, oldest first;
        ``tree``, as ``Picture``.
    """
    now = time.monotonic()
    scheduler = loop.scheduler
    live = islice(scheduler.live(), SCANNED_REQUESTS)
    shown = (entry for entry in live if salt in (None, entry.request.salt))
    picture = scheduler.cache.picture(limit=MAX_NODES, salt=salt)
    return {
        "now_s": now,
        "steps": loop.journal.look(after),
        "requests": [_row(entry, now) for entry in islice(shown, MAX_REQUESTS)],
        "tree": picture._asdict(),
    }


def _row(entry: Entry, now: float) -> dict[str, Any]:
    return {
        "phase": entry.phase.value,
        "slot": entry.slot,
        "prompt_tokens": entry.num_prompt,
        "computed_tokens": entry.num_computed,
        "cached_tokens": max(0, entry.cached_tokens),
        "generated_tokens": entry.num_ids - entry.num_prompt,
        "max_new_tokens": entry.max_new_tokens,
        "age_s": now - entry.arrived_s,
    }
