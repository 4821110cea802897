"""Grammars through xgrammar: the extra ``tupelo-core[xgrammar]``, which brings torch.

The only module that imports it, and only where it was chosen, when it is set up. What it would
leave unenforced in a schema is refused here, as the default does by itself.
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tupelo.errors import ConfigError
from tupelo.grammar.backend import GrammarError, Mask, State
from tupelo.grammar.ebnf import parse_ebnf
from tupelo.grammar.options import MAX_WHITESPACE, WHITESPACE, GrammarOptions
from tupelo.grammar.schema import parse_json, read_choices, read_schema
from tupelo.grammar.structural import parse_structural
from tupelo.grammar.vocabulary import Vocabulary
from tupelo.request import Grammar

MAX_THREADS = 16

UNENFORCED = frozenset(
    {
        "$dynamicRef", "contains", "contentEncoding", "dependencies", "dependentRequired",
        "dependentSchemas", "else", "if", "maxContains", "minContains", "multipleOf", "not",
        "oneOf", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
        "uniqueItems",
    }
)  # fmt: skip
"""Keywords that xgrammar skips, or takes for something weaker."""

WITH_PATTERN = frozenset({"minLength", "maxLength", "format"})
"""Keywords that it skips beside a ``pattern``."""


class XGrammar:
    """The library over one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, options: GrammarOptions) -> None:
        import xgrammar

        if options.whitespace not in ("", WHITESPACE):
            raise ConfigError(
                "--constrained-json-whitespace-pattern needs --grammar-backend llguidance"
            )
        special = set(vocabulary.special_ids)
        # A token without bytes is never allowed, so that no text spells a special token.
        tokens = [b"" if i in special else token for i, token in enumerate(vocabulary.tokens)]
        info = xgrammar.TokenizerInfo(
            tokens, vocab_size=len(tokens), stop_token_ids=list(vocabulary.eos_ids)
        )
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self._options = options
        self._encode = vocabulary.encode
        threads = min(MAX_THREADS, os.cpu_count() or 1)
        self._matcher = xgrammar.GrammarMatcher
        self._filler = xgrammar.BatchGrammarMatcher(max_threads=threads)
        self._not_eos = _all_but(vocabulary.eos_ids, len(tokens))

    def translate(self, grammar: Grammar) -> str:
        match grammar.kind:
            case "json_schema":
                schema = read_schema(grammar.text)
                if grammar.strict:
                    refuse_unenforced(schema)
            case "ebnf":
                parse_ebnf(grammar.text)
            case "structural_tag":
                parse_structural(grammar.text)
                text = _with_format(parse_json(grammar.text))
                return json.dumps({"kind": grammar.kind, "text": text})
            case "choice":
                options = " | ".join(json.dumps(c) for c in read_choices(grammar.text))
                return json.dumps({"kind": "ebnf", "text": f"root ::= {options}"})
        return json.dumps({"kind": grammar.kind, "text": grammar.text})

    def compile(self, source: str) -> "XCompiled":
        value = json.loads(source)
        try:
            compiled = self._compiled(value["kind"], value["text"])
        except (RuntimeError, ValueError, TypeError) as error:
            raise GrammarError(_message(str(error))) from None
        made = XCompiled(lambda: self._matcher(compiled), self._encode)
        state = made.state()
        self.fill([(state, 0)], mask := np.zeros((1, len(self._not_eos)), np.int32))
        if state.error or not mask.any():
            raise GrammarError("nothing can satisfy it")
        return made

    def fill(self, rows: Sequence[tuple[State, int]], mask: Mask) -> None:
        states = [(state, row) for state, row in rows if isinstance(state, XState)]
        live = [(state, row) for state, row in states if not state.error and not state.ended]
        if not live:
            return
        self._filler.batch_fill_next_token_bitmask(
            [state.matcher for state, _ in live], mask, [row for _, row in live]
        )
        for state, row in live:
            state.filled(mask[row], self._not_eos)

    def _compiled(self, kind: str, text: str) -> Any:
        blanks = bool(self._options.whitespace)
        json_options: dict[str, Any] = {
            "any_whitespace": blanks,
            "separators": None if blanks else (",", ":"),
            "strict_mode": False,
            "max_whitespace_cnt": MAX_WHITESPACE if blanks else None,
        }
        compiler = self._compiler
        match kind:
            case "json_object":
                return compiler.compile_json_schema('{"type": "object"}', **json_options)
            case "json_schema":
                return compiler.compile_json_schema(text, **json_options)
            case "regex":
                return compiler.compile_regex(text)
            case "ebnf":
                return compiler.compile_grammar(text)
        return compiler.compile_structural_tag(text)


class XCompiled:
    """A compiled grammar; it does not change with use."""

    def __init__(self, matcher: Callable[[], Any], encode: Callable[[str], list[int]]) -> None:
        self._matcher = matcher
        self._encode = encode

    def state(self) -> "XState":
        return XState(self._matcher(), self._encode)


class XState:
    """One output's matcher."""

    def __init__(self, matcher: Any, encode: Callable[[str], list[int]]) -> None:
        self.matcher = matcher
        self._encode = encode
        self._error = ""
        self._ended = False

    def accept(self, token: int) -> None:
        if not self._error and not self.matcher.accept_token(token):
            self._error = "a token that the grammar does not allow"

    def forced(self) -> list[int]:
        # The last token may go on with what is not forced.
        text = self.matcher.find_jump_forward_string()
        return self._encode(text)[:-1] if text else []

    def filled(self, row: Any, not_eos: Any) -> None:
        """Learn from a mask whether anything but the end can follow."""
        if not row.any():
            self._error = "nothing can follow"
        elif not (row & not_eos).any():
            self._ended = True

    @property
    def error(self) -> str:
        return self._error

    @property
    def ended(self) -> bool:
        return self._ended or bool(self.matcher.is_terminated())


def refuse_unenforced(schema: Any) -> None:
    """Refuse keywords that the library would leave out.

    Raises:
        GrammarError: names the first.
    """
    todo = [schema]
    while todo:
        item = todo.pop()
        if isinstance(item, list):
            todo += item
        if not isinstance(item, dict):
            continue
        found = UNENFORCED & set(item)
        if "pattern" in item:
            found |= WITH_PATTERN & set(item)
        if len(item.get("allOf", ())) > 1:
            found |= {"allOf"}
        if found:
            raise GrammarError(f"xgrammar cannot enforce {sorted(found)[0]!r}")
        for name, value in item.items():
            if name in ("const", "enum", "default", "examples", "required"):
                continue
            named = name in ("properties", "patternProperties", "$defs", "definitions")
            todo += list(value.values()) if named and isinstance(value, dict) else [value]


def _all_but(ids: Sequence[int], size: int) -> Any:
    row = np.full(-(-size // 32), -1, np.int32)
    bits = row.view(np.uint32)
    for token in ids:
        bits[token // 32] &= ~np.uint32(1 << token % 32)
    return row


def _with_format(tag: dict[str, Any]) -> str:
    """A structural tag in the newer notation, the only one that the library takes."""
    form = tag.get("format")
    if form is None:
        tags = [
            {
                "begin": item["begin"],
                "content": {"type": "json_schema", "json_schema": item.get("schema", {})},
                "end": item.get("end", ""),
            }
            for item in tag["structures"]
        ]
        form = {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}
    return json.dumps({"type": "structural_tag", "format": form})


def _message(text: str) -> str:
    """The last line of an error that says something, without source locations."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = lines[-1] if lines else "cannot be compiled"
    kept = kept.split("] ")[-1].split("is false: ")[-1]
    return kept if len(kept) <= 300 else kept[:297] + "..."
