"""Every kind of grammar as a source of llguidance: Lark text, or JSON that holds a schema."""

import json
from typing import Any

import llguidance

from tupelo.grammar.backend import GrammarError
from tupelo.grammar.ebnf_lark import ebnf_to_lark
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.schema import read_choices, read_schema
from tupelo.grammar.structural_lark import structural_to_lark
from tupelo.request import Grammar


def translate(grammar: Grammar, options: GrammarOptions, special_tokens: dict[str, int]) -> str:
    """The source that means ``grammar``.

    Args:
        special_tokens: text and id of every special token.

    Raises:
        GrammarError: broken, or beyond what can be expressed.
    """
    match grammar.kind:
        case "json_object":
            return schema_source({"type": "object"}, options)
        case "json_schema":
            return schema_source(read_schema(grammar.text), options, strict=grammar.strict)
        case "regex":
            return f"start: {regex_literal(grammar.text)}\n"
        case "choice":
            return _choice(grammar.text)
        case "ebnf":
            rules, start = ebnf_to_lark(grammar.text)
            return f"start: {start}\n{rules}"
        case "structural_tag":
            return structural_to_lark(
                grammar.text,
                special_tokens,
                lambda schema: _with_options(schema, options, strict=grammar.strict),
                regex_literal,
            )
    raise GrammarError(f"grammars of kind {grammar.kind!r} are not supported")


def schema_source(schema: Any, options: GrammarOptions, *, strict: bool = True) -> str:
    """A grammar that is one JSON value.

    ``strict``: refuse keywords that cannot be enforced, which are ignored otherwise.
    """
    return llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(_as_object(schema), ensure_ascii=False),
        overrides=json_options(options, strict=strict),  # type: ignore[arg-type]
    )


def json_options(options: GrammarOptions, *, strict: bool = True) -> dict[str, Any]:
    """What a client's own ``x-guidance`` may not change."""
    flexible: dict[str, Any] = {"whitespace_flexible": False}
    if options.whitespace:
        flexible = {"whitespace_flexible": True, "whitespace_pattern": options.whitespace}
    return {
        "item_separator": ",",
        "key_separator": ":",
        "coerce_one_of": False,
        "lenient": not strict,
        **flexible,
    }


def _with_options(schema: Any, options: GrammarOptions, *, strict: bool) -> str:
    """A schema inside of a Lark text, which takes its options from the schema itself."""
    value = {**_as_object(schema), "x-guidance": json_options(options, strict=strict)}
    return json.dumps(value, ensure_ascii=False)


def _as_object(schema: Any) -> dict[str, Any]:
    if schema is False:
        raise GrammarError("nothing can satisfy the schema false")
    return {} if schema is True else dict(schema)


def regex_literal(pattern: str) -> str:
    """A regular expression that must match as a whole, as Lark writes it.

    ``\\d``, ``\\w`` and ``\\s`` are ASCII, ``.`` is anything but a new line. An anchor at either
    end says nothing that is not so already.
    """
    if pattern.startswith("^"):
        pattern = pattern[1:]
    if pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\"))) % 2 == 1:
        pattern = pattern[:-1]
    if not pattern:
        return '""'
    return f"/{llguidance.regex_to_lark(pattern, use_ascii='dws')}/"


def text_literal(text: str) -> str:
    """A string that must come as it is."""
    return json.dumps(text, ensure_ascii=False)


def _choice(text: str) -> str:
    choices = read_choices(text)
    # One terminal: its automaton follows all choices at once, however many they are.
    options = " | ".join(text_literal(choice) for choice in choices if choice)
    if not options:
        return 'start: ""\n'
    return f"start: CHOICE{'?' if '' in choices else ''}\nCHOICE: {options}\n"
