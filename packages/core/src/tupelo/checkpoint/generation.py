"""The sampling defaults that a model's authors put into ``generation_config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tupelo.checkpoint.fields import Fields


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationDefaults:
    """Values for a request that names none; None where the authors said nothing.

    Attributes:
        top_k: 0 for no limit.
        eos_token_ids: further ids that end a reply.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    eos_token_ids: tuple[int, ...] = ()


def parse_generation(values: Mapping[str, Any], where: str) -> GenerationDefaults:
    """Read ``values``, a decoded ``generation_config.json``.

    Raises:
        CheckpointError: a value of the wrong type or out of its range; the message names it.
    """
    fields = Fields(values, where)

    def number(name: str, high: float) -> float | None:
        return fields.number(name, high=high) if name in fields else None

    return GenerationDefaults(
        temperature=number("temperature", 100.0),
        top_p=number("top_p", 1.0),
        top_k=fields.optional_integer("top_k", low=0),
        min_p=number("min_p", 1.0),
        repetition_penalty=fields.optional_positive("repetition_penalty"),
        eos_token_ids=fields.token_ids("eos_token_id"),
    )
