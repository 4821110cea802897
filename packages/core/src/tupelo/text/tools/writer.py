"""Collects what a parser finds, as events.

White space is held back until it is known what it is part of: at the ends of the reasoning,
between reasoning and text, and beside tool calls it belongs to the format and is dropped.
"""

from tupelo.text.tools.events import CallArguments, CallStart, Event, Reasoning, Text
from tupelo.text.tools.held import Held
from tupelo.text.tools.source import SPACE, MalformedError

_MAX_NAME = 256


class Writer:
    """The events of one output.

    Attributes:
        num_calls: how many calls were begun.
        in_call: whether the last one is still open.
        draft: the call that is being read, announced or not.
        thinking: whether what comes is reasoning.
        held: what text goes through, to be held back where it may turn out to be none.
        over: set behind the last call that is wanted; all that comes is dropped.
        text_is_over: set where the format has no text any more; what comes is dropped.
    """

    def __init__(self, max_calls: int | None = None) -> None:
        self._max_calls = max_calls
        self._events: list[Event] = []
        self._run: type[Text | Reasoning] | int | None = None
        self._parts: list[str] = []
        self._space: list[str] = []
        self._thought: list[str] = []
        self._in_reasoning = False
        self._has_reasoning = False
        self._has_text = False
        self._after_reasoning = False
        self.num_calls = 0
        self.in_call = False
        self.draft: Draft | None = None
        self.thinking = False
        self.held: list[Held] = []
        self.over = False
        self.text_is_over = False

    def text(self, piece: str, *, force: bool = False) -> None:
        """Add text; with ``force`` even where the format has none."""
        if self.text_is_over and not force:
            return
        for held in self.held:
            piece = held.push(piece)
        self._text(piece)

    def _text(self, piece: str) -> None:
        begun = piece.lstrip(SPACE)
        self._space.append(piece[: len(piece) - len(begun)])
        shown = begun.rstrip(SPACE)
        if shown:
            self._flush_space()
            self._has_text = True
            self._add(Text, shown)
            self._space.append(begun[len(shown) :])

    def reasoning(self, piece: str) -> None:
        """Add reasoning; a later block of it begins on a line of its own."""
        self._release()
        shown = piece.rstrip(SPACE)
        if shown:
            if self._in_reasoning:
                shown = "".join(self._thought) + shown
            else:
                shown = "\n" * self._has_reasoning + shown.lstrip(SPACE)
            self._in_reasoning = self._has_reasoning = True
            self._thought.clear()
            self._add(Reasoning, shown)
        self._thought.append(piece[len(piece.rstrip(SPACE)) :])

    def end_reasoning(self) -> None:
        """This block of reasoning is over: drop the white space at its end, and what follows it."""
        self._thought.clear()
        self._in_reasoning = self.thinking = False
        self._after_reasoning = True

    def begin(self, name: str, call_id: str | None) -> None:
        """Begin a call; the one before must have ended."""
        assert not self.in_call
        self.in_call = True
        if self.over:
            return
        self._release(call=True)
        self._close_run()
        self._events.append(CallStart(self.num_calls, name, call_id))
        self.num_calls += 1

    def arguments(self, piece: str) -> None:
        """Add to the arguments of the open call."""
        self._add(self.num_calls - 1, piece)

    def end(self) -> None:
        """End the open call."""
        self.in_call = False
        self.over = self.over or self.num_calls == self._max_calls

    def drain(self) -> list[Event]:
        """The events since the last time."""
        self._close_run(keep=True)
        events, self._events = self._events, []
        return events

    def finish(self) -> None:
        """The output is over: give out white space that was held back, unless calls were last."""
        self._release()
        self._thought.clear()
        if self._run is Text or not self.num_calls:
            self._flush_space()

    def _release(self, *, call: bool = False) -> None:
        """Add what was held back, unless it was no part of the reply."""
        rest = ""
        for held in self.held:
            rest = held.push(rest) + held.end(call=call)
        if rest:
            self._text(rest)

    def _flush_space(self) -> None:
        space = "".join(self._space)
        self._space.clear()
        if self._after_reasoning and not self._has_text:
            space = space[space.rfind("\n") + 1 :]
        if space:
            self._add(Text, space)

    def _add(self, run: type[Text | Reasoning] | int, piece: str) -> None:
        if not piece or self.over:
            return
        if run != self._run:
            self._close_run()
            self._run = run
        self._parts.append(piece)

    def _close_run(self, *, keep: bool = False) -> None:
        text = "".join(self._parts)
        self._parts.clear()
        run = self._run
        if not keep:
            self._run = None
        if not text:
            return
        if isinstance(run, int):
            self._events.append(CallArguments(run, text))
        else:
            assert run is not None
            self._events.append(run(text))


class Draft:
    """A call that is being read, announced as soon as it is sure to be one.

    That is when its name is known and its arguments have shown a first value, or are complete. Up
    to there the text may still turn out to be no call, and then it is kept as text.
    """

    def __init__(self, writer: Writer, *, hold: bool = False) -> None:
        """Begin one; with ``hold`` it is announced at its end."""
        self._writer = writer
        writer.draft = self
        self._hold = hold
        self._pieces: list[str] = []
        self._sound = False
        self._announced = False
        self.name: str | None = None
        self.id: str | None = None

    @property
    def has_arguments(self) -> bool:
        return self._announced or bool(self._pieces)

    def add(self, piece: str) -> None:
        """More of the arguments' JSON text."""
        if self._announced:
            self._writer.arguments(piece)
        else:
            self._pieces.append(piece)

    def named(self, name: str, call_id: str | None = None) -> None:
        """The name is known.

        Raises:
            MalformedError: it cannot be one.
        """
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or set(name) & set(' <>{}"'):
            raise MalformedError
        self.name = name
        self.id = call_id or self.id
        if self._sound and not self._hold:
            self._announce()

    def sound(self) -> None:
        """The arguments have begun as arguments do."""
        self._sound = True
        if self.name is not None and not self._hold:
            self._announce()

    def end(self) -> None:
        """The call is complete.

        Raises:
            MalformedError: it has no name.
        """
        if self.name is None:
            raise MalformedError
        self._announce()
        self._writer.draft = None
        self._writer.end()

    def cut(self) -> None:
        """The output ends here: a call whose arguments had begun is announced as it is."""
        if self.name is not None and self._pieces and not self._hold:
            self._announce()

    def _announce(self) -> None:
        if self._announced:
            return
        assert self.name is not None
        self._announced = True
        self._writer.begin(self.name, self.id)
        for piece in self._pieces:
            self._writer.arguments(piece)
        self._pieces.clear()
