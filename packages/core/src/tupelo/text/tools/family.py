"""What a family is."""

from dataclasses import dataclass

from tupelo.text.tools.machine import Format


@dataclass(frozen=True)
class ToolFamily:
    """A named format of tool calls.

    Attributes:
        aliases: other names for it, SGLang's and vLLM's among them.
        ids: what the ids of its calls look like, so that its template takes them back: "call"
            (any), "mistral" (nine letters and digits), "kimi" (the model's own).
    """

    name: str
    form: Format
    aliases: tuple[str, ...] = ()
    ids: str = "call"
