"""JSON Schemas: whatever is generated under one is valid by another implementation, or refused."""

import json

import jsonschema
import pytest
from tests.unit.grammar.schemas import REFUSED, SCHEMAS, obj, whole, word
from tests.unit.grammar.walks import Walker

from tupelo.grammar import GrammarOptions, Vocabulary
from tupelo.grammar.backend import GrammarError
from tupelo.grammar.backends import open_backend

FORMATS = jsonschema.Draft202012Validator.FORMAT_CHECKER
NATIVE = {"depth 10,000", "enum of 100,000", "long chain of references"}
"""Refused before, or beside, the library: see the tests of compiling and of hostile input."""


def validate(value: object, schema: object) -> None:
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator, format_checker=FORMATS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_generated_is_valid(walker: Walker, name: str) -> None:
    schema = SCHEMAS[name]
    grammar = walker.shared("json_schema", json.dumps(schema))
    for seed in range(2):
        text = walker.text(walker.walk(grammar.matcher(), seed, 3000))
        validate(json.loads(text), schema)


def test_the_corpus_is_as_big_as_it_claims() -> None:
    assert len(SCHEMAS) >= 100


@pytest.mark.parametrize(
    "name", sorted(set(REFUSED) - NATIVE - {"passes the check and takes for ever"})
)
def test_what_cannot_be_followed_is_refused(walker: Walker, name: str) -> None:
    schema, said = REFUSED[name]
    with pytest.raises(GrammarError) as caught:
        walker.shared("json_schema", schema if isinstance(schema, str) else json.dumps(schema))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (word(3), '"abcd"'),
        (whole(0, 9), "10"),
        (obj({"a": whole()}), '{"b": 1}'),
        (obj({"a": whole()}), '{"a": 1, "b": 1}'),
        (obj({"a": whole()}), "{}"),
        ({"enum": ["a"]}, '"b"'),
        (True, "{'a': 1}"),
        (True, "[1,]"),
        (True, "01"),
        (True, '"\n"'),
    ],
)
def test_what_is_invalid_cannot_be_generated(walker: Walker, schema: object, value: str) -> None:
    assert not walker.accepts(walker.shared("json_schema", json.dumps(schema)).matcher(), value)


def test_the_empty_schema_is_any_json(walker: Walker) -> None:
    for schema in ("{}", "true"):
        grammar = walker.shared("json_schema", schema)
        for value in ('{"a": [1, {"b": null}]}', "3.5e-7", '"é\\n"', "[]", "false"):
            assert walker.accepts(grammar.matcher(), value)


def test_json_object_is_an_object(walker: Walker) -> None:
    grammar = walker.shared("json_object")
    assert walker.accepts(grammar.matcher(), '{"a": {"b": [1, 2]}}')
    assert not walker.accepts(grammar.matcher(), "[1]")


def test_a_schema_that_is_not_strict_leaves_out_what_cannot_be_enforced(walker: Walker) -> None:
    schema = {"type": "array", "items": whole(0, 9), "maxItems": 3, "uniqueItems": True}
    grammar = walker.shared("json_schema", json.dumps(schema), strict=False)
    assert walker.accepts(grammar.matcher(), "[1, 1]")
    assert not walker.accepts(grammar.matcher(), "[1, 1, 1, 1]")


def test_a_schema_may_not_widen_its_own_bounds(walker: Walker) -> None:
    schema = {
        "x-guidance": {"whitespace_pattern": "[ ]*", "item_separator": ";", "lenient": True},
        **obj({"a": whole(), "b": whole()}),
    }
    grammar = walker.shared("json_schema", json.dumps(schema))
    assert walker.accepts(grammar.matcher(), '{"a": 1, "b": 2}')
    assert not walker.accepts(grammar.matcher(), '{"a":' + " " * 50 + '1, "b": 2}')
    assert not walker.accepts(grammar.matcher(), '{"a": 1; "b": 2}')


@pytest.mark.parametrize(
    ("whitespace", "good", "bad"),
    [
        (
            GrammarOptions().whitespace,
            ['{"a": 1}', '{\n    "a":  1\n}'],
            ['{"a":   1}', '{\n\n"a":1}'],
        ),
        ("", ['{"a":1}'], ['{"a": 1}', '{ "a":1}']),
        ("[ ]", ['{"a": 1}', '{"a":1}'], ['{"a":  1}', '{\n"a":1}']),
    ],
    ids=["default", "none", "chosen"],
)
def test_whitespace_is_what_the_operator_allows(
    vocabulary: Vocabulary, whitespace: str, good: list[str], bad: list[str]
) -> None:
    library = open_backend(vocabulary, GrammarOptions(whitespace=whitespace))
    walker = Walker(library, vocabulary)
    grammar = walker.shared("json_schema", json.dumps(obj({"a": whole()})))
    for text in good:
        assert walker.accepts(grammar.matcher(), text), text
    for text in bad:
        assert not walker.accepts(grammar.matcher(), text), text
