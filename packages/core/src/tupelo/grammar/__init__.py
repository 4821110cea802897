"""Structured output: grammars compiled within bounds, masks of allowed tokens. Imports no torch."""

from tupelo.grammar.backends import check_backend
from tupelo.grammar.compiler import GrammarCompiler, refusal
from tupelo.grammar.matcher import Matcher, SharedGrammar
from tupelo.grammar.options import WHITESPACE, GrammarOptions
from tupelo.grammar.thinking import ThinkingMatcher
from tupelo.grammar.vocabulary import Vocabulary, read_vocabulary

__all__ = [
    "WHITESPACE",
    "GrammarCompiler",
    "GrammarOptions",
    "Matcher",
    "SharedGrammar",
    "ThinkingMatcher",
    "Vocabulary",
    "check_backend",
    "read_vocabulary",
    "refusal",
]
