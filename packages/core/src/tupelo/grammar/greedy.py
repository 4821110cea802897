"""Where a lexer that always takes the longest match would go wrong, and how to avoid it.

llguidance reads a grammar as rules over terminals, and a terminal is matched greedily: in
``[a-z]+ "x"`` the first would swallow every x. Rules that do not refer to themselves become one
terminal each, in which nothing is greedy. Where terminals stand side by side, this module finds
those that could swallow, or be swallowed by, what stands beside them; they are taken apart, down to
single characters, of which any number may match at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

from tupelo.grammar.ebnf import Alt, Chars, Literal, Node, Ref, Seq, merge_ranges

Ranges = tuple[tuple[int, int], ...]
NOTHING: Ranges = ()


@dataclass(frozen=True, slots=True)
class Shape:
    """What a text that matches a regular tree can look like; sets may be too large, never too
    small.

    Attributes:
        nullable: it may be empty. first: characters that it may begin with.
        more: characters that may follow a complete match and belong to a longer one.
        all: every character in it.
    """

    nullable: bool
    first: Ranges
    more: Ranges
    all: Ranges


EMPTY = Shape(True, NOTHING, NOTHING, NOTHING)


class Shapes:
    """Shapes of regular trees, over rules that do not refer to themselves."""

    def __init__(self, rules: dict[str, Node]) -> None:
        self._rules = rules
        self._known: dict[str, Shape] = {}

    def of(self, node: Node) -> Shape:
        """The shape of a tree without recursion."""
        if isinstance(node, Ref):
            if node.name not in self._known:
                self._known[node.name] = self.of(self._rules[node.name])
            return self._known[node.name]
        if isinstance(node, Chars):
            return Shape(False, node.ranges, NOTHING, node.ranges)
        if isinstance(node, Literal):
            if not node.text:
                return EMPTY
            first = (ord(node.text[0]),) * 2
            every = merge_ranges([(ord(char),) * 2 for char in node.text])
            return Shape(False, (first,), NOTHING, every)
        if isinstance(node, Seq):
            return reduce(_in_turn, map(self.of, node.items), EMPTY)
        if isinstance(node, Alt):
            return reduce(_either, map(self.of, node.options))
        item = self.of(node.item)
        if node.high == 0:
            return EMPTY
        once = Shape(node.low == 0 or item.nullable, item.first, item.more, item.all)
        if node.high == 1:
            return once
        ambiguous = overlap(item.more, item.first)
        more = item.all if ambiguous else union(item.more, item.first)
        return Shape(once.nullable, item.first, more, item.all)


def _in_turn(a: Shape, b: Shape) -> Shape:
    every = union(a.all, b.all)
    more = union(b.more, a.more, b.first) if b.nullable else b.more
    if overlap(a.more, b.first) or (a.nullable and overlap(a.first, b.first)):
        more = every
    first = union(a.first, b.first) if a.nullable else a.first
    return Shape(a.nullable and b.nullable, first, more, every)


def _either(a: Shape, b: Shape) -> Shape:
    every = union(a.all, b.all)
    more = every if overlap(a.first, b.first) else union(a.more, b.more)
    # An empty match is complete, and whatever begins the other belongs to a longer one.
    if a.nullable or b.nullable:
        more = union(more, a.first, b.first)
    return Shape(a.nullable or b.nullable, union(a.first, b.first), more, every)


def union(*sets: Ranges) -> Ranges:
    """Characters in any of the sets."""
    return merge_ranges([item for ranges in sets for item in ranges])


def overlap(a: Ranges, b: Ranges) -> bool:
    """Whether two sets share a character."""
    i = j = 0
    while i < len(a) and j < len(b):
        if a[i][1] < b[j][0]:
            i += 1
        elif b[j][1] < a[i][0]:
            j += 1
        else:
            return True
    return False


def recursive_rules(rules: dict[str, Node], uses: dict[str, set[str]]) -> set[str]:
    """Rules that refer to themselves, directly or not, and rules that refer to those."""
    # What can be computed from the leaves up does not recur.
    waiting = {name: set(used) for name, used in uses.items()}
    users: dict[str, list[str]] = {name: [] for name in rules}
    for name, used in uses.items():
        for other in used:
            users[other].append(name)
    ready = [name for name, used in waiting.items() if not used]
    while ready:
        name = ready.pop()
        del waiting[name]
        for user in users[name]:
            waiting[user].discard(name)
            if not waiting[user] and user not in ready:
                ready.append(user)
    return set(waiting)


def unsafe(
    terminals: dict[int, Shape],
    follows: dict[int, Ranges],
    together: Iterable[frozenset[int]],
) -> set[int]:
    """Terminals that would be matched wrongly, greedily.

    Args:
        terminals: by number. follows: what may come after each.
        together: sets of terminals that may begin at one place.
    """
    found = {n for n, shape in terminals.items() if overlap(shape.more, follows[n])}
    for group in together:
        for one in group:
            for other in group:
                if one == other or not overlap(terminals[one].first, terminals[other].first):
                    continue
                # ``other`` may go on where ``one`` is complete, and ``one`` is lost.
                if overlap(terminals[other].all, follows[one]):
                    found |= {one, other}
    return found
