"""W3C trace context: whose trace a request belongs to. A header that is none counts as absent.

Source: W3C Recommendation "Trace Context", sections 3.2 (traceparent) and 3.3 (tracestate).
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

MAX_HEADER_BYTES = 512
"""Of ``traceparent``, and of all ``tracestate`` together: what the recommendation asks servers to
pass on. Longer ones are dropped."""
MAX_MEMBERS = 32

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_KEY = r"[a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13}"
_VALUE = r"[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_MEMBER = re.compile(f"({_KEY})=({_VALUE})", re.ASCII)


class Parent(NamedTuple):
    """The span that a request comes from: ids above 0, flags (bit 0: sampled), vendors' state."""

    trace_id: int
    span_id: int
    flags: int
    state: tuple[tuple[str, str], ...] = ()


def parent_of(headers: Iterable[tuple[bytes, bytes]]) -> Parent | None:
    """What the headers of a request say; None if they say nothing, or something that is wrong."""
    parents, states = [], []
    for name, value in headers:
        if name == b"traceparent":
            parents.append(value)
        elif name == b"tracestate":
            states.append(value)
    if len(parents) != 1:
        return None
    found = _parent(parents[0])
    return found and found._replace(state=_state(states))


def _parent(value: bytes) -> Parent | None:
    match = _PARENT.fullmatch(_text(value).strip(" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more):
        return None
    found = Parent(int(trace_id, 16), int(span_id, 16), int(flags, 16))
    return found if found.trace_id and found.span_id else None


def _state(values: list[bytes]) -> tuple[tuple[str, str], ...]:
    """The members, in order; none if any of them is wrong."""
    members: dict[str, str] = {}
    text = _text(b",".join(values))
    for part in text.split(","):
        part = part.strip(" \t")
        if not part:
            continue
        match = _MEMBER.fullmatch(part)
        if match is None or match[1] in members or len(members) == MAX_MEMBERS:
            return ()
        members[match[1]] = match[2]
    return tuple(members.items())


def _text(value: bytes) -> str:
    """A header's value; "" if it is too long."""
    return value.decode("latin-1") if len(value) <= MAX_HEADER_BYTES else ""
