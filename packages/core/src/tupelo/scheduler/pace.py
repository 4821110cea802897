"""How long steps take, learnt from those that have run: to cut prompts by, and to launch late.

A step with prompts in it is bound by arithmetic, so it takes a time for each of its tokens; one of
decode rows alone is bound by reading weights, and takes a time of its own::

    seconds = decode_s                                  no prompt tokens
    seconds = max(decode_s, token_s * tokens)           else, decode rows counted as tokens
"""

MIN_TOKENS = 64
"""Prompt tokens of a step that tells something about the time of one."""

_MEMORY = 10
"""Steps that an estimate looks back on."""

_OUTLIER = 2.0
"""An observation counts as no more than so many times the estimate, and no less than the inverse:
a stall of the host is no news about the device."""


class Average:
    """A mean that forgets; 0.0 while nothing is known."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        """Take in an observation."""
        if self._count:
            value = min(max(value, self.value / _OUTLIER), self.value * _OUTLIER)
        self._count = min(self._count + 1, _MEMORY)
        self.value += (value - self.value) / self._count


class StepTimes:
    """The two times, 0.0 while unknown. Reads no clock: what it is told decides."""

    def __init__(self) -> None:
        self._decode = Average()
        self._token = Average()

    @property
    def decode_s(self) -> float:
        """Seconds of a step of decode rows alone."""
        return self._decode.value

    @property
    def token_s(self) -> float:
        """Seconds of each token of a step that has prompts."""
        return self._token.value

    def observe(self, decode_rows: int, prompt_tokens: int, seconds: float) -> None:
        """A step of these sizes took so long on the device."""
        if not prompt_tokens:
            self._decode.add(seconds)
        elif prompt_tokens >= max(MIN_TOKENS, decode_rows // 2):
            self._token.add(seconds / (decode_rows + prompt_tokens))

    def predicted_s(self, decode_rows: int, prompt_tokens: int) -> float:
        """Seconds of a step of these sizes; 0.0 while nothing is known."""
        if not prompt_tokens:
            return self.decode_s
        return max(self.decode_s, self.token_s * (decode_rows + prompt_tokens))

    def prompt_tokens_within(self, decode_rows: int, seconds: float) -> int | None:
        """Prompt tokens of a step that takes ``seconds``; None while nothing is known."""
        if not self.token_s:
            return None
        return max(0, int(seconds / self.token_s) - decode_rows)
