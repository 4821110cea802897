"""How long steps take, learnt from those that have run: to cut prompts by, and to launch late.

A step of decode rows alone is bound by reading weights, and takes a time of its own. One with
prompts in it takes a time for each of its tokens, beside what launching it takes::

    seconds = decode_s                                       no prompt tokens
    seconds = max(decode_s, fixed_s + token_s * tokens)      else, decode rows counted as tokens
"""

MIN_TOKENS = 64
"""Prompt tokens of a step that tells something about the time of one."""

_MEMORY = 10
"""Steps that an estimate looks back on."""

_SURE = 3
"""Steps with prompts before one of them can be called odd."""

_OUTLIER = 2.0
"""An observation counts as no more than so many times the estimate, and no less than the inverse:
a stall of the host is no news about the device."""

_SPREAD = 0.1
"""Standard deviation of the tokens of steps, relative to their mean, from which on the steps tell
what a token takes; below, all of their time counts as the tokens'."""


class Average:
    """A mean that forgets; 0.0 while nothing is known."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        """Take in an observation."""
        if self._count:
            value = _tamed(value, self.value)
        self._count = min(self._count + 1, _MEMORY)
        self.value += (value - self.value) / self._count


class _Line:
    """``seconds = fixed + each * tokens``, the least squares over steps that are slowly forgotten;
    neither is below 0."""

    def __init__(self) -> None:
        self.fixed = self.each = 0.0
        self._sums = [0.0] * 5  # of 1, n, n * n, t, n * t

    def add(self, tokens: int, seconds: float) -> None:
        """Take in a step."""
        if self._sums[0] > _SURE:
            seconds = _tamed(seconds, self.at(tokens))
        new = (1.0, tokens, tokens * tokens, seconds, tokens * seconds)
        kept = 1.0 - 1.0 / (2 * _MEMORY)
        self._sums = [kept * old + value for old, value in zip(self._sums, new, strict=True)]
        count, n, nn, t, nt = self._sums
        spread = count * nn - n * n
        self.fixed, self.each = 0.0, t / n
        if spread > (_SPREAD * n) ** 2:
            slope = max(0.0, (count * nt - n * t) / spread)
            fixed = (t - slope * n) / count
            if fixed > 0:
                self.fixed, self.each = fixed, max(slope, 1e-9)

    def at(self, tokens: int) -> float:
        """Seconds of a step of so many tokens."""
        return self.fixed + self.each * tokens


class StepTimes:
    """What steps take, 0.0 while unknown. Reads no clock: what it is told decides."""

    def __init__(self) -> None:
        self._decode = Average()
        self._mixed = _Line()

    @property
    def decode_s(self) -> float:
        """Seconds of a step of decode rows alone."""
        return self._decode.value

    def observe(self, decode_rows: int, prompt_tokens: int, seconds: float) -> None:
        """A step of these sizes took so long."""
        if not prompt_tokens:
            self._decode.add(seconds)
        elif prompt_tokens >= max(MIN_TOKENS, decode_rows // 2):
            self._mixed.add(decode_rows + prompt_tokens, seconds)

    def predicted_s(self, decode_rows: int, prompt_tokens: int) -> float:
        """Seconds of a step of these sizes; 0.0 while nothing is known."""
        if not prompt_tokens:
            return self.decode_s
        return max(self.decode_s, self._mixed.at(decode_rows + prompt_tokens))

    def prompt_tokens_within(self, decode_rows: int, seconds: float) -> int | None:
        """Prompt tokens of a step that takes ``seconds``; None while nothing is known.

        Cutting prompts saves none of the fixed time, so half of ``seconds`` is the tokens' in any
        case.
        """
        line = self._mixed
        if not line.each:
            return None
        return max(0, int(max(seconds - line.fixed, seconds / 2) / line.each) - decode_rows)


def _tamed(value: float, estimate: float) -> float:
    return min(max(value, estimate / _OUTLIER), estimate * _OUTLIER)
