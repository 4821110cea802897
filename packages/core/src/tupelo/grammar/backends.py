"""Which library compiles: the one place that names them."""

from importlib.util import find_spec

from tupelo.errors import ConfigError
from tupelo.grammar.backend import GrammarBackend
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.vocabulary import Vocabulary


def check_backend(name: str) -> None:
    """Refuse a library that is not installed.

    Raises:
        ConfigError: says what to install.
    """
    if name == "xgrammar" and find_spec("xgrammar") is None:
        raise ConfigError(
            "--grammar-backend xgrammar: it is not installed; pip install 'tupelo-core[xgrammar]'"
        )


def open_backend(vocabulary: Vocabulary, options: GrammarOptions) -> GrammarBackend:
    """The library that ``options.backend`` names, imported not before it is needed.

    Raises:
        ConfigError: an option that it does not have.
    """
    if options.backend == "xgrammar":
        from tupelo.grammar.xgrammar_backend import XGrammar

        return XGrammar(vocabulary, options)
    from tupelo.grammar.llguidance_backend import LLGuidance

    return LLGuidance(vocabulary, options)
