"""The other library, where it is installed: the same door, the same kinds."""

import json
import re

import jsonschema
import pytest
from tests.unit.grammar.recogniser import matches
from tests.unit.grammar.schemas import SCHEMAS, obj, whole
from tests.unit.grammar.test_ebnf import GRAMMARS
from tests.unit.grammar.test_structural import LEGACY, TAG
from tests.unit.grammar.walks import Walker

from tupelo.errors import ConfigError
from tupelo.grammar import GrammarOptions, Vocabulary
from tupelo.grammar.backend import GrammarError
from tupelo.grammar.backends import open_backend
from tupelo.grammar.ebnf import parse_ebnf

pytest.importorskip("xgrammar", reason="the extra tupelo-core[xgrammar] is not installed")

OPTIONS = GrammarOptions(backend="xgrammar")
NAMES = ["person", "tuple", "enum of kinds", "definitions", "pattern of a version", "anyOf scalars",
         "nested objects", "array of words", "quoted names", "ten properties"]  # fmt: skip


@pytest.fixture(scope="module")
def other(vocabulary: Vocabulary) -> Walker:
    return Walker(open_backend(vocabulary, OPTIONS), vocabulary)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_generated_is_valid(other: Walker, name: str) -> None:
    grammar = other.shared("json_schema", json.dumps(SCHEMAS[name]))
    for seed in range(2):
        text = other.text(other.walk(grammar.matcher(), seed, 1500))
        jsonschema.validate(json.loads(text), SCHEMAS[name])


@pytest.mark.parametrize("pattern", [r"\d{3}-\d{4}", r"(yes|no|maybe)", r"[A-Z][a-z]{2,8}"])
def test_patterns(other: Walker, pattern: str) -> None:
    grammar = other.shared("regex", pattern)
    for seed in range(3):
        assert re.fullmatch(pattern, other.text(other.walk(grammar.matcher(), seed, 60)))


@pytest.mark.parametrize("name", ["one rule", "arithmetic", "swallows its neighbour", "counts"])
def test_ebnf(other: Walker, name: str) -> None:
    rules = parse_ebnf(GRAMMARS[name])
    grammar = other.shared("ebnf", GRAMMARS[name])
    for seed in range(3):
        ids = other.walk(grammar.matcher(), seed, 25)
        if len(ids) < 25:
            assert matches(rules, other.text(ids))


def test_the_other_kinds(other: Walker) -> None:
    choice = other.shared("choice", json.dumps(["yes", 'a "quote"', "日本"]))
    assert other.accepts(choice.matcher(), 'a "quote"')
    assert not other.accepts(choice.matcher(), "no")
    assert other.accepts(other.shared("json_object").matcher(), '{"a": [1]}')
    call = '<function=get_weather>{"city": "x"}</function>'
    for value in (LEGACY, {"format": TAG}):
        grammar = other.shared("structural_tag", json.dumps(value))
        assert other.accepts(grammar.matcher(), call)
        assert not other.accepts(grammar.matcher(), call[:-3])


def test_it_ends_where_nothing_can_follow(other: Walker) -> None:
    matcher = other.shared("regex", "ab").matcher()
    for token in other.spell("ab"):
        other.allowed(matcher)
        matcher.accept(token)
    other.allowed(matcher)
    assert matcher.ended
    assert not matcher.error


def test_special_ids_are_never_allowed(other: Walker) -> None:
    vocabulary = other.vocabulary
    allowed = set(other.allowed(other.shared("regex", r"[^a]*").matcher()).tolist())
    assert allowed & set(vocabulary.special_ids) <= set(vocabulary.eos_ids)


def test_forced_tokens_fit(other: Walker) -> None:
    matcher = other.shared("regex", "The quick brown fox jumps over the lazy dog[.!]").matcher()
    forced = matcher.forced()
    assert len(forced) > 5
    for token in forced:
        matcher.accept(token)
    assert not matcher.error


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("json_schema", json.dumps({**obj({"a": whole()}), "not": {}}), "not"),
        ("json_schema", '{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("json_schema", '{"type": "string", "pattern": "^a+$", "maxLength": 3}', "maxLength"),
        ("json_schema", "{", "JSON"),
        ("json_schema", '{"$ref": "#/$defs/none"}', ""),
        ("regex", "(", ""),
        ("ebnf", "root ::= x", "'x' is used"),
        ("structural_tag", "{}", "structures"),
    ],
)
def test_what_it_cannot_follow_is_refused(other: Walker, kind: str, text: str, said: str) -> None:
    with pytest.raises(GrammarError) as caught:
        other.shared(kind, text)
    assert said in str(caught.value)


def test_a_pattern_for_whitespace_needs_the_default(vocabulary: Vocabulary) -> None:
    with pytest.raises(ConfigError, match="whitespace"):
        open_backend(vocabulary, GrammarOptions(backend="xgrammar", whitespace="[ ]"))
