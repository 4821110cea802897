"""What a family is."""

from dataclasses import dataclass

from tupelo.text.tools.machine import Format
from tupelo.text.tools.structure import Structure


@dataclass(frozen=True)
class ToolFamily:
    """A named format of tool calls.

    Attributes:
        aliases: other names for it, SGLang's and vLLM's among them.
        ids: what the ids of its calls look like, so that its template takes them back: "call"
            (any), "mistral" (nine letters and digits), "kimi" (the model's own).
        structures: how a grammar has it write calls, the preferred way first; none where calls
            with JSON would not be its format any more.
    """

    name: str
    form: Format
    aliases: tuple[str, ...] = ()
    ids: str = "call"
    structures: tuple[Structure, ...] = ()
