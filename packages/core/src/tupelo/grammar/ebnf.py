"""EBNF as users of xgrammar, SGLang and llama.cpp write it: parsed into a small tree.

::

    root  ::= "[" ws (value ("," ws value)*)? "]"     # a comment
    value ::= [0-9]+ | "\\"" [^"\\\\]{0,20} "\\"" | root
    ws    ::= [ \\t\\n]*

Literals in double quotes, character classes, groups, ``|``, ``* + ?``, ``{n}``, ``{n,}``, ``{n,m}``
and ``.`` for any character. A rule goes on until the next ``name ::=``.
"""

import re
from dataclasses import dataclass

from tupelo.grammar.backend import GrammarError

MAX_CODE = 0x10FFFF
MAX_REPEAT = 100_000


@dataclass(frozen=True, eq=False)
class Chars:
    """One character out of some ranges of code points, ascending and apart from one another."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Literal:
    """A text as it stands; may be empty."""

    text: str


@dataclass(frozen=True, eq=False)
class Ref:
    """A rule by its name."""

    name: str


@dataclass(frozen=True, eq=False)
class Seq:
    """One after the other."""

    items: tuple["Node", ...]


@dataclass(frozen=True, eq=False)
class Alt:
    """One of several."""

    options: tuple["Node", ...]


@dataclass(frozen=True, eq=False)
class Repeat:
    """At least ``low`` times; at most ``high`` times, None for no limit."""

    item: "Node"
    low: int
    high: int | None


Node = Chars | Literal | Ref | Seq | Alt | Repeat

_TOKENS = re.compile(
    r"""(?P<space>(?:[ \t\r\n]|\#[^\n]*)+)
      | (?P<macro>TagDispatch\b|\(=)
      | (?P<rule>[A-Za-z_][\w.-]*[ \t]*::=)
      | (?P<name>[A-Za-z_][\w.-]*)
      | (?P<literal>"(?:[^"\\\r\n]|\\.)*")
      | (?P<chars>\[(?:[^\]\\\r\n]|\\.)*\])
      | (?P<count>\{[ ]*\d+[ ]*(?:,[ ]*\d*[ ]*)?\})
      | (?P<mark>[()|*+?.])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}


def parse_ebnf(text: str) -> dict[str, Node]:
    """The rules by name; ``root`` is among them and every name that is used is defined.

    Raises:
        GrammarError: no EBNF; says where.
    """
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise GrammarError("has no rule named root (root ::= …)")
    for node in rules.values():
        for name in names_in(node):
            if name not in rules:
                raise GrammarError(f"rule {name!r} is used and not defined")
    _check_ends(rules)
    return rules


def _check_ends(rules: dict[str, Node]) -> None:
    """Refuse a grammar none of whose texts is finite, such as ``root ::= "a" root``."""
    finite: set[str] = set()
    grew = True
    while grew:
        new = {name for name, node in rules.items() if _can_end(node, finite)}
        grew = new != finite
        finite = new
    if "root" not in finite:
        raise GrammarError("nothing can satisfy it: every text would go on for ever")


def _can_end(node: Node, finite: set[str]) -> bool:
    if isinstance(node, Ref):
        return node.name in finite
    if isinstance(node, Alt):
        return any(_can_end(option, finite) for option in node.options)
    if isinstance(node, Repeat):
        return node.low == 0 or _can_end(node.item, finite)
    return all(_can_end(item, finite) for item in children(node))


def names_in(node: Node) -> set[str]:
    """Names of the rules that a tree refers to."""
    found: set[str] = set()
    todo = [node]
    while todo:
        item = todo.pop()
        if isinstance(item, Ref):
            found.add(item.name)
        todo += children(item)
    return found


def children(node: Node) -> tuple[Node, ...]:
    """The parts of a node."""
    if isinstance(node, Seq):
        return node.items
    if isinstance(node, Alt):
        return node.options
    return (node.item,) if isinstance(node, Repeat) else ()


class _Parser:
    """Recursive descent over a list of tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str, int]] = []
        place = 0
        while place < len(text):
            match = _TOKENS.match(text, place)
            if match is None:
                raise self._error(place, "this is not understood")
            if match.lastgroup == "macro":
                raise self._error(place, "look-ahead and tag dispatch are not supported")
            if match.lastgroup != "space":
                self._tokens.append((str(match.lastgroup), match.group(), place))
            place = match.end()
        self._tokens.append(("end", "", len(text)))
        self._next = 0

    def rules(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while self._peek()[0] != "end":
            kind, text, place = self._take()
            if kind != "rule":
                raise self._error(place, "a rule was expected (name ::= …)")
            name = text[:-3].strip()
            if name in found:
                raise self._error(place, f"rule {name!r} is defined twice")
            found[name] = self._alternatives()
        return found

    def _alternatives(self) -> Node:
        options = [self._sequence()]
        while self._peek()[1] == "|":
            self._take()
            options.append(self._sequence())
        return options[0] if len(options) == 1 else Alt(tuple(options))

    def _sequence(self) -> Node:
        items: list[Node] = []
        while self._peek()[0] in ("name", "literal", "chars") or self._peek()[1] in ("(", "."):
            items.append(self._repeated())
        if not items and self._peek()[0] not in ("rule", "end") and self._peek()[1] not in "|)":
            raise self._error(self._peek()[2], "this is not expected here")
        return items[0] if len(items) == 1 else Seq(tuple(items))

    def _repeated(self) -> Node:
        node = self._atom()
        while True:
            kind, text, place = self._peek()
            if kind != "count" and text not in ("*", "+", "?"):
                return node
            self._take()
            low, high = _counts(text)
            if low > MAX_REPEAT or (high is not None and not low <= high <= MAX_REPEAT):
                raise self._error(place, f"counts go from 0 to {MAX_REPEAT}, smaller first")
            node = Repeat(node, low, high)

    def _atom(self) -> Node:
        kind, text, place = self._take()
        if kind == "name":
            return Ref(text)
        if kind == "literal":
            return Literal("".join(self._chars(text[1:-1], place)))
        if kind == "chars":
            return self._class(text[1:-1], place)
        if text == ".":
            return Chars(((0, MAX_CODE),))
        node = self._alternatives()
        if self._take()[1] != ")":
            raise self._error(place, "this bracket is never closed")
        return node

    def _class(self, text: str, place: int) -> Chars:
        negated = text.startswith("^")
        pieces = list(_ESCAPE.split(text[1:] if negated else text))
        # A hyphen between two characters makes a range; an escaped one is a character.
        marks: list[str | None] = []
        for number, piece in enumerate(pieces):
            if number % 5 == 0:
                marks += [None if char == "-" else char for char in piece]
            elif piece is not None:
                marks.append(self._escaped(number % 5, piece, place))
        ranges, index = [], 0
        while index < len(marks):
            low = marks[index] or "-"
            high = low
            if 0 < index + 1 < len(marks) - 1 and marks[index + 1] is None:
                high = marks[index + 2] or "-"
                index += 2
            if high < low:
                raise self._error(place, f"the range {low!r} to {high!r} is empty")
            ranges.append((ord(low), ord(high)))
            index += 1
        merged = merge_ranges(ranges)
        if negated:
            merged = complement(merged)
        if not merged:
            raise self._error(place, "this class has no character")
        return Chars(merged)

    def _chars(self, text: str, place: int) -> list[str]:
        found: list[str] = []
        for number, piece in enumerate(_ESCAPE.split(text)):
            if number % 5 == 0:
                found += piece
            elif piece is not None:
                found.append(self._escaped(number % 5, piece, place))
        return found

    def _escaped(self, group: int, piece: str, place: int) -> str:
        if group == 4:
            if piece.isalnum() and piece not in _SIMPLE:
                raise self._error(place, f"unknown escape \\{piece}")
            return _SIMPLE.get(piece, piece)
        code = int(piece, 16)
        if code > MAX_CODE or 0xD800 <= code <= 0xDFFF:
            raise self._error(place, f"{code:#x} is no character")
        return chr(code)

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._next]

    def _take(self) -> tuple[str, str, int]:
        token = self._tokens[self._next]
        self._next = min(self._next + 1, len(self._tokens) - 1)
        return token

    def _error(self, place: int, message: str) -> GrammarError:
        line = self._text.count("\n", 0, place) + 1
        column = place - self._text.rfind("\n", 0, place)
        near = self._text[place : place + 20].split("\n")[0]
        return GrammarError(f"line {line}, column {column}, at {near!r}: {message}")


def _counts(text: str) -> tuple[int, int | None]:
    if text in "*+?":
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
    low, comma, high = text[1:-1].partition(",")
    if not comma:
        return int(low), int(low)
    return int(low), int(high) if high.strip() else None


def merge_ranges(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ascending ranges that neither overlap nor touch."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def complement(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Every other code point."""
    found, start = [], 0
    for low, high in ranges:
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    if start <= MAX_CODE:
        found.append((start, MAX_CODE))
    return tuple(found)
