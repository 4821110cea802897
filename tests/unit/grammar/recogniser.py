"""Which texts an EBNF grammar has, found the slow and certain way; not by what is tested."""

import random
from typing import Any

from tupelo.grammar.ebnf import Alt, Chars, Literal, Node, Ref, Repeat, Seq

Rules = dict[str, Node]


def matches(rules: Rules, text: str) -> bool:
    """Whether ``text`` is a text of the rule ``root``: a fixpoint over all (rule, start)."""
    known: dict[tuple[str, int], set[int]] = {}
    grew = True
    while grew:
        grew = False
        for name, node in rules.items():
            for start in range(len(text) + 1):
                found = _ends(node, start, text, known)
                if not found <= known.get((name, start), set()):
                    known.setdefault((name, start), set()).update(found)
                    grew = True
    return len(text) in known.get(("root", 0), set())


def _ends(node: Node, start: int, text: str, known: dict[tuple[str, int], set[int]]) -> set[int]:
    if isinstance(node, Ref):
        return set(known.get((node.name, start), set()))
    if isinstance(node, Literal):
        return {start + len(node.text)} if text.startswith(node.text, start) else set()
    if isinstance(node, Chars):
        fits = start < len(text) and any(a <= ord(text[start]) <= b for a, b in node.ranges)
        return {start + 1} if fits else set()
    if isinstance(node, Alt):
        return {end for option in node.options for end in _ends(option, start, text, known)}
    if isinstance(node, Seq):
        ends = {start}
        for item in node.items:
            ends = {end for place in ends for end in _ends(item, place, text, known)}
        return ends
    ends, found = {start}, {start} if node.low == 0 else set()
    limit = len(text) + node.low + 1 if node.high is None else node.high
    for count in range(1, min(limit, len(text) + node.low + 1) + 1):
        ends = {end for place in ends for end in _ends(node.item, place, text, known)}
        if count >= node.low:
            found |= ends
        if not ends:
            break
    return found


def generate(rules: Rules, draw: random.Random, node: Node | None = None, depth: int = 0) -> str:
    """A random text of a grammar.

    Raises:
        RecursionError: this one would have become too deep.
    """
    node = rules["root"] if node is None else node
    if depth > 24:
        raise RecursionError
    if isinstance(node, Ref):
        return generate(rules, draw, rules[node.name], depth + 1)
    if isinstance(node, Literal):
        return node.text
    if isinstance(node, Chars):
        shown = [(max(a, 33), min(b, 126)) for a, b in node.ranges if a <= 126 and b >= 33]
        low, high = draw.choice(shown or node.ranges)
        return chr(draw.randint(low, min(high, low + 30)))
    if isinstance(node, Alt):
        return generate(rules, draw, draw.choice(node.options), depth)
    items: Any = node.items if isinstance(node, Seq) else ()
    if isinstance(node, Repeat):
        most = node.low + 2 if node.high is None else min(node.high, node.low + 2)
        items = [node.item] * draw.randint(node.low, most)
    return "".join(generate(rules, draw, item, depth) for item in items)
