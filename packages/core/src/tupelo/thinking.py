"""How long a model may think: what a request says of it, in tokens.

Imports nothing.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ThinkingBudget:
    """At most so many tokens of thoughts; then the marker that ends them is forced.

    Attributes:
        max_tokens: between the markers, added up if there are thoughts more than once.
        inside: the prompt ends within thoughts.
        open_ids: tokens each of which begins thoughts.
        close_id: the token that ends them.
        also_close_ids: further tokens that end them, though they are never forced.
    """

    max_tokens: int
    close_id: int
    inside: bool = False
    open_ids: tuple[int, ...] = ()
    also_close_ids: tuple[int, ...] = ()

    @property
    def ids(self) -> tuple[int, ...]:
        """Every token that it names."""
        return (*self.open_ids, self.close_id, *self.also_close_ids)
