"""Grammars over replies, compiled: they take what a model would write, and nothing else."""

import json
import re
from typing import Any

import numpy as np
import pytest
import tokenizers
from tests.unit.grammar.walks import Walker
from tokenizers import decoders, models, pre_tokenizers

from tupelo.grammar import GrammarOptions, ThinkingMatcher, read_vocabulary
from tupelo.grammar.backends import open_backend
from tupelo.request import Grammar
from tupelo.text.output_parser import parse
from tupelo.text.tokenizer import Tokenizer, TokenizerFacts
from tupelo.text.tools.families import TOOL_FAMILIES
from tupelo.text.tools.structure import Structure
from tupelo_server.parsing import Formats
from tupelo_server.tools import ToolUse, tool_use

FAMILIES = sorted({f.name for f in TOOL_FAMILIES.values() if f.structures})
LOOKUP = {
    "type": "object",
    "properties": {
        "place": {"type": "string"},
        "days": {"$ref": "#/$defs/Days"},
    },
    "required": ["place", "days"],
    "$defs": {"Days": {"type": "integer", "minimum": 1, "maximum": 9}},
}
STRICT = [
    {"type": "function", "function": {"name": "lookup", "parameters": LOOKUP, "strict": True}},
    {"type": "function", "function": {"name": "ping"}},
]
GOOD, BAD = '{"place": "Rome", "days": 3}', '{"place": "Rome", "days": 30}'
THOUGHTS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
_MARKERS = re.compile(r"<[^<>\n]*>|\[[A-Z_]+\]|｜DSML｜")


def bytes_and(*special: str) -> Tokenizer:
    """A token a byte, and some special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["</s>", *special])
    return Tokenizer(backend, TokenizerFacts(eos_token_ids=(len(alphabet),)))


def markers_of(family: str) -> list[str]:
    """What may be special tokens in a family's calls."""
    structure = TOOL_FAMILIES[family].structures[0]
    texts = (structure.beginning, structure.middle, structure.end, structure.closing)
    found = _MARKERS.findall("\x00".join(texts))
    if "DSML" in structure.beginning:
        return ["｜DSML｜"]
    return sorted({marker for marker in found if '"' not in marker and "=" not in marker})


def written(structure: Structure, *calls: tuple[str, str]) -> str:
    """Calls as the model writes them."""
    texts = [
        structure.before + name + (f":{i}" if structure.numbered else "") + structure.middle
        + arguments + structure.end
        for i, (name, arguments) in enumerate(calls)
    ]  # fmt: skip
    return structure.opening + structure.separator.join(texts) + structure.closing


def accepts(tokenizer: Tokenizer, grammar: Grammar | None, *texts: str) -> list[bool]:
    assert grammar is not None
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocab_size)
    walker = Walker(open_backend(vocabulary, GrammarOptions()), vocabulary)
    shared = walker.shared(grammar.kind, grammar.text, strict=grammar.strict)
    return [walker.accepts(shared.matcher(), text) for text in texts]


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("family", FAMILIES)
def test_forced_calls_of_every_format(family: str, special: bool) -> None:
    """The calls that fit are taken, parsed, and alone; others are not."""
    tokenizer = bytes_and(*(markers_of(family) if special else ()))
    formats = Formats(tokenizer, [], family, "none")
    use = tool_use(STRICT, "required", True)
    form = formats.reply_form(use, None, "x")
    assert form.family is TOOL_FAMILIES[family]
    needed = [s for s in form.family.structures if not s.needs or special]
    structure = needed[0]
    one = written(structure, ("lookup", GOOD))
    two = written(structure, ("ping", "{}"), ("lookup", GOOD))
    bad = written(structure, ("lookup", BAD))
    other = written(structure, ("unknown", "{}"))
    prefix = (
        "" if family != "gpt-oss" else "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    )
    found = accepts(tokenizer, form.grammar(), prefix + one, two, bad, other, "Hello.", "")
    assert found == [True, structure.most != 1, False, False, False, False]
    parsed = parse(one, tools=form.family, descriptions=use.tools)
    assert [(call.name, json.loads(call.arguments)) for call in parsed.calls] == [
        ("lookup", json.loads(GOOD))
    ]


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("family", FAMILIES)
def test_strict_calls_in_free_text(family: str, special: bool) -> None:
    """Under auto text is free, and a call of a strict tool fits its schema."""
    tokenizer = bytes_and(*(markers_of(family) if special else ()))
    formats = Formats(tokenizer, [], family, "none")
    form = formats.reply_form(tool_use(STRICT, "auto", True), None, "x")
    structure = next(s for s in TOOL_FAMILIES[family].structures if not s.needs or special)
    final = "<|channel|>final<|message|>" if family == "gpt-oss" else ""
    text = f"{final}Is a < b? [x] {{y}}, func(1): yes."
    call = written(structure, ("lookup", GOOD))
    loose = written(structure, ("ping", '{"any": 1}'))
    bad = written(structure, ("lookup", BAD))
    before = "" if family == "gpt-oss" else "Wait. "
    found = accepts(tokenizer, form.grammar(), text, before + call, loose, before + bad)
    assert found == [True, True, True, False]


def test_one_call_where_one_is_wanted() -> None:
    formats = Formats(bytes_and(), [], "hermes", "none")
    structure = TOOL_FAMILIES["hermes"].structures[0]
    calls = written(structure, ("ping", "{}"), ("ping", "{}"))
    for choice in ("required", "auto"):
        form = formats.reply_form(tool_use(STRICT, choice, False), None, "x")
        one = written(structure, ("ping", "{}"))
        assert accepts(bytes_and(), form.grammar(), one, calls) == [True, False]


def test_a_forced_list_ends() -> None:
    formats = Formats(bytes_and(), [], "pythonic", "none")
    form = formats.reply_form(tool_use(STRICT, "required", True), None, "x")
    call = '{"name": "ping", "parameters": {}}'
    lists = [f"[{', '.join([call] * number)}]" for number in (1, 16, 17)]
    assert accepts(bytes_and(), form.grammar(), *lists) == [True, True, False]


@pytest.mark.parametrize("prompt", ["x", "x<think>\n", "x<think>\n\n</think>\n\n"])
def test_thoughts_before_what_is_forced(prompt: str) -> None:
    formats = Formats(bytes_and(), [], "hermes", "qwen3")
    call = written(TOOL_FAMILIES["hermes"].structures[0], ("ping", "{}"))
    form = formats.reply_form(tool_use(STRICT, "required", True), None, prompt)
    outputs = [call, f"<think>Hm.</think>{call}", f"Hm.</think>{call}", "<think>Hm."]
    expected = {
        "x": [True, True, False, False],
        "x<think>\n": [False, True, True, False],
        "x<think>\n\n</think>\n\n": [True, False, False, False],
    }
    assert accepts(bytes_and(), form.grammar(), *outputs) == expected[prompt]


def test_a_budget_ends_thoughts_that_a_grammar_makes_room_for() -> None:
    tokenizer = bytes_and("<think>", "</think>")
    formats = Formats(tokenizer, [], "hermes", "qwen3")
    grammar = formats.reply_form(tool_use(STRICT, "required", True), None, "x").grammar()
    budget = formats.budget(3, "x")
    assert grammar is not None
    assert budget is not None
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocab_size)
    walker = Walker(open_backend(vocabulary, GrammarOptions()), vocabulary)
    inner = walker.shared(grammar.kind, grammar.text, strict=grammar.strict).matcher()
    matcher = ThinkingMatcher(budget, inner)
    choices = []
    for token in walker.spell("<think>Hm.</think><tool_call>"):
        mask = np.full((1, walker.num_words), -1, np.int32)
        walker.filler.fill([(inner, 0)], mask)
        matcher.narrow(mask[0])
        bits = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        assert token in bits
        choices.append(len(bits))
        matcher.accept(token)
        assert not matcher.error
    assert choices[4] == 1
    assert min(choices[1:4]) > 100


@pytest.mark.parametrize(
    ("own", "good", "bad"),
    [
        (Grammar(kind="json_object"), '{"a": 1}', "[1]"),
        (Grammar(kind="json_schema", text='{"type": "integer"}'), "12", "{}"),
        (Grammar(kind="regex", text="[ab]+"), "abba", "abc"),
        (Grammar(kind="ebnf", text='root ::= "x" | "(" root ")"'), "((x))", "(x"),
    ],
    ids=lambda v: getattr(v, "kind", None),
)
@pytest.mark.parametrize(
    ("family", "before"),
    [
        ("hermes", "<think>Hm.</think>"),
        ("gpt-oss", THOUGHTS),
    ],
)
def test_a_clients_grammar_behind_thoughts(
    own: Grammar, good: str, bad: str, family: str, before: str
) -> None:
    special = markers_of("gpt-oss") if family == "gpt-oss" else []
    tokenizer = bytes_and(*special, *(["<|end|>", "<|start|>"] if special else []))
    formats = Formats(tokenizer, [], family, "gpt-oss" if special else "qwen3")
    head = "<|channel|>final<|message|>" if special else ""
    form = formats.reply_form(ToolUse(), own, "x")
    outputs = [before + head + good, head + good, before + head + bad, bad]
    assert accepts(tokenizer, form.grammar(), *outputs) == [True, True, False, False]


def test_text_as_a_schema_says_or_calls() -> None:
    own = Grammar(kind="json_schema", text='{"type": "object", "required": ["answer"]}')
    formats = Formats(bytes_and(), [], "hermes", "none")
    form = formats.reply_form(tool_use(STRICT, "auto", True), own, "x")
    call = written(TOOL_FAMILIES["hermes"].structures[0], ("lookup", GOOD))
    bad = written(TOOL_FAMILIES["hermes"].structures[0], ("lookup", BAD))
    outputs = ['{"answer": 1}', call, "{}", bad, "Hello."]
    assert accepts(bytes_and(), form.grammar(), *outputs) == [True, True, False, False, False]


def test_a_loose_tool_may_have_what_cannot_be_enforced() -> None:
    """A keyword without an implementation is left out, unless the tool is strict."""
    odd: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "array"}}}
    odd["properties"]["a"]["uniqueItems"] = True
    for strict in (False, True):
        function = {"name": "f", "parameters": odd, "strict": strict}
        use = tool_use([{"type": "function", "function": function}], "required", True)
        form = Formats(bytes_and(), [], "hermes", "none").reply_form(use, None, "x")
        call = written(TOOL_FAMILIES["hermes"].structures[0], ("f", '{"a": [1]}'))
        if strict:
            with pytest.raises(Exception, match="uniqueItems"):
                accepts(bytes_and(), form.grammar(), call)
        else:
            assert accepts(bytes_and(), form.grammar(), call) == [True]
