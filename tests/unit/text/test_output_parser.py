"""Outputs taken apart: every family, however they are cut, broken or hostile."""

import json
import random
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.text.parsing import (
    LOOKUP,
    PING,
    REASONING_SPECIMENS,
    TOOL_SPECIMENS,
    TOOLS,
    parse_pieces,
    ways_to_cut,
)

from tupelo.errors import ConfigError
from tupelo.text.detect import named_reasoning, named_tools
from tupelo.text.output_parser import OutputParser, parse
from tupelo.text.reasoning.families import REASONING_FAMILIES
from tupelo.text.tools.events import CallArguments, CallStart, Event, Text, fold
from tupelo.text.tools.families import TOOL_FAMILIES

FAMILIES = sorted({family.name for family in TOOL_FAMILIES.values()})
THINKERS = sorted({family.name for family in REASONING_FAMILIES.values()})
NEVER_TEXT = {"llama3", "pythonic"}  # in these a call is the whole output


def _calls(parsed: Any) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in parsed.calls]


@pytest.mark.parametrize(
    ("family", "text"), TOOL_SPECIMENS, ids=[f"{f}-{i}" for i, (f, _) in enumerate(TOOL_SPECIMENS)]
)
def test_calls_of_every_family(family: str, text: str) -> None:
    options: dict[str, Any] = {"tools": named_tools(family), "descriptions": TOOLS}
    first, *others = (
        parse_pieces(pieces, **options) for pieces in ways_to_cut(text, random.Random(3), 10)
    )
    assert first.text == ("" if family in NEVER_TEXT else "Wait.")
    assert _calls(first) == [LOOKUP, PING]
    assert all(other == first for other in others)


def test_specimens_cover_the_formats() -> None:
    covered = {named_tools(family).name for family, _ in TOOL_SPECIMENS}
    alike = {"hunyuan_opensource", "ling3", "llm-jp", "muse", "gigachat3"}
    assert covered | alike == set(FAMILIES)


@pytest.mark.parametrize(("family", "inside", "text", "thoughts", "answer"), REASONING_SPECIMENS)
def test_reasoning_of_every_family(
    family: str, inside: bool | None, text: str, thoughts: str, answer: str
) -> None:
    for pieces in ways_to_cut(text, random.Random(4), 10):
        parsed = parse_pieces(pieces, reasoning=named_reasoning(family), in_reasoning=inside)
        assert (parsed.reasoning, parsed.text) == (thoughts, answer)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_only_text(family: str) -> None:
    """Words, code and JSON that are no call come out as they went in."""
    text = (
        '  A [link](url), a dict {\'a\': 1}, {"name": "Ada", "age": 36},\n\n'
        "`x = [f(1), 2]`, <b>bold</b> and functools.reduce; 2 < 3 > 1.\n"
    )
    for pieces in ways_to_cut(text, random.Random(5)):
        parsed = parse_pieces(pieces, tools=named_tools(family), descriptions=TOOLS)
        assert (parsed.text, parsed.calls) == (text, [])


def _events(text: str, size: int, **options: Any) -> list[Event]:
    parser = OutputParser(**options)
    events: list[Event] = []
    for at in range(0, len(text), size):
        events += parser.push(text[at : at + size])
    return events + parser.finish()


@pytest.mark.parametrize(
    ("family", "text"), TOOL_SPECIMENS, ids=[f"{f}-{i}" for i, (f, _) in enumerate(TOOL_SPECIMENS)]
)
def test_a_stream_names_each_call_once(family: str, text: str) -> None:
    events = _events(text, 1, tools=named_tools(family), descriptions=TOOLS)
    starts = [event for event in events if isinstance(event, CallStart)]
    assert [(start.index, start.name) for start in starts] == [(0, "lookup"), (1, "ping")]
    last = [start.index for start in starts]
    for event in events:
        if isinstance(event, CallArguments):
            assert event.text
            assert events.index(starts[event.index]) < events.index(event)
    assert last == [0, 1]


def test_long_strings_stream() -> None:
    """A file that is written by a call is passed on line by line, in JSON and in markup."""
    body = "\n".join(f"line {i}" for i in range(200))
    call = {"name": "ping", "arguments": {"text": body}}
    described = [{"name": "ping", "parameters": {"properties": {"text": {"type": "string"}}}}]
    for family, text in (
        ("hermes", f"<tool_call>{json.dumps(call)}</tool_call>"),
        ("qwen3_coder", f"<function=ping><parameter=text>{body}</parameter></function>"),
        ("pythonic", f"[ping(text={body!r})]"),
    ):
        events = _events(text, 20, tools=named_tools(family), descriptions=described)
        pieces = [event for event in events if isinstance(event, CallArguments)]
        assert len(pieces) > 50
        assert json.loads("".join(piece.text for piece in pieces)) == {"text": body}


def test_text_is_given_out_at_once() -> None:
    """Nothing waits but what may be the beginning of a marker, or white space."""
    parser = OutputParser(tools=named_tools("hermes"), reasoning=named_reasoning("qwen3"))
    assert parser.push("Hello") == [Text("Hello")]
    assert parser.push(", a <") == [Text(", a")]
    assert parser.push("b> tag") == [Text(" <b> tag")]
    assert parser.push(".\n") == [Text(".")]
    assert parser.finish() == [Text("\n")]


LLAMA_CALL = '{"name": "ping", "parameters": {}}'
MINICPM_CALL = '<function name="ping"></function>'


@pytest.mark.parametrize(
    ("family", "text", "kept"),
    [
        ("llama3", f"Sure. Here it is: {LLAMA_CALL} Anything else?", "Sure."),
        ("llama3", f"Sure. {LLAMA_CALL}", "Sure."),
        ("llama3", f"{'long ' * 60}{LLAMA_CALL}", ("long " * 60).rstrip()),
        ("llama3", 'Here: {"a": 1} is no call.', 'Here: {"a": 1} is no call.'),
        ("minicpm5", f"One. Let me see (soon.)\n\n{MINICPM_CALL}\nDone.", "One."),
        ("minicpm5", f"Let me see “now.”{MINICPM_CALL} and", "Let me see “now.”"),
        ("phi4_mini", 'Wait!\nfunctools[{"name": "ping", "arguments": {}}]', ""),
    ],
)
def test_a_sentence_that_introduces_calls_is_dropped(family: str, text: str, kept: str) -> None:
    for pieces in ways_to_cut(text, random.Random(12)):
        parsed = parse_pieces(pieces, tools=named_tools(family), descriptions=TOOLS)
        assert parsed.text == kept
        assert _calls(parsed) == ([] if "no call" in text else [PING])


def test_text_that_may_introduce_calls_waits_for_the_next_sentence() -> None:
    parser = OutputParser(tools=named_tools("llama3"))
    assert parser.push("One, v1.5") == []
    assert parser.push(". Two") == [Text("One, v1.5.")]
    assert parser.push("\nThree") == [Text(" Two")]
    assert parser.finish() == [Text("\nThree")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('```json\n{"a": "`b`"}\n```\n', '{"a": "`b`"}'),
        (' \n```\n{"a": 1}```', '{"a": 1}'),
        ('```json\n{"a": 1}\n``', '{"a": 1}\n``'),
        ('```json\n["``` ", "````", 1]\n``` \n', '["``` ", "````", 1]'),
        (' {"a": 1}\n', ' {"a": 1}\n'),
        ("```python\n1\n```", "```python\n1\n```"),
        ("``", "``"),
        (" ", " "),
    ],
)
def test_a_fence_is_taken_off_json_that_was_asked_for(text: str, shown: str) -> None:
    for pieces in ways_to_cut(text, random.Random(13), 10):
        assert parse_pieces(pieces, json_reply=True).text == shown
        assert parse_pieces(pieces).text == text
        thought = ["<think>Hm.</think>", *pieces]
        parsed = parse_pieces(thought, json_reply=True, reasoning=named_reasoning("qwen3"))
        assert parsed.text.strip() == shown.strip()


def test_thoughts_that_nobody_asked_for_are_the_answer_if_they_never_end() -> None:
    family = named_reasoning("nemotron_3")
    for inside, text, thoughts, answer in (
        (False, "<think>Four.", "", "Four."),
        (False, "<think>Hm.</think>Four.", "Hm.", "Four."),
        (True, "<think>Hm", "Hm", ""),
        (None, "<think>Hm", "Hm", ""),
    ):
        for pieces in ways_to_cut(text, random.Random(14)):
            parsed = parse_pieces(pieces, reasoning=family, in_reasoning=inside)
            assert (parsed.reasoning, parsed.text) == (thoughts, answer)


def test_no_more_calls_than_are_wanted() -> None:
    for family, text in TOOL_SPECIMENS:
        for size in (1, 1000):
            options = {"tools": named_tools(family), "descriptions": TOOLS, "max_calls": 1}
            parsed = fold(_events(text + " More.", size, **options))
            assert _calls(parsed) == [LOOKUP]
            assert parsed.text in ("Wait.", "")
    parser = OutputParser(tools=named_tools("hermes"), max_calls=1)
    parser.push('<tool_call>{"name": "ping", "arguments": {}')
    assert not parser.over
    parser.push("}")
    assert parser.over


@pytest.mark.parametrize(("family", "inside", "text", "thoughts", "answer"), REASONING_SPECIMENS)
def test_a_parser_knows_when_thoughts_are_over(
    family: str, inside: bool | None, text: str, thoughts: str, answer: str
) -> None:
    parser = OutputParser(reasoning=named_reasoning(family), in_reasoning=inside)
    states = [parser.thinking]
    for char in text:
        parser.push(char)
        states.append(parser.thinking)
    changes = [state for state, before in zip(states[1:], states, strict=False) if state != before]
    assert any(states) == bool(thoughts)
    assert states[-1] == (not answer)
    assert len(changes) <= 2


@pytest.mark.parametrize("family", ["kimi_k2", "mistral"])
def test_the_models_own_ids_are_kept(family: str) -> None:
    text = {
        "kimi_k2": "<|tool_call_begin|>functions.ping:7<|tool_call_argument_begin|>{}"
        "<|tool_call_end|>",
        "mistral": "[TOOL_CALLS]ping[CALL_ID]abc123xyz[ARGS]{}",
    }[family]
    (call,) = parse(text, tools=named_tools(family)).calls
    assert call.id == {"kimi_k2": "functions.ping:7", "mistral": "abc123xyz"}[family]


@pytest.mark.parametrize(
    ("schema", "text", "expected"),
    [
        ({"type": "string"}, "5", "5"),
        ({"type": "string"}, "null", "null"),
        ({"type": "string"}, '"quoted"', '"quoted"'),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "integer"]}, "5", 5),
        ({"type": ["string", "integer"]}, "5 km", "5 km"),
        ({"type": "integer"}, " 420 ", 420),
        ({"type": "integer"}, "many", "many"),
        ({"type": "number"}, "-2.5e3", -2500.0),
        ({"type": "boolean"}, "True", True),
        ({"type": "object"}, "{'a': [1, None, (2,)]}", {"a": [1, None, [2]]}),
        ({"type": "array"}, '["a", "b",]', ["a", "b"]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "7", 7),
        ({"enum": ["a", "b"]}, "a", "a"),
        ({"enum": [1, 2]}, "2", 2),
        ({"type": "wonder"}, "2", 2),
        ({}, "true", True),
        (None, "1.5", 1.5),
        ({"type": "object"}, "{" * 500, "{" * 500),
        ({"type": "integer"}, "9" * 5000, "9" * 5000),
    ],
)
def test_values_fit_their_schema(schema: Any, text: str, expected: Any) -> None:
    described = [{"name": "f", "parameters": {"properties": {"x": schema}}}]
    output = f"<tool_call>f<arg_key>x</arg_key><arg_value>{text}</arg_value></tool_call>"
    parsed = parse(output, tools=named_tools("glm45"), descriptions=described)
    assert _calls(parsed) == [("f", {"x": expected})]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": "line\nbreak\ttab"}', {"a": "line\nbreak\ttab"}),
        (r'{"a": "\d+ and \'it\'"}', {"a": r"\d+ and 'it'"}),
        ('{"a": True, "b": None, "c": [1, 2,],}', {"a": True, "b": None, "c": [1, 2]}),
        (r'{"a": "\u00e9\ud83d\ude00"}', {"a": "é😀"}),
        (r'"{\"a\": 1}"', {"a": 1}),
        ("null", {}),
    ],
)
def test_slips_in_json_are_mended(arguments: str, expected: Any) -> None:
    text = f'<tool_call>{{"name": "f", "arguments": {arguments}}}}}</tool_call>'
    for pieces in ways_to_cut(text, random.Random(6)):
        parsed = parse_pieces(pieces, tools=named_tools("hermes"))
        assert _calls(parsed) == [("f", expected)]
        assert parsed.text == ""


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "f", "arguments": {"a": oops}}\n</tool_call>',
        '<tool_call>\n{"name": "", "arguments": {"a": 1}}\n</tool_call>',
        '<tool_call>\n{"name": "a b", "arguments": {"a": 1}}\n</tool_call>',
        '<tool_call>\n{"arguments": {"a": 1}}\n</tool_call>',
        "<tool_call>just words</tool_call>",
        "<tool_call>",
    ],
)
def test_broken_calls_stay_text(text: str) -> None:
    for pieces in ways_to_cut(text, random.Random(7)):
        parsed = parse_pieces(pieces, tools=named_tools("hermes"))
        assert (parsed.text, parsed.calls) == (text, [])


def test_a_call_that_breaks_later_keeps_what_was_written() -> None:
    """Once announced a call cannot be taken back; the rest of it follows as it is."""
    good = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    text = '<tool_call>{"name": "f", "arguments": {"a": 1, "b": oops}}</tool_call>' + good
    for pieces in ways_to_cut(text, random.Random(8)):
        bad, fine = parse_pieces(pieces, tools=named_tools("hermes")).calls
        assert bad.arguments == '{"a": 1, "b": oops}}'
        assert json.loads(fine.arguments) == {"a": 1}


CODE = "__import__('os').system('touch /tmp/x')"


@pytest.mark.parametrize("family", FAMILIES)
def test_code_is_data(family: str) -> None:
    """An expression as an argument is never evaluated: it is text, or a string (case T7)."""
    outputs = [
        f"[lookup(place={CODE})]",
        f"<|tool_call_start|>[lookup(place={CODE})]<|tool_call_end|>",
        f"<function=lookup><parameter=place>{CODE}</parameter></function>",
        f'<tool_call>{{"name": "lookup", "arguments": {{"place": "{CODE}"}}}}</tool_call>',
        CODE,
    ]
    for output in outputs:
        parsed = parse(output, tools=named_tools(family), descriptions=TOOLS)
        kept = parsed.text + "".join(call.arguments for call in parsed.calls)
        assert CODE in kept


def test_unknown_names_are_refused_with_a_list() -> None:
    with pytest.raises(ConfigError, match=r"tool call parser 'nobody'.*hermes"):
        named_tools("nobody")
    with pytest.raises(ConfigError, match=r"reasoning parser 'nobody'.*qwen3"):
        named_reasoning("nobody")


def _work(text: str, size: int, **options: Any) -> tuple[int, int]:
    """Lines of Python that parsing runs, and characters that it copies or searches."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    parser = OutputParser(**options)
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        for at in range(0, len(text), size):
            parser.push(text[at : at + size])
        parser.finish()
    finally:
        sys.settrace(previous)
    return lines, parser.work


HOSTILE = ["<", "[", '{"a":', "\\", " \n", "'\"", "a"]
_SLACK = 400
"""Work that does not depend on the text."""


def _grows_evenly(start: str, unit: str, **options: Any) -> bool:
    count = 3 + 120 // len(unit)
    once, twice = (_work(start + unit * n, 1, **options) for n in (count, 2 * count))
    return all(after <= 2.5 * before + _SLACK for before, after in zip(once, twice, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_work_grows_with_the_text(family: str) -> None:
    """Twice the text takes at most 2.5 times the work, whatever it is made of (case T13)."""
    openers = [marker for marker in named_tools(family).form.openers if marker]
    specimen = [text for name, text in TOOL_SPECIMENS if name == family][:1]
    halves = [text[: len(text) // 2] for text in specimen]
    options: dict[str, Any] = {"tools": named_tools(family), "descriptions": TOOLS}
    for unit in [*HOSTILE, *openers, *specimen, *halves]:
        for start in ("", *halves):
            assert _grows_evenly(start, unit, **options), (start, unit)


def test_work_grows_with_json_in_a_fence() -> None:
    for start in ("", "```json\n", "```json\n{}"):
        for unit in [*HOSTILE, "`", "` ", "``` ", " \n"]:
            assert _grows_evenly(start, unit, json_reply=True), (start, unit)


@pytest.mark.parametrize("family", THINKERS)
def test_work_grows_with_the_thoughts(family: str) -> None:
    form = named_reasoning(family).form
    for unit in [*HOSTILE, *filter(None, form.markers)]:
        for inside in (True, False):
            options: dict[str, Any] = {
                "reasoning": named_reasoning(family),
                "in_reasoning": inside,
            }
            assert _grows_evenly("", unit, **options), (unit, inside)


def _fragments() -> st.SearchStrategy[str]:
    """Texts made of the formats' own pieces, and of anything."""
    markers = sorted({m for f in TOOL_FAMILIES.values() for m in f.form.markers if m})
    markers += sorted({m for f in REASONING_FAMILIES.values() for m in f.form.markers if m})
    bits = ['{"name": "f", "arguments": {', '"a": 1', "}", "]", "[", "f(a=", "'", '"', "\\u12", ","]
    piece = st.one_of(st.sampled_from(markers), st.sampled_from(bits), st.text(max_size=8))
    return st.lists(piece, max_size=14).map("".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    text=_fragments(),
    family=st.sampled_from(FAMILIES),
    thinker=st.sampled_from([None, *THINKERS]),
    inside=st.sampled_from([None, True, False]),
    seed=st.integers(0, 2**16),
)
def test_fuzzed_outputs(
    text: str, family: str, thinker: str | None, inside: bool | None, seed: int
) -> None:
    """Nothing raises, and the result does not depend on the cuts."""
    options: dict[str, Any] = {
        "tools": named_tools(family),
        "reasoning": None if thinker is None else named_reasoning(thinker),
        "descriptions": TOOLS,
        "in_reasoning": inside,
    }
    first, *others = (
        parse_pieces(pieces, **options) for pieces in ways_to_cut(text, random.Random(seed))
    )
    assert all(other == first for other in others)
