"""Random outputs of a grammar: what a model without any sense would write under its masks."""

import random
from collections.abc import Sequence

import numpy as np

from tupelo.grammar import Vocabulary
from tupelo.grammar.backend import GrammarBackend
from tupelo.grammar.matcher import MaskFiller, Matcher, SharedGrammar
from tupelo.request import Grammar


class Walker:
    """Walks through grammars of one library, one token at a time."""

    def __init__(self, backend: GrammarBackend, vocabulary: Vocabulary) -> None:
        self.backend = backend
        self.vocabulary = vocabulary
        self.num_words = -(-len(vocabulary.tokens) // 32)
        self.filler = MaskFiller(backend, vocabulary.eos_ids, self.num_words)

    def shared(self, kind: str, text: str = "", *, strict: bool = True) -> SharedGrammar:
        """A grammar, compiled here and now.

        Raises:
            GrammarError: it cannot be compiled.
        """
        source = self.backend.translate(Grammar(kind=kind, text=text, strict=strict))
        return SharedGrammar(self.backend, source, self.backend.compile(source), 0.0)

    def allowed(self, matcher: Matcher) -> np.ndarray:
        """Ids that may come next."""
        mask = np.full((1, self.num_words), -1, np.int32)
        self.filler.fill([(matcher, 0)], mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        return np.flatnonzero(bits)

    def walk(self, matcher: Matcher, seed: int, limit: int = 400) -> list[int]:
        """Ids of a random output, an end token excluded; it is cut at ``limit``.

        Ends are taken as soon as they are offered, and short ways are preferred after half of the
        limit, so that outputs end.
        """
        draw = random.Random(seed)
        ids: list[int] = []
        ends = set(self.vocabulary.eos_ids)
        while len(ids) < limit and not matcher.ended and not matcher.error:
            choices = self.allowed(matcher)
            assert not matcher.error, matcher.error
            if ends & set(choices[:8].tolist()):
                break
            assert len(choices), "nothing is allowed, and nothing has ended"
            picked = draw.sample(choices.tolist(), min(len(choices), 8))
            if len(ids) > limit // 2:
                picked.sort(key=lambda i: -self._closing(i))
            ids.append(picked[0])
            matcher.accept(picked[0])
        return ids

    def text(self, ids: Sequence[int]) -> str:
        return b"".join(self.vocabulary.tokens[i] for i in ids).decode()

    def accepts(self, matcher: Matcher, text: str) -> bool:
        """Whether a text, byte by byte, is a whole output."""
        for token in self.spell(text):
            matcher.accept(token)
            if matcher.error:
                return False
        return matcher.ended or bool(set(self.vocabulary.eos_ids) & set(self.allowed(matcher)))

    def spell(self, text: str) -> list[int]:
        """One token a byte or so, special tokens as themselves."""
        specials = {self.vocabulary.tokens[i]: i for i in self.vocabulary.special_ids}
        found, data = [], text.encode()
        single = {t: i for i, t in enumerate(self.vocabulary.tokens) if len(t) == 1}
        while data:
            special = next((s for s in specials if s and data.startswith(s)), None)
            piece = special or data[:1]
            found.append(specials[piece] if special else single[piece])
            data = data[len(piece) :]
        return found

    def _closing(self, token: int) -> int:
        return sum(self.vocabulary.tokens[token].count(mark) for mark in b'"]}')
