"""Where scoring of choices begins."""

from collections.abc import Sequence


def seam(prompt: Sequence[int], choices: Sequence[Sequence[int]]) -> int:
    """Number of tokens that the prompt and all of prompt + choice begin with.

    Every choice keeps at least one token behind it.
    """
    least = min(len(prompt), *(len(ids) - 1 for ids in choices))
    for place in range(least):
        if any(ids[place] != prompt[place] for ids in choices):
            return place
    return max(least, 0)
