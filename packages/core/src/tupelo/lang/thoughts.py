"""Splits what a model thought from what it answered."""

from collections.abc import Iterable

from tupelo.text.detect import named_reasoning
from tupelo.text.output_parser import OutputParser
from tupelo.text.tools.events import Event, Reasoning, Text


class ThoughtSplitter:
    """Takes one output as it comes.

    Args:
        family: name of the format of thoughts; None leaves all of it the answer.

    Raises:
        ConfigError: there is no such format.
    """

    def __init__(self, family: str | None) -> None:
        reasoning = None if family is None else named_reasoning(family)
        self._parser = None if reasoning is None else OutputParser(reasoning=reasoning)

    def push(self, text: str) -> tuple[str, str]:
        """What is new of the answer and of the thoughts."""
        return (text, "") if self._parser is None else _sides(self._parser.push(text))

    def finish(self) -> tuple[str, str]:
        """The rest of both."""
        return ("", "") if self._parser is None else _sides(self._parser.finish())


def _sides(events: Iterable[Event]) -> tuple[str, str]:
    said, thought = [], []
    for event in events:
        if isinstance(event, Text):
            said.append(event.text)
        elif isinstance(event, Reasoning):
            thought.append(event.text)
    return "".join(said), "".join(thought)
