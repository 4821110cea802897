"""Takes an output apart: what was thought, what was said, which tools are called.

A pipeline of two machines: the first splits off the thoughts, the second finds the calls in the
rest. Formats made of channels do both at once.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from tupelo.text.reasoning.families import ReasoningFamily
from tupelo.text.reasoning.split import Splitter
from tupelo.text.tools.channels import ChannelFormat
from tupelo.text.tools.events import Event, Parsed, fold
from tupelo.text.tools.family import ToolFamily
from tupelo.text.tools.held import Fence
from tupelo.text.tools.machine import Format, PlainFormat
from tupelo.text.tools.schemas import ToolSchemas
from tupelo.text.tools.source import Pushed, Source, Step
from tupelo.text.tools.writer import Writer


class OutputParser:
    """Parses one output as it comes. Never fails: what breaks a format is kept as text.

    The result does not depend on how the text was cut, and the work grows with its length.
    """

    def __init__(
        self,
        *,
        tools: ToolFamily | None = None,
        reasoning: ReasoningFamily | None = None,
        descriptions: Iterable[Mapping[str, Any]] = (),
        in_reasoning: bool | None = None,
        max_calls: int | None = None,
        json_reply: bool = False,
    ) -> None:
        """Begin.

        Args:
            tools: how calls are written; None leaves them in the text. Of a model whose thoughts
                are channels, its channels count.
            reasoning: how thoughts are marked; None leaves them in the text.
            descriptions: the request's tools, which say what types parameters have.
            in_reasoning: whether the prompt ends inside the thoughts; None if nobody knows.
            max_calls: behind so many calls the output is over: nothing more is given out.
            json_reply: the text was asked for as JSON: a code fence around it is taken off.
        """
        self._writer = Writer(max_calls)
        if json_reply:
            self._writer.held.append(Fence())
        self._stages: list[Pushed] = []
        self._sources: list[Source] = []
        think = reasoning.form if reasoning is not None else None
        form: Format | None = tools.form if tools is not None else None
        if isinstance(think, ChannelFormat):
            form, think = replace(think, calls=tools is not None), None
        dropped = think.dropped if think is not None else ()
        if form is None and dropped:
            form = PlainFormat(dropped=dropped)
        answer: Callable[[str], None] = self._writer.text
        if form is not None:
            source = self._source()
            machine = form.machine(form, source, self._writer, ToolSchemas(descriptions))
            answer = self._stage(source, machine.steps())
        if think is not None:
            source = self._source()
            splitter = Splitter(think, source, self._writer, answer, in_reasoning)
            answer = self._stage(source, splitter.steps())
        self._push = answer
        self._replaced = str.maketrans(dict(form.replaced)) if form and form.replaced else None

    @property
    def thinking(self) -> bool:
        """Whether the next characters are thoughts, as far as is known."""
        return self._writer.thinking

    @property
    def over(self) -> bool:
        """Whether ``max_calls`` calls are complete."""
        return self._writer.over

    @property
    def work(self) -> int:
        """Characters copied or searched so far."""
        return sum(source.work for source in self._sources)

    def push(self, text: str) -> list[Event]:
        """Take what came; give out what is sure."""
        if self._replaced is not None:
            text = text.translate(self._replaced)
        self._push(text)
        return self._writer.drain()

    def finish(self) -> list[Event]:
        """The output is over: give out the rest."""
        for stage in reversed(self._stages):
            stage.finish()
        self._writer.finish()
        return self._writer.drain()

    def _source(self) -> Source:
        self._sources.append(Source())
        return self._sources[-1]

    def _stage(self, source: Source, steps: Step[None]) -> Callable[[str], None]:
        self._stages.append(Pushed(source, steps))
        return self._stages[-1].push


def parse(text: str, **options: Any) -> Parsed:
    """A whole output taken apart; ``options`` are ``OutputParser``'s."""
    parser = OutputParser(**options)
    return fold([*parser.push(text), *parser.finish()])
