"""Splits an output into what the model thought and what it says."""

from collections.abc import Callable
from dataclasses import dataclass

from tupelo.text.tools.source import SPACE, Finder, Source, Step
from tupelo.text.tools.writer import Writer


@dataclass(frozen=True, kw_only=True)
class ThinkFormat:
    """``open THOUGHTS close ANSWER``, at the beginning of the output.

    Attributes:
        opens, close: the markers.
        begins_inside: whether the output begins behind ``opens`` where nobody knows the prompt.
        opened_twice: what ``opens`` is, right behind an ``opens`` that ends the prompt: "dropped",
            or part of the "thoughts".
        stray_close: what ``close`` is at the beginning of an output without thoughts: "dropped",
            or "text".
        unended: what thoughts are that the output begins, though the prompt is known not to, and
            does not end: "thoughts", or "text", for the model was told not to think.
        interrupts: markers that end the thoughts and belong to the answer.
        label: a word behind ``opens``, alone on its line, that is no thought.
        repeats: there may be more thoughts later on.
        dropped: markers around the answer that are no part of it.
        prompted_text: what ``opens`` says is itself a part of the thoughts.
        shown: the thoughts are part of the answer, and begin with this.
    """

    opens: tuple[str, ...]
    close: str
    begins_inside: bool = False
    opened_twice: str = "dropped"
    stray_close: str = "dropped"
    unended: str = "thoughts"
    interrupts: tuple[str, ...] = ()
    label: str = ""
    repeats: bool = False
    dropped: tuple[str, ...] = ()
    prompted_text: str = ""
    shown: str = ""

    @property
    def markers(self) -> tuple[str, ...]:
        """Every literal text of the format; those that are special tokens must stay visible."""
        return (*self.opens, self.close, *self.dropped)


class Splitter:
    """Reads ``ThinkFormat``: thoughts go to the writer, the answer to ``answer``."""

    def __init__(
        self,
        form: ThinkFormat,
        source: Source,
        writer: Writer,
        answer: Callable[[str], None],
        inside: bool | None,
    ) -> None:
        """Begin; ``inside`` tells whether the prompt opened the thoughts, None if nobody knows."""
        self._form = form
        self._source = source
        self._writer = writer
        self._answer = answer
        self._inside = inside
        self._ends = Finder((form.close, *form.interrupts))
        self._again = Finder((*form.opens, form.close))
        self._none = Finder(())
        writer.thinking = bool(inside) and not form.shown

    def steps(self) -> Step[None]:
        """Read the whole output."""
        source, form = self._source, self._form
        if form.shown:
            self._answer(form.shown)
            yield from source.until(self._none, self._answer)
            return
        inside = form.begins_inside if self._inside is None else self._inside
        space = yield from source.space()
        if not (inside and form.opened_twice == "thoughts"):
            inside = bool((yield from source.accept(*form.opens))) or inside
        if inside:
            yield from self._thoughts()
        elif form.stray_close == "dropped" and (yield from source.accept(form.close)):
            self._writer.end_reasoning()
        else:
            self._answer(space)
        yield from self._rest()

    def _thoughts(self) -> Step[None]:
        source, form = self._source, self._form
        self._writer.thinking = True
        if form.label:
            while (yield from source.accept(*form.opens)):
                continue
            yield from self._label()
        self._writer.reasoning(form.prompted_text)
        unsure: list[str] = []
        hold = form.unended == "text" and self._inside is False
        sink = unsure.append if hold else self._writer.reasoning
        found = yield from source.until(self._ends, sink, consume=False, half_marker=False)
        if hold:
            (self._writer.reasoning if found else self._answer)("".join(unsure))
        if found == form.close:
            source.take(len(found))
        self._writer.end_reasoning()

    def _label(self) -> Step[None]:
        form = self._form
        if (yield from self._source.accept(form.label)):
            char = yield from self._source.peek()
            if char and char not in SPACE and not (yield from self._source.at(form.close)):
                self._writer.reasoning(form.label)

    def _rest(self) -> Step[None]:
        if not self._form.repeats:
            yield from self._source.until(self._none, self._answer)
            return
        while True:
            found = yield from self._source.until(self._again, self._answer)
            if not found:
                return
            if found != self._form.close:
                yield from self._thoughts()
