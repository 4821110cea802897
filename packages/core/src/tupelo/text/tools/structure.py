"""Calls as a grammar wants them: a family's own format, with arguments that are held to a schema.

Here are the parts of a structural tag (``tupelo.grammar`` compiles it) that stand for calls. The
arguments are JSON in every format: the machines read that too, where a model would write markup.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Node = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Structure:
    """``opening (before NAME middle ARGUMENTS end) separator … closing``.

    Attributes:
        numbered: a number stands behind the name, after a colon.
        most: at most so many calls in one output; 0 for any number.
        needs: a special token without which this model does not write so.
    """

    before: str
    middle: str
    end: str = ""
    opening: str = ""
    separator: str = ""
    closing: str = ""
    numbered: bool = False
    most: int = 0
    needs: str = ""

    @property
    def beginning(self) -> str:
        """What stands before the first name."""
        return self.opening + self.before

    def calls(self, tools: Sequence[tuple[str, Any]], most: int, *, skip: int = 0) -> Node:
        """One call or several of these tools.

        Args:
            tools: name of each, and the JSON Schema of its arguments.
            most: at most so many calls.
            skip: characters of ``beginning`` that have been written already.
        """
        most = min(most, self.most) if self.most else most
        items = [self._call(self.beginning[skip:], tools)]
        if most > 1:
            another = self._call(self.separator + self.before, tools)
            items.append({"type": "repeat", "content": another, "min": 0, "max": most - 1})
        return in_turn(*items, fixed(self.closing))

    def _call(self, before: str, tools: Sequence[tuple[str, Any]]) -> Node:
        """One call of one of the tools."""
        parts: list[Node] = [fixed(":"), {"type": "regex", "pattern": "[0-9]{1,4}"}]
        number = parts if self.numbered else []
        return either(
            *(
                in_turn(
                    fixed(before + name),
                    *number,
                    fixed(self.middle),
                    {"type": "json_schema", "json_schema": schema},
                    fixed(self.end),
                )
                for name, schema in tools
            )
        )


def fixed(text: str) -> Node:
    """A text as it stands."""
    return {"type": "const_string", "value": text}


def in_turn(*items: Node) -> Node:
    """One after the other."""
    return {"type": "sequence", "elements": list(items)}


def either(*options: Node) -> Node:
    """One of several."""
    return options[0] if len(options) == 1 else {"type": "or", "elements": list(options)}


def maybe(item: Node) -> Node:
    """That, or nothing."""
    return {"type": "optional", "content": item}


def free(end: str = "") -> Node:
    """Any text, up to ``end`` and with it, or up to the end of everything."""
    text: Node = {"type": "any_text"}
    return in_turn(text, fixed(end)) if end else text
