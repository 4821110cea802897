"""Prompts to measure with. Seeded: the same arguments give the same prompts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tupelo.errors import ConfigError

Prompt = str | list[int]
FIRST_ID = 10
"""Ids below are often special tokens."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many prompts, and how long.

    Attributes:
        groups, prefix_len: of shared-prefix: prompts of a group begin with the same ids.
    """

    num_requests: int
    input_len: int
    vocab_size: int
    seed: int = 0
    groups: int = 8
    prefix_len: int = 512


def random_ids(shape: Shape) -> list[Prompt]:
    """Ids drawn evenly; no two prompts share a prefix worth the name."""
    draw = random.Random(shape.seed)
    return [_ids(draw, shape.input_len, shape.vocab_size) for _ in range(shape.num_requests)]


def shared_prefix(shape: Shape) -> list[Prompt]:
    """Groups of prompts: a common prefix, then ``input_len`` own ids; shuffled."""
    draw = random.Random(shape.seed)
    prefixes = [_ids(draw, shape.prefix_len, shape.vocab_size) for _ in range(shape.groups)]
    prompts: list[Prompt] = [
        prefixes[number % shape.groups] + _ids(draw, shape.input_len, shape.vocab_size)
        for number in range(shape.num_requests)
    ]
    draw.shuffle(prompts)
    return prompts


def fixed_text(texts: Sequence[str], num_requests: int) -> list[Prompt]:
    """Given texts, over and over.

    Raises:
        ConfigError: there is none.
    """
    if not texts:
        raise ConfigError("no text to measure with: give --text, or a file with a prompt a line")
    return [texts[number % len(texts)] for number in range(num_requests)]


def _ids(draw: random.Random, length: int, vocab_size: int) -> list[int]:
    return [draw.randrange(FIRST_ID, vocab_size) for _ in range(length)]
