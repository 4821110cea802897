"""What parsing an output yields, and the fold that makes the unstreamed result of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of what the model thought."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """More of what the model said."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; its name is given here and nowhere else.

    Attributes:
        index: of the call in this output, from 0.
        id: what the model itself called it, None where the format has no ids.
    """

    index: int
    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of a call's arguments: all pieces together are the JSON text."""

    index: int
    text: str


Event = Reasoning | Text | CallStart | CallArguments


@dataclass(slots=True)
class Call:
    """A whole call. ``arguments`` is a JSON object, unless the model wrote something else."""

    name: str
    arguments: str = ""
    id: str | None = None


@dataclass(slots=True)
class Parsed:
    """A whole output, taken apart."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)


def fold(events: Iterable[Event]) -> Parsed:
    """Put the events of one output together."""
    parsed = Parsed()
    for event in events:
        match event:
            case Text(text):
                parsed.text += text
            case Reasoning(text):
                parsed.reasoning += text
            case CallStart(_, name, call_id):
                parsed.calls.append(Call(name, id=call_id))
            case CallArguments(index, text):
                parsed.calls[index].arguments += text
    return parsed
