"""Ways to pick one of several texts by their log-probabilities, for ``select``.

All choices are scored from one place on: where the first token differs between any two of prompt +
choice, or from the prompt alone. So a token that spans the seam is scored as the model would read
it, and the choices are compared on equal terms.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ChoiceScores:
    """What a model thinks of one choice.

    Attributes:
        token_ids: of prompt + choice, from the first that is scored.
        logprobs: of each, given all before it.
        unconditional: of each, given only the scored ones before it (0 for the first, where the
            model puts nothing before a text); empty where nobody asked.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    unconditional: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """Log-probability of a token on average."""
        return sum(self.logprobs) / len(self.logprobs)


@dataclass(frozen=True)
class Decision:
    """What was picked, and how.

    Attributes:
        choice: the text. scores: a number for each choice, larger is better.
        meta: what else is known.
    """

    choice: str
    scores: tuple[float, ...]
    meta: dict[str, Any]


class ChoicesMethod(ABC):
    """A way to pick. ``needs_unconditional``: it looks at what choices are worth by themselves."""

    name = ""
    needs_unconditional = False

    def __call__(self, choices: Sequence[str], scored: Sequence[ChoiceScores]) -> Decision:
        """Pick; of equals the first."""
        scores = self.scores(scored)
        best = max(range(len(choices)), key=lambda index: (scores[index], -index))
        meta = {
            "method": self.name,
            "scores": scores,
            "token_ids": [list(one.token_ids) for one in scored],
            "logprobs": [list(one.logprobs) for one in scored],
        }
        if self.needs_unconditional:
            meta["unconditional_logprobs"] = [list(one.unconditional) for one in scored]
        return Decision(choices[best], tuple(scores), meta)

    @abstractmethod
    def scores(self, scored: Sequence[ChoiceScores]) -> list[float]:
        """A number for each choice, larger is better."""

    def __repr__(self) -> str:
        return self.name


class TokenLengthNormalized(ChoicesMethod):
    """The mean log-probability of a token: long choices are at no disadvantage."""

    name = "token_length_normalized"

    def scores(self, scored: Sequence[ChoiceScores]) -> list[float]:
        """The means."""
        return [one.mean for one in scored]


class GreedyTokenSelection(ChoicesMethod):
    """What greedy decoding would write, if it could write only the choices.

    Token by token the most probable one among those that continue a choice which is still in; where
    a choice ends while others go on, its mean log-probability stands for the missing token. The
    score is the number of tokens for which a choice stayed in, and ``1 + longest`` for the winner.
    """

    name = "greedy_token_selection"

    def scores(self, scored: Sequence[ChoiceScores]) -> list[float]:
        """For how long each stayed in."""
        longest = max(len(one.token_ids) for one in scored)
        stayed = [0.0] * len(scored)
        left = list(range(len(scored)))
        for place in range(longest):
            options: dict[tuple[int, int], float] = {}
            for index in left:
                one = scored[index]
                if place < len(one.token_ids):
                    options.setdefault((one.token_ids[place], -1), one.logprobs[place])
                else:
                    options[(-1, index)] = one.mean
            best = max(options, key=lambda option: options[option])
            left = [index for index in left if _option(scored[index], index, place) == best]
            for index in left:
                stayed[index] = place + 1.0
        stayed[left[0]] = longest + 1.0
        return stayed


class UnconditionalLikelihoodNormalized(ChoicesMethod):
    """The mean of what each token gains by the prompt: choices that are always likely gain little.

    ``mean(log p(token | prompt, before) - log p(token | before))``.
    """

    name = "unconditional_likelihood_normalized"
    needs_unconditional = True

    def scores(self, scored: Sequence[ChoiceScores]) -> list[float]:
        """The mean gains."""
        return [
            sum(a - b for a, b in zip(one.logprobs, one.unconditional, strict=True))
            / len(one.logprobs)
            for one in scored
        ]


def _option(one: ChoiceScores, index: int, place: int) -> tuple[int, int]:
    """What a choice stands for at a place: its token, or its own end."""
    return (one.token_ids[place], -1) if place < len(one.token_ids) else (-1, index)


token_length_normalized = TokenLengthNormalized()
greedy_token_selection = GreedyTokenSelection()
unconditional_likelihood_normalized = UnconditionalLikelihoodNormalized()
