"""Regular expressions and choices, against Python's own ``re``."""

import json
import re

import pytest
from tests.unit.grammar.walks import Walker

from tupelo.grammar.backend import GrammarError

PATTERNS = [
    r"\d{3}-\d{4}",
    r"(yes|no|maybe)",
    r"[A-Z][a-z]{2,8}",
    r"#[0-9a-f]{6}",
    r"(\+|-)?[0-9]{1,5}(\.[0-9]{1,3})?",
    r"v?\d{1,2}\.\d{1,2}\.\d{1,2}",
    r"[a-z0-9_]{1,10}@[a-z]{2,8}\.(com|org|net)",
    r"(25[0-5]|2[0-4]\d|1?\d?\d)(\.(25[0-5]|2[0-4]\d|1?\d?\d)){3}",
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])",
    r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d)?",
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"(a|b)*c{2,4}",
    r"(ab?c){1,5}",
    r"(a+)+b",
    r"((a{1,4}){1,4}){1,4}b",
    r"x*y+z?",
    r".{1,12}",
    r"[^a-z]{1,6}",
    r"\w+\s\w+",
    r"\S{1,8}",
    r"\D\d\W\w",
    r"\(\d{3}\) \d{3}-\d{4}",
    r"https?://[a-z]{1,10}\.[a-z]{2,3}(/[a-z]{0,6}){0,3}",
    r"\\[nrt\"\\]",
    r"\$\d{1,3}(,\d{3}){0,2}\.\d{2}",
    r"(?:red|green|blue)(?:, (?:red|green|blue)){0,3}",
    r"(?i:hello) (?i)WORLD",
    r"[\u0391-\u03a9]{2,5}",
    r"^anchored$",
    r"(один|два|三)",
    r"[\[\]{}().*+?^$|/-]{1,5}",
    r"a{0}b{3}",
]


def test_there_are_enough() -> None:
    assert len(PATTERNS) >= 30


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_generated_matches(walker: Walker, pattern: str) -> None:
    oracle = re.compile(pattern.replace("(?i)WORLD", "(?i:WORLD)"), re.ASCII)
    grammar = walker.shared("regex", pattern)
    texts = [walker.text(walker.walk(grammar.matcher(), seed, 200)) for seed in range(3)]
    assert all(oracle.fullmatch(text) for text in texts), texts


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"\d+", ["0", "12345"], ["", "a", "1a", "٣"]),
        (r"a|bc", ["a", "bc"], ["b", "abc", "ac"]),
        (r"^a$", ["a"], ["", "^a$", "aa"]),
        (r"a\$", ["a$"], ["a"]),
        (r"a\\$", ["a\\"], ["a", "a\\$"]),
        (r"a/b", ["a/b"], ["a\\/b"]),
        (r".", ["x", "é", "🙂"], ["\n", "", "xy"]),
        (r"(a|ab)(c|bcd)", ["ac", "abc", "abcd", "abbcd"], ["a", "ab", "abcdd"]),
        (r"a*", ["", "aaaa"], ["b"]),
        ("", [""], ["a"]),
        ("^$", [""], ["a"]),
    ],
)
def test_whole_matches_only(walker: Walker, pattern: str, good: list[str], bad: list[str]) -> None:
    grammar = walker.shared("regex", pattern)
    for text in good:
        assert walker.accepts(grammar.matcher(), text), text
    for text in bad:
        assert not walker.accepts(grammar.matcher(), text), text


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "unclosed"),
        ("a(?=b)", "look-around"),
        (r"(a)\1", "backreferences"),
        ("[z-a]", "range"),
        ("a{3,1}", "repetition"),
        ("*", "repetition"),
        (r"\p{Nonsense}", "property"),
        ("(" * 400 + "a" + ")" * 400, "nest"),
    ],
)
def test_bad_patterns_are_refused(walker: Walker, pattern: str, said: str) -> None:
    with pytest.raises(GrammarError, match=said):
        walker.shared("regex", pattern)


CHOICES = [
    "yes",
    "no",
    "no way",
    'a "quote"',
    "back\\slash",
    "new\nline",
    "日本",
    "🙂",
    "</s>",
    "#",
]


def test_choices_are_all_that_can_come(walker: Walker) -> None:
    grammar = walker.shared("choice", json.dumps(CHOICES))
    for choice in CHOICES:
        assert walker.accepts(grammar.matcher(), choice), choice
    for text in ("", "ye", "yes ", "no w", "maybe"):
        assert not walker.accepts(grammar.matcher(), text), text
    seen = {walker.text(walker.walk(grammar.matcher(), seed)) for seed in range(40)}
    assert seen <= set(CHOICES)
    assert len(seen) > 4


def test_a_choice_may_be_empty(walker: Walker) -> None:
    grammar = walker.shared("choice", '["", "a"]')
    assert walker.accepts(grammar.matcher(), "")
    assert walker.accepts(grammar.matcher(), "a")


def test_ten_thousand_choices(walker: Walker) -> None:
    choices = [f"item-{i * 7919 % 10007}" for i in range(10_000)]
    grammar = walker.shared("choice", json.dumps(choices))
    assert walker.accepts(grammar.matcher(), choices[-1])
    assert not walker.accepts(grammar.matcher(), "item-99999")


@pytest.mark.parametrize("text", ["{}", "[]", "[1]", '["a", null]', "[", '"a"'])
def test_bad_choices_are_refused(walker: Walker, text: str) -> None:
    with pytest.raises(GrammarError):
        walker.shared("choice", text)
