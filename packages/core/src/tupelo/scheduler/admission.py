"""How much the running requests will still grow: an estimate, so that memory is neither idle nor
overrun.

Source: the new-token ratio of SGLang's scheduler (start high, decay with every step, rise on a
    retraction).
"""

MAX_ESTIMATED_TOKENS = 4096
"""A request that may generate more than this is counted with this many."""


class GrowthEstimate:
    """The share of their remaining tokens that requests are expected to generate."""

    def __init__(self, start: float = 0.7, floor: float = 0.1, steps: int = 600) -> None:
        self._start = start
        self._floor = floor
        self._decay = (start - floor) / steps
        self.ratio = start

    def tokens(self, remaining: int) -> int:
        """Tokens to keep room for, of ``remaining`` that are allowed."""
        return int(min(max(0, remaining), MAX_ESTIMATED_TOKENS) * self.ratio)

    def decay(self) -> None:
        """A step went well."""
        self.ratio = max(self._floor, self.ratio - self._decay)

    def raise_after_retraction(self) -> None:
        """Memory ran out: be careful again."""
        self.ratio = self._start
