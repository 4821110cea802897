"""Which library compiles: the one place that names them."""

from tupelo.grammar.backend import GrammarBackend
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.vocabulary import Vocabulary


def open_backend(vocabulary: Vocabulary, options: GrammarOptions) -> GrammarBackend:
    """The library that ``options.backend`` names, imported not before it is needed."""
    from tupelo.grammar.llguidance_backend import LLGuidance

    return LLGuidance(vocabulary, options)
