"""Structural tags in llguidance's Lark.

Free text is a *lazy* terminal together with the fixed text that ends it: it stops where that text
appears for the first time. Texts that the tokenizer has as special tokens are written as tokens,
for no other token can spell them.
"""

import json
import re
from collections.abc import Callable, Sequence

from tupelo.grammar.backend import GrammarError
from tupelo.grammar.ebnf_lark import ebnf_to_lark
from tupelo.grammar.structural import (
    AnyText,
    Const,
    Ebnf,
    Either,
    Format,
    Pattern,
    Repeated,
    Schema,
    Separated,
    Tag,
    Triggered,
    parse_structural,
)
from tupelo.grammar.structural import (
    Sequence as InTurn,
)

_FREE = "/(?s:.*)/"


def structural_to_lark(
    text: str,
    special_tokens: dict[str, int],
    schema_source: Callable[[object], str],
    regex_literal: Callable[[str], str],
) -> str:
    """The Lark grammar of a structural tag.

    Args:
        special_tokens: text and id of every special token.
        schema_source: a schema with the operator's options in it, as JSON.
        regex_literal: a regular expression as Lark writes it.

    Raises:
        GrammarError: no structural tag, or free text that nothing fixed ends.
    """
    writer = _Writer(special_tokens, schema_source, regex_literal)
    start = writer.sequence([parse_structural(text)])
    return f"start: {start}\n" + "\n".join(writer.lines) + "\n"


class _Writer:
    def __init__(
        self,
        special_tokens: dict[str, int],
        schema_source: Callable[[object], str],
        regex_literal: Callable[[str], str],
    ) -> None:
        self.lines: list[str] = []
        self._special = special_tokens
        self._schema = schema_source
        self._regex = regex_literal
        names = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, names))})") if names else None

    def sequence(self, formats: Sequence[Format]) -> str:
        """An expression for ``formats`` in turn; free text takes the fixed text after it along."""
        items = list(_flat(formats))
        parts = []
        while items:
            item = items.pop(0)
            ends: tuple[str, ...] = ()
            if _is_free(item):
                if items:
                    ends = self._ends(items.pop(0))
                parts.append(self._free(item, ends))
            elif isinstance(item, Either) and any(map(_ends_free, item.options)) and items:
                after = items.pop(0)
                options = [self.sequence([option, after]) for option in item.options]
                parts.append(f"({' | '.join(options)})")
            else:
                parts.append(self._one(item))
        return " ".join(part for part in parts if part) or '""'

    def _one(self, item: Format) -> str:
        match item:
            case Const(text):
                return self._fixed(text)
            case Schema(schema):
                return self._line(f"%json {self._schema(schema)}")
            case Pattern(pattern):
                return self._line(self._regex(pattern), terminal=True)
            case Ebnf(text):
                rules, start = ebnf_to_lark(text, prefix=f"g{len(self.lines)}_")
                self.lines.append(rules)
                return start
            case Either(options):
                return f"({' | '.join(self.sequence([option]) for option in options)})"
            case Repeated(inner, low, high):
                return self._repeated(inner, low, high)
            case Separated():
                return self._separated(item)
            case Tag(begin, content, ends):
                if _ends_free(content):  # several ends, or _flat would have opened it
                    return self.sequence([Const(begin), content, Either(tuple(map(Const, ends)))])
                closing = " | ".join(self._fixed(end) or '""' for end in ends)
                return f"{self._fixed(begin)} {self.sequence([content])} ({closing})"
        raise AssertionError(f"no part of a sequence: {type(item).__name__}")

    def _repeated(self, inner: Format, low: int, high: int | None) -> str:
        if _ends_free(inner):
            raise GrammarError("free text may not be repeated without fixed text that ends it")
        count = f"{{{low},{'' if high is None else high}}}"
        return f"({self.sequence([inner])}){count}" if high != 0 else ""

    def _separated(self, item: Separated) -> str:
        tag = self._line(" | ".join(self._tag(tag) for tag in item.tags))
        more = "" if item.stop_after_first else f" ({self._fixed(item.separator)} {tag})*"
        return f"({tag}{more})" + ("" if item.at_least_one else "?")

    # Free text

    def _free(self, item: Format, ends: tuple[str, ...]) -> str:
        """Text up to one of ``ends``; without any, up to the end of everything."""
        if isinstance(item, AnyText):
            return self._until(item.excludes, ends) if ends else self._tail(item.excludes)
        assert isinstance(item, Triggered)
        heads = []
        for trigger in item.triggers:
            rests = [
                self._after(tag, trigger) for tag in item.tags if tag.begin.startswith(trigger)
            ]
            heads.append(f"{self._until(item.excludes, (trigger,))} ({' | '.join(rests)})")
        tagged = self._line(" | ".join(heads))
        if ends:
            tail = self._until(item.excludes, ends)
            closing = f"({' | '.join(self._fixed(end) for end in ends)})"
        else:
            tail, closing = self._tail((*item.triggers, *item.excludes)), ""
        first = " | ".join(self._tag(tag) for tag in item.tags)
        if item.stop_after_first:
            return (
                f"(({first}) {closing})"
                if item.at_least_one
                else (f"({tagged} {closing} | {tail})")
            )
        return (f"({first}) " if item.at_least_one else "") + f"{tagged}* {tail}"

    def _until(self, excludes: Sequence[str], ends: tuple[str, ...]) -> str:
        """Free text and the first of ``ends`` in it."""
        spelled = [self._spell(end) for end in ends]
        if all(isinstance(parts[0], int) for parts in spelled):
            # A special token ends a text by itself.
            closing = " | ".join(self._fixed(end) for end in ends)
            return f"{self._tail(excludes)} ({closing})"
        if any(isinstance(part, int) for parts in spelled for part in parts):
            raise GrammarError(
                f"{ends[0]!r:.60}: mixes text and special tokens, which cannot end text"
            )
        text = self._line(_text(excludes), terminal=True)
        closing = " | ".join(json.dumps(end, ensure_ascii=False) for end in ends)
        return self._line(f"{text} ({closing})", mark="[lazy]")

    def _tail(self, excludes: Sequence[str]) -> str:
        return self._line(_text([t for t in excludes if t not in self._special]), terminal=True)

    def _ends(self, item: Format) -> tuple[str, ...]:
        """The fixed texts that an item is; free text before it ends there."""
        if isinstance(item, Const) and item.text:
            return (item.text,)
        if isinstance(item, Either):
            return tuple(end for option in item.options for end in self._ends(option))
        raise GrammarError("free text must be followed by fixed text, or by nothing")

    # Pieces

    def _tag(self, tag: Tag) -> str:
        return self._after(tag, "")

    def _after(self, tag: Tag, trigger: str) -> str:
        """What a tag is behind its trigger."""
        rest = tag.begin[len(trigger) :]
        ends: Format = (
            Const(tag.ends[0]) if len(tag.ends) == 1 else Either(tuple(map(Const, tag.ends)))
        )
        items: list[Format] = [Const(rest), tag.content]
        if any(tag.ends):
            items.append(ends)
        return self.sequence(items)

    def _fixed(self, text: str) -> str:
        parts = (
            f"<[{part}]>" if isinstance(part, int) else json.dumps(part, ensure_ascii=False)
            for part in self._spell(text)
        )
        return " ".join(parts)

    def _spell(self, text: str) -> list[str | int]:
        """A text as pieces of text and ids of special tokens; at least one piece."""
        pieces = self._split.split(text) if self._split is not None else [text]
        return [self._special.get(piece, piece) for piece in pieces if piece] or [""]

    def _line(self, body: str, *, terminal: bool = False, mark: str = "") -> str:
        name = f"{'S' if terminal else 's'}{len(self.lines)}"
        self.lines.append(f"{name}{mark}: {body}")
        return name


def _flat(formats: Sequence[Format]) -> list[Format]:
    """Sequences, and tags with one end, as their parts."""
    found: list[Format] = []
    for item in formats:
        if isinstance(item, InTurn):
            found += _flat(item.items)
        elif isinstance(item, Tag) and len(item.ends) == 1:
            found += _flat([Const(item.begin), item.content, Const(item.ends[0])])
        elif not (isinstance(item, Const) and not item.text):
            found.append(item)
    return found


def _is_free(item: Format) -> bool:
    return isinstance(item, AnyText | Triggered)


def _ends_free(item: Format) -> bool:
    """Whether free text stands at the end of an item, where only what follows can end it."""
    items = _flat([item])
    if not items:
        return False
    last = items[-1]
    if isinstance(last, Either):
        return any(map(_ends_free, last.options))
    if isinstance(last, Triggered):
        return not (last.stop_after_first and last.at_least_one)
    return isinstance(last, AnyText)


def _text(excludes: Sequence[str]) -> str:
    """A terminal for text in which some texts do not appear."""
    found = [_plain_pattern(text) for text in excludes if text]
    if not found:
        return _FREE
    return f"{_FREE} & ~/(?s:.*)({'|'.join(found)})(?s:.*)/"


def _plain_pattern(text: str) -> str:
    """A text as a regular expression on one line of Lark."""
    pattern = re.escape(text).replace("/", "\\/")
    for char, name in (("\n", "n"), ("\r", "r"), ("\t", "t")):
        pattern = pattern.replace(f"\\{char}", f"\\{name}")
    return pattern
