"""Structural tags in both notations."""

import json
from typing import Any

import pytest
from tests.unit.grammar.walks import Walker

from tupelo.grammar.backend import GrammarError

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 9}},
    "required": ["city"],
    "additionalProperties": False,
}
CALL = '<function=get_weather>{"city": "x"}</function>'
TAG = {
    "type": "tag",
    "begin": "<function=get_weather>",
    "content": {"type": "json_schema", "json_schema": CITY},
    "end": "</function>",
}
ANY = {"type": "any_text"}
FREE_CALLS = {"type": "triggered_tags", "triggers": ["<function="], "tags": [TAG]}


def const(text: str) -> dict[str, Any]:
    return {"type": "const_string", "value": text}


def tag(begin: str, content: dict[str, Any], end: str | list[str]) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


LEGACY = {
    "type": "structural_tag",
    "structures": [
        {"begin": "<function=get_weather>", "schema": CITY, "end": "</function>"},
        {"begin": "<function=get_time>", "schema": {"type": "object"}, "end": "</function>"},
    ],
    "triggers": ["<function="],
}

CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "calls in free text": (
        FREE_CALLS,
        ["", "hello", f"hi {CALL} there", CALL + CALL, "a < b, <func and <function"],
        ["<function=other>{}</function>", "<function=get_weather>{}</function>", CALL[:-1]],
    ),
    "at least one": (
        {**FREE_CALLS, "at_least_one": True},
        [CALL, f"{CALL} and {CALL}"],
        ["", "hello", f"hi {CALL}"],
    ),
    "one and no more": (
        {**FREE_CALLS, "at_least_one": True, "stop_after_first": True},
        [CALL],
        ["", "hello", f"{CALL} ", f"hi {CALL}"],
    ),
    "up to one": (
        {**FREE_CALLS, "stop_after_first": True},
        ["", "hello", f"hi {CALL}"],
        [f"{CALL} "],
    ),
    "excludes": ({**FREE_CALLS, "excludes": ["sorry"]}, ["fine", CALL], ["so sorry", "sorry"]),
    "separated": (
        {"type": "tags_with_separator", "tags": [TAG], "separator": ", ", "at_least_one": True},
        [CALL, f"{CALL}, {CALL}"],
        ["", f"{CALL},{CALL}", f"{CALL}, "],
    ),
    "separated, up to one": (
        {"type": "tags_with_separator", "tags": [TAG], "separator": "", "stop_after_first": True},
        ["", CALL],
        [CALL + CALL],
    ),
    "thoughts, then calls": (
        {"type": "sequence", "elements": [tag("<think>", ANY, "</think>"), FREE_CALLS]},
        ["<think>so</thin </think>well", f"<think></think>{CALL}", "<think></think>"],
        ["well", "<think>so", f"<think></think>{CALL[:-2]}"],
    ),
    "a trigger of several lines": (
        {**FREE_CALLS, "triggers": ["Go:\n\t/"], "tags": [{**TAG, "begin": "Go:\n\t/"}]},
        ["hi", 'Go:\n\t/{"city": "x"}</function>', "Go:\n/"],
        ["Go:\n\t/"],
    ),
    "any text": ({**ANY, "excludes": ["bad", "worse"]}, ["", "good", "ba d"], ["so bad"]),
    "a sequence": (
        {
            "type": "sequence",
            "elements": [
                const("Answer: "),
                {
                    "type": "or",
                    "elements": [
                        {"type": "regex", "pattern": "[0-9]{1,3}"},
                        {"type": "grammar", "grammar": 'root ::= "(" root ")" | "x"'},
                    ],
                },
                {"type": "optional", "content": const("!")},
            ],
        },
        ["Answer: 12", "Answer: ((x))!", "Answer: 7!"],
        ["Answer: ", "Answer: 1234", "Answer: (x", "answer: 1"],
    ),
    "several ends": (
        tag("<a>", ANY, ["</a>", "</b>"]),
        ["<a>x</b>", "<a></a>"],
        ["<a>x", "<a>x</b>y"],
    ),
    "calls inside of a tag": (
        tag("<t>", FREE_CALLS, "</t>"),
        ["<t>text</t>", f"<t>a{CALL}b</t>"],
        ["<t>text", "<t><function=x></t>", "<t>a</t>b"],
    ),
    "special tokens": (
        {
            **FREE_CALLS,
            "triggers": ["<file_sep>"],
            "tags": [{**TAG, "begin": "<file_sep>", "end": "<filename>"}],
        },
        ["hi", 'hi <file_sep>{"city": "x"}<filename>ok'],
        ["hi <file_sep>x", "<file_sep>"],
    ),
    "repeated": (
        {"type": "repeat", "min": 2, "max": 3, "content": const("ab")},
        ["abab", "ababab"],
        ["ab", "abababab"],
    ),
    "star and plus": (
        {
            "type": "sequence",
            "elements": [
                {"type": "star", "content": const("a")},
                {"type": "plus", "content": const("b")},
            ],
        },
        ["b", "aab", "abb"],
        ["", "a", "ba"],
    ),
    "either, and free text": (
        {
            "type": "sequence",
            "elements": [{"type": "or", "elements": [const("1: "), ANY]}, const("END")],
        },
        ["1: END", "free END"],
        ["1: ", "END END END.", "free"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_formats(walker: Walker, name: str) -> None:
    form, good, bad = CASES[name]
    value = {"type": "structural_tag", "format": form}
    grammar = walker.shared("structural_tag", json.dumps(value))
    for text in good:
        assert walker.accepts(grammar.matcher(), text), text
    for text in bad:
        assert not walker.accepts(grammar.matcher(), text), text


def test_the_older_notation(walker: Walker) -> None:
    grammar = walker.shared("structural_tag", json.dumps(LEGACY))
    for text in ("plain", f"hi {CALL} ok", f"<function=get_time>{{}}</function>{CALL}"):
        assert walker.accepts(grammar.matcher(), text), text
    for text in ("x <function=foo>{}</function>", CALL[:-1]):
        assert not walker.accepts(grammar.matcher(), text), text


def test_whitespace_of_a_schema_inside_is_bounded(walker: Walker) -> None:
    loose = {**CITY, "x-guidance": {"whitespace_pattern": "[ ]*"}}
    form = {**TAG, "content": {"type": "json_schema", "json_schema": loose}}
    value = {"type": "structural_tag", "format": form}
    grammar = walker.shared("structural_tag", json.dumps(value))
    assert walker.accepts(grammar.matcher(), CALL)
    assert not walker.accepts(grammar.matcher(), CALL.replace(": ", ":" + " " * 50))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "must be an object"),
        ({"type": "json"}, "structural_tag"),
        ({"structures": [], "triggers": []}, "structures"),
        ({**LEGACY, "triggers": []}, "triggers"),
        ({**LEGACY, "triggers": ["<other"]}, "no trigger begins"),
        ({**LEGACY, "triggers": ["<function=", "<x"]}, "begins no tag"),
        ({"format": {"type": "nothing"}}, "format.type"),
        ({"format": 5}, "format.type"),
        ({"format": {"type": "sequence", "elements": []}}, "format.elements"),
        ({"format": {"type": "sequence", "elements": [const("a"), {}]}}, "format.elements[1]"),
        ({"format": {"type": "const_string"}}, "format.value"),
        ({"format": {"type": "json_schema", "json_schema": 5}}, "json_schema"),
        ({"format": {"type": "json_schema", "json_schema": {"type": "x"}}}, "type"),
        ({"format": {"type": "json_schema", "json_schema": {}, "style": "xml"}}, "style"),
        ({"format": {**FREE_CALLS, "at_least_one": 1}}, "at_least_one"),
        ({"format": tag("<a>", ANY, [])}, "end"),
        (
            {"format": {"type": "sequence", "elements": [ANY, {"type": "regex", "pattern": "a"}]}},
            "free text",
        ),
        ({"format": {"type": "star", "content": ANY}}, "free text"),
        ({"format": {"type": "repeat", "min": 3, "max": 1, "content": const("a")}}, "min"),
    ],
)
def test_bad_tags_are_refused(walker: Walker, value: object, said: str) -> None:
    with pytest.raises(GrammarError) as caught:
        walker.shared("structural_tag", json.dumps(value))
    assert said in str(caught.value)


def test_deep_and_wide_tags_are_refused(walker: Walker) -> None:
    deep: dict[str, Any] = const("a")
    for _ in range(100):
        deep = {"type": "optional", "content": deep}
    wide = {"type": "or", "elements": [const(str(i)) for i in range(5000)]}
    for form in (deep, wide):
        with pytest.raises(GrammarError, match="nodes"):
            walker.shared("structural_tag", json.dumps({"format": form}))
