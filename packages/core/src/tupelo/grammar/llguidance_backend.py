"""Grammars through llguidance: the default. The only module that imports it."""

import os
from collections.abc import Sequence
from typing import Any

import llguidance

from tupelo.grammar.backend import GrammarError, Mask, State
from tupelo.grammar.lark import translate
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.vocabulary import Vocabulary
from tupelo.request import Grammar

MAX_THREADS = 16

LIMITS = llguidance.LLParserLimits(
    max_lexer_states=50_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_items_in_row=2_000,
    initial_lexer_fuel=1_000_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)
"""Bounds of one grammar: automaton states are up to 2 kB each, a step's two budgets are 15 and 3 ms
at llguidance's stated speeds."""


class LLGuidance:
    """The library over one vocabulary."""

    def __init__(self, vocabulary: Vocabulary, options: GrammarOptions) -> None:
        self._options = options
        self._vocabulary = vocabulary
        self._special = {
            vocabulary.tokens[i].decode("utf-8", "replace"): i for i in vocabulary.special_ids
        }
        wrapper = llguidance.TokenizerWrapper(_Tokens(vocabulary))
        self._tokenizer = llguidance.LLTokenizer(wrapper, eos_token=list(vocabulary.eos_ids))
        assert self._tokenizer.vocab_size == len(vocabulary.tokens)
        threads = min(MAX_THREADS, os.cpu_count() or 1)
        self._executor = llguidance.LLExecutor(num_threads=threads)

    def translate(self, grammar: Grammar) -> str:
        return translate(grammar, self._options, self._special)

    def compile(self, source: str) -> "LLCompiled":
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=LIMITS)
        if not matcher.is_error():
            # Only a first mask shows whether anything at all can satisfy the grammar.
            probe = matcher.deep_copy()
            mask = probe.compute_bitmask()
            if not probe.is_error() and any(mask):
                return LLCompiled(matcher)
            matcher = probe
        raise GrammarError(_message(matcher.get_error()))

    def fill(self, rows: Sequence[tuple[State, int]], mask: Mask) -> None:
        pairs = [(state.matcher, index) for state, index in rows if isinstance(state, LLState)]
        assert mask.flags["C_CONTIGUOUS"]
        self._executor.unsafe_compute_mask_ptr(
            pairs, mask.ctypes.data, mask.shape[1] * mask.itemsize, mask.shape[0]
        )


class LLCompiled:
    """A matcher at the beginning; copies of it share the automaton, which grows as it is used."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def state(self) -> "LLState":
        return LLState(self._matcher.deep_copy())


class LLState:
    """One output's matcher."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self.matcher = matcher

    def accept(self, token: int) -> None:
        self.matcher.consume_token(token)

    def forced(self) -> list[int]:
        return self.matcher.compute_ff_tokens()

    @property
    def error(self) -> str:
        return _message(self.matcher.get_error()) if self.matcher.is_error() else ""

    @property
    def ended(self) -> bool:
        return self.matcher.is_stopped()


class _Tokens:
    """A vocabulary in the shape that llguidance expects of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id: int | None = None
        self.tokens: Sequence[bytes] = vocabulary.tokens
        self.special_token_ids: Sequence[int] = vocabulary.special_ids
        self._encode = vocabulary.encode

    def __call__(self, text: Any) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _message(text: str) -> str:
    """What is of use to a client in one of llguidance's messages, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or lines[0].startswith("NoExtension"):
        return "nothing can satisfy it"
    causes = [line for line in lines if line.startswith("error:")]
    kept = causes[0].removeprefix("error:").strip() if causes else lines[0]
    return kept if len(kept) <= 300 else kept[:297] + "..."
