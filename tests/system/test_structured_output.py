"""Structured output of a real model: the whole corpus in the long tests, a part of it in all."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.unit.grammar.recogniser import matches
from tests.unit.grammar.schemas import REFUSED, SCHEMAS
from tests.unit.grammar.test_ebnf import GRAMMARS
from tests.unit.grammar.test_patterns import CHOICES, PATTERNS

from tupelo import Engine
from tupelo.errors import InvalidRequest
from tupelo.grammar.ebnf import parse_ebnf

FEW = [
    "person", "tuple", "oneOf by const", "definitions", "format date", "enum of kinds",
    "pattern of a version", "five levels", "ticket", "allOf of bounds",
]  # fmt: skip
BOUNDED = {"one rule", "names with marks"}
"""Grammars whose texts are short; the others have texts of every length."""


@pytest.fixture(scope="module")
def smol(demo_gguf: Path) -> Iterator[Engine]:
    with Engine(
        model=str(demo_gguf),
        max_total_tokens=24_000,
        max_running_requests=16,
        pipeline_depth=2,
        grammar_compile_limit_s=10.0,
    ) as engine:
        yield engine


def prompt(task: str) -> str:
    return f"<|im_start|>user\n{task}<|im_end|>\n<|im_start|>assistant\n"


def ask(engine: Engine, items: list[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """A reply to each task under its grammar."""
    replies: list[dict[str, Any]] = engine.generate(
        [prompt(task) for task, _ in items],
        [{"temperature": 0.7, "seed": 11, "max_new_tokens": 1500} | more for _, more in items],
    )
    return replies


def check_schemas(engine: Engine, names: list[str]) -> None:
    items = [
        (f"Write an example, as JSON, of: {name}.", {"json_schema": SCHEMAS[name]})
        for name in names
    ]
    for name, reply in zip(names, ask(engine, items), strict=True):
        if reply["meta_info"]["finish_reason"]["type"] == "length":
            # Nothing bounds the digits behind a decimal point.
            assert '"number"' in json.dumps(SCHEMAS[name]), (name, reply["text"][-200:])
            json.loads(closed(reply["text"]))
            continue
        jsonschema.validate(
            json.loads(reply["text"]),
            SCHEMAS[name],
            cls=jsonschema.Draft202012Validator,
            format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
        )


def closed(text: str) -> str:
    """The beginning of a JSON text that was cut in a number, with its brackets closed."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    open_ones: list[str] = []
    for char in bare:
        if char in "{[":
            open_ones.append("}" if char == "{" else "]")
        elif char in "}]":
            open_ones.pop()
    return text + "".join(reversed(open_ones))


def check_patterns(engine: Engine, patterns: list[str]) -> None:
    items = [("Write anything that fits.", {"regex": p, "max_new_tokens": 120}) for p in patterns]
    for pattern, reply in zip(patterns, ask(engine, items), strict=True):
        if reply["meta_info"]["finish_reason"]["type"] == "stop":
            oracle = re.compile(pattern.replace("(?i)WORLD", "(?i:WORLD)"), re.ASCII)
            assert oracle.fullmatch(reply["text"]), (pattern, reply["text"])
        else:
            assert "*" in pattern or "+" in pattern, pattern


def check_grammars(engine: Engine, names: list[str]) -> None:
    items = [
        ("Write a short example.", {"ebnf": GRAMMARS[name], "max_new_tokens": 40}) for name in names
    ]
    for name, reply in zip(names, ask(engine, items), strict=True):
        if reply["meta_info"]["finish_reason"]["type"] == "stop":
            assert matches(parse_ebnf(GRAMMARS[name]), reply["text"]), (name, reply["text"])
        else:
            assert name not in BOUNDED, (name, reply["text"])


def test_a_part_of_the_corpus(smol: Engine) -> None:
    check_schemas(smol, FEW)
    check_patterns(smol, PATTERNS[:4])
    check_grammars(smol, ["one rule", "names with marks"])


@pytest.mark.long
def test_the_whole_corpus_of_schemas(smol: Engine) -> None:
    check_schemas(smol, list(SCHEMAS))


@pytest.mark.long
def test_every_schema_that_cannot_be_followed(smol: Engine) -> None:
    for name, (schema, said) in REFUSED.items():
        with pytest.raises(InvalidRequest) as caught:
            ask(smol, [("Anything.", {"json_schema": schema})])
        assert said in str(caught.value), name


@pytest.mark.long
def test_every_pattern(smol: Engine) -> None:
    check_patterns(smol, PATTERNS)


@pytest.mark.long
def test_every_grammar(smol: Engine) -> None:
    check_grammars(smol, list(GRAMMARS))


def test_choices(smol: Engine) -> None:
    choices = [choice for choice in CHOICES if choice]
    (reply,) = ask(smol, [("Is the sky blue? Answer yes or no.", {"choice": choices})])
    assert reply["text"] in choices


def test_calls_in_free_text(smol: Engine) -> None:
    """A model of this size calls no tools by itself, so the answer has to begin with a call."""
    call = {
        "type": "tag",
        "begin": "<function=get_weather>",
        "content": {"type": "json_schema", "json_schema": SCHEMAS["weather call"]},
        "end": "</function>",
    }
    form = {
        "type": "triggered_tags",
        "triggers": ["<function="],
        "tags": [call],
        "at_least_one": True,
        "stop_after_first": True,
    }
    tag = {"type": "structural_tag", "format": form}
    (reply,) = ask(smol, [("What is the weather in Oslo?", {"structural_tag": tag})])
    found = re.fullmatch(r"<function=get_weather>(.*)</function>", reply["text"], re.DOTALL)
    assert found, reply["text"]
    jsonschema.validate(json.loads(found[1]), SCHEMAS["weather call"])
