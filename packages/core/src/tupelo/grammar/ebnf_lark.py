"""EBNF in llguidance's Lark: regular parts as terminals, what is recursive as rules."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from tupelo.grammar.backend import GrammarError
from tupelo.grammar.ebnf import (
    Alt,
    Chars,
    Literal,
    Node,
    Ref,
    Repeat,
    Seq,
    names_in,
    parse_ebnf,
)
from tupelo.grammar.greedy import (
    NOTHING,
    Ranges,
    Shape,
    Shapes,
    recursive_rules,
    union,
    unsafe,
)

MAX_ROUNDS = 64
"""Rounds of taking terminals apart; each reaches one level deeper into the trees."""


@dataclass(eq=False)
class _Terminal:
    """A regular tree that the lexer matches as a whole."""

    node: Node
    number: int


@dataclass(eq=False)
class _Rule:
    name: str


@dataclass(eq=False)
class _Group:
    """Parser-level structure: ``kind`` is seq, alt or repeat."""

    kind: str
    items: list["_Part"]
    low: int = 1
    high: int | None = 1


_Part = _Terminal | _Rule | _Group


def ebnf_to_lark(text: str, prefix: str = "") -> tuple[str, str]:
    """Lark rules for an EBNF grammar, and the name of the one to start with.

    Args:
        prefix: put before every name, so that several grammars can stand in one text.

    Raises:
        GrammarError: no EBNF.
    """
    return _Converter(parse_ebnf(text), prefix).lark()


@dataclass(slots=True)
class _Facts:
    """What the analysis of one round knows of a part."""

    nullable: bool = False
    first: Ranges = NOTHING
    starts: frozenset[int] = field(default_factory=frozenset)


class _Converter:
    def __init__(self, rules: dict[str, Node], prefix: str) -> None:
        self._rules = rules
        self._prefix = prefix
        uses = {name: names_in(node) for name, node in rules.items()}
        self._parsed = recursive_rules(rules, uses)
        self._shapes = Shapes(rules)
        self._terminals: dict[int, Node] = {}
        self._split: set[int] = set()
        self._runs: dict[tuple[int, ...], Seq] = {}
        self._letters: dict[tuple[int, int], Chars] = {}

    def lark(self) -> tuple[str, str]:
        if "root" not in self._parsed:
            return self._emit({"root": self._terminal(self._rules["root"])})
        for _ in range(MAX_ROUNDS):
            self._terminals = {}
            parts = {name: self._part(self._rules[name]) for name in sorted(self._parsed)}
            wrong = self._wrong(parts)
            before = len(self._split), len(self._parsed)
            for number in wrong:
                self._take_apart(self._terminals[number])
            if (len(self._split), len(self._parsed)) == before:
                return self._emit(parts)
        raise GrammarError("is too ambiguous; give separate things separate characters")

    # Structure

    def _part(self, node: Node) -> _Part:
        if self._regular(node):
            if id(node) not in self._split:
                return self._terminal(node)
            if isinstance(node, Literal):
                letters = [self._letter(node, i) for i in range(len(node.text))]
                return _Group("seq", [self._terminal(letter) for letter in letters])
        if isinstance(node, Ref):
            return _Rule(node.name)
        if isinstance(node, Alt):
            return _Group("alt", [self._part(option) for option in node.options])
        if isinstance(node, Repeat):
            return _Group("repeat", [self._part(node.item)], node.low, node.high)
        assert isinstance(node, Seq)
        if id(node) in self._split:
            return _Group("seq", [self._part(item) for item in node.items])
        return _Group("seq", list(self._runs_of(node)))

    def _runs_of(self, node: Seq) -> Iterator[_Part]:
        """The items of a sequence, neighbours that are regular together."""
        run: list[Node] = []
        for item in (*node.items, None):
            if item is not None and self._regular(item) and id(item) not in self._split:
                run.append(item)
                continue
            if len(run) == 1:
                yield self._part(run[0])
            elif run:
                key = tuple(map(id, run))
                yield self._part(self._runs.setdefault(key, Seq(tuple(run))))
            run = []
            if item is not None:
                yield self._part(item)

    def _regular(self, node: Node) -> bool:
        return not names_in(node) & self._parsed

    def _terminal(self, node: Node) -> _Terminal:
        self._terminals[id(node)] = node
        return _Terminal(node, id(node))

    def _letter(self, node: Literal, index: int) -> Chars:
        code = ord(node.text[index])
        return self._letters.setdefault((id(node), index), Chars(((code, code),)))

    def _take_apart(self, node: Node) -> None:
        if isinstance(node, Ref):
            self._parsed.add(node.name)
        elif not isinstance(node, Chars) and not (isinstance(node, Literal) and len(node.text) < 2):
            self._split.add(id(node))

    # Analysis

    def _wrong(self, parts: dict[str, _Part]) -> set[int]:
        shapes = {number: self._shapes.of(node) for number, node in self._terminals.items()}
        facts = self._facts(parts, shapes)
        walk = _Walk(facts, shapes)
        while walk.grew:
            walk.grew = False
            for name, part in parts.items():
                walk.visit(part, *walk.after.get(name, (NOTHING, frozenset())))
        return unsafe(shapes, walk.follows, walk.together)

    def _facts(self, parts: dict[str, _Part], shapes: dict[int, Shape]) -> "_FactsOf":
        facts = _FactsOf(shapes)
        grew = True
        while grew:
            grew = False
            for name, part in parts.items():
                new = facts.of(part)
                if new != facts.rules.get(name):
                    facts.rules[name] = new
                    grew = True
        return facts

    # Text

    def _emit(self, parts: dict[str, _Part]) -> tuple[str, str]:
        names = {name: f"{self._prefix}r{i}" for i, name in enumerate(parts)}
        terminals: dict[int, str] = {}
        needed: dict[str, str] = {}
        lines: list[str] = []

        def named(name: str) -> str:
            """The terminal of a rule, written when it is first used."""
            if name not in needed:
                needed[name] = f"{self._prefix.upper()}T{len(needed)}"
                body = expression(self._rules[name])
                lines.append(f"{needed[name]}: {body}")
            return needed[name]

        def expression(node: Node) -> str:
            if isinstance(node, Ref):
                return named(node.name)
            if isinstance(node, Literal):
                return json.dumps(node.text, ensure_ascii=False)
            if isinstance(node, Chars):
                return f"/{_char_class(node.ranges)}/"
            if isinstance(node, Seq):
                return f"({' '.join(map(expression, node.items))})" if node.items else '""'
            if isinstance(node, Alt):
                return f"({' | '.join(map(expression, node.options))})"
            return _repeated(expression(node.item), node.low, node.high)

        def structure(part: _Part) -> str:
            if isinstance(part, _Rule):
                return names[part.name]
            if isinstance(part, _Terminal):
                if part.number not in terminals:
                    terminals[part.number] = f"{self._prefix.upper()}X{len(terminals)}"
                    body = expression(part.node)
                    lines.append(f"{terminals[part.number]}: {body}")
                return terminals[part.number]
            items = [structure(item) for item in part.items]
            if part.kind == "repeat":
                return _repeated(items[0], part.low, part.high)
            if not items:
                return '""'
            return f"({(' | ' if part.kind == 'alt' else ' ').join(items)})"

        for name, part in parts.items():
            lines.append(f"{names[name]}: {structure(part)}")
        return "\n".join(lines) + "\n", names["root"]


class _FactsOf:
    """Facts of parts, bottom up."""

    def __init__(self, shapes: dict[int, Shape]) -> None:
        self._shapes = shapes
        self.rules: dict[str, _Facts] = {}

    def of(self, part: _Part) -> _Facts:
        if isinstance(part, _Terminal):
            shape = self._shapes[part.number]
            return _Facts(shape.nullable, shape.first, frozenset({part.number}))
        if isinstance(part, _Rule):
            return self.rules.get(part.name, _Facts())
        items = [self.of(item) for item in part.items]
        if part.kind == "seq":
            found = _Facts(True)
            for item in reversed(items):
                found = in_front(item, found)
            return found
        nullable = any(i.nullable for i in items) or (part.kind == "repeat" and part.low == 0)
        first = union(*(i.first for i in items))
        return _Facts(nullable, first, frozenset().union(*(i.starts for i in items)))


def in_front(item: _Facts, rest: _Facts) -> _Facts:
    """Facts of ``item`` followed by ``rest``."""
    if not item.nullable:
        return item
    return _Facts(rest.nullable, union(item.first, rest.first), item.starts | rest.starts)


class _Walk:
    """What may follow each part, top down, until nothing new is found.

    Attributes:
        after: for each rule, characters and terminals that may follow it.
        follows: characters that may follow each terminal.
        together: terminals that may begin at one place.
    """

    def __init__(self, facts: _FactsOf, shapes: dict[int, Shape]) -> None:
        self._facts = facts
        self.after: dict[str, tuple[Ranges, frozenset[int]]] = {}
        self.follows: dict[int, Ranges] = dict.fromkeys(shapes, NOTHING)
        self.together: set[frozenset[int]] = set()
        self.grew = True

    def visit(self, part: _Part, chars: Ranges, starts: frozenset[int]) -> None:
        """``part`` stands before ``chars``, which terminals in ``starts`` begin."""
        if isinstance(part, _Terminal):
            self.follows[part.number] = union(self.follows[part.number], chars)
            return
        if isinstance(part, _Rule):
            old = self.after.get(part.name, (NOTHING, frozenset[int]()))
            new = (union(old[0], chars), old[1] | starts)
            self.grew = self.grew or new != old
            self.after[part.name] = new
            return
        if part.kind == "repeat":
            item = self._facts.of(part.items[0])
            if part.high != 1:
                chars, starts = union(chars, item.first), starts | item.starts
            self._note(item, starts, optional=True)
            self.visit(part.items[0], chars, starts)
            return
        if part.kind == "alt":
            self._note(self._facts.of(part), starts, optional=False)
            for option in part.items:
                self.visit(option, chars, starts)
            return
        rest = _Facts(True, chars, starts)
        for inner in reversed(part.items):
            facts = self._facts.of(inner)
            self._note(facts, rest.starts, optional=False)
            self.visit(inner, rest.first, rest.starts)
            rest = in_front(facts, rest)

    def _note(self, facts: _Facts, after: frozenset[int], *, optional: bool) -> None:
        group = facts.starts | after if facts.nullable or optional else facts.starts
        if len(group) > 1:
            self.together.add(group)


def _repeated(text: str, low: int, high: int | None) -> str:
    if high == 0:
        return '""'
    marks = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    count = f"{{{low},{'' if high is None else high}}}"
    return f"({text}){marks.get((low, high), count)}"


def _char_class(ranges: Ranges) -> str:
    """A class of a regular expression; every character by its code, so that none is special."""
    parts = []
    for low, high in ranges:
        parts.append(f"\\x{{{low:x}}}" + (f"-\\x{{{high:x}}}" if high > low else ""))
    return f"[{''.join(parts)}]"
