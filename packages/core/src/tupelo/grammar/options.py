"""What an operator can set of grammars."""

from dataclasses import dataclass

MAX_WHITESPACE = 32

WHITESPACE = rf"(?:\x20{{1,2}}|\r?\n[\x20\x09]{{0,{MAX_WHITESPACE}}})"
"""JSON's whitespace where a schema is followed: a space or two, or a new line and its indentation.
What is bounded cannot run away: a model that likes blanks soon has to write something else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GrammarOptions:
    """Attributes:

    backend: ``llguidance`` or ``xgrammar``.
    whitespace: regular expression of the whitespace between JSON's tokens; empty allows none.
    compile_limit_s: seconds that compiling one grammar may take.
    cache_entries, cache_bytes: compiled grammars that are kept.
    """

    backend: str = "llguidance"
    whitespace: str = WHITESPACE
    compile_limit_s: float = 1.5
    cache_entries: int = 256
    cache_bytes: int = 512 << 20
