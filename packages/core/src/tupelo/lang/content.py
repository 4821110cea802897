"""What a state holds: text, or a conversation; and the prompt that a model is given of it.

A content is a log of events that only grows, so that a fork is a copy, what a branch added is the
tail of its log, and a scope's text is what stands between two places of it.
"""

from dataclasses import dataclass, field
from typing import Any

from tupelo.errors import ProgramError
from tupelo.lang.media import Media

Message = dict[str, Any]


@dataclass(frozen=True)
class Begin:
    """A message begins."""

    role: str


@dataclass(frozen=True)
class End:
    """The message that is open ends."""


@dataclass(frozen=True)
class Turns:
    """Whole messages that come before the open one: calls of tools, and their results."""

    messages: tuple[Message, ...]


Event = str | Media | Begin | End | Turns


@dataclass(frozen=True)
class Prompt:
    """What a model is to go on with: a text, or a conversation.

    Attributes:
        text: of a program without roles.
        messages: of one with roles, whole ones, as OpenAI's API has them.
        role: of the message that is open, None if none is.
        begun: what the open message holds already.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    role: str | None = None
    begun: str | tuple[Any, ...] = ""

    @property
    def chat(self) -> bool:
        """Whether it is a conversation."""
        return bool(self.messages) or self.role is not None

    @property
    def all_messages(self) -> list[Message]:
        """The messages, the open one included where it holds anything."""
        found = [dict(message) for message in self.messages]
        if self.role is not None and self.begun:
            found.append({"role": self.role, "content": plain(self.begun)})
        return found


@dataclass
class Content:
    """A log of events; its owner is one thread at a time."""

    events: list[Event] = field(default_factory=list)

    def copy(self) -> "Content":
        """One that grows on its own."""
        return Content(list(self.events))

    def add(self, event: Event) -> None:
        """Let it grow."""
        self.events.append(event)

    def __len__(self) -> int:
        return len(self.events)

    def tail(self, begin: int) -> list[Event]:
        """The events since there were ``begin`` of them."""
        return self.events[begin:]

    def text_since(self, begin: int) -> str:
        """The text that was added since there were ``begin`` events."""
        return "".join(event for event in self.events[begin:] if isinstance(event, str))

    def prompt(self) -> Prompt:
        """What a model is to go on with now."""
        messages: list[Message] = []
        role: str | None = None
        parts: list[str | Media] = []
        for event in self.events:
            match event:
                case Begin():
                    role, parts = event.role, []
                case End():
                    messages.append({"role": role, "content": plain(_joined(parts))})
                    role, parts = None, []
                case Turns():
                    messages += event.messages
                case _:
                    parts.append(event)
        if not messages and role is None:
            found = _joined(parts)
            if not isinstance(found, str):
                raise ProgramError("images and videos belong into a message: use s.user(...)")
            return Prompt(text=found)
        return Prompt(messages=tuple(messages), role=role, begun=_joined(parts))


def plain(content: str | tuple[Any, ...]) -> Any:
    """A message's content as OpenAI's API has it."""
    return content if isinstance(content, str) else list(content)


def _joined(parts: list[str | Media]) -> str | tuple[Any, ...]:
    """The text of a message, or its parts where there is more than text."""
    if not any(isinstance(part, Media) for part in parts):
        return "".join(part for part in parts if isinstance(part, str))
    found: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Media):
            key = f"{part.kind}_url"
            found.append({"type": key, key: {"url": part.url}})
        elif found and found[-1]["type"] == "text":
            found[-1]["text"] += part
        elif part:
            found.append({"type": "text", "text": part})
    return tuple(found)
