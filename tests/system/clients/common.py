"""What the clients' scripts share: where the server is, what they ask, what they must get.

A script runs as ``python SCRIPT URL KEY`` in an environment that has its client and nothing of
Tupelo, and ends with 0 if everything held.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

MODEL = "tupelo"
SYSTEM = "You answer in one short sentence."
QUESTION = "What is the capital of France?"
TOKENS = 24
TOO_LONG = "word " * 9000

E = TypeVar("E", bound=Exception)


class Person(BaseModel):
    """Someone, in a form that a small model can fill in: it has an end."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=16)
    age: int = Field(ge=0, le=120)


PERSON = "Describe a person called Ann, who is 41 years old, as JSON with the fields name and age."


@dataclass(frozen=True)
class Place:
    """Where the server is, where OpenAI's API is on it, and a key that opens it."""

    root: str
    url: str
    key: str


def place() -> Place:
    """From the command line."""
    url, key = sys.argv[1:]
    return Place(url, f"{url}/v1", key)


def refusal(kind: type[E] | tuple[type[E], ...], call: Callable[[], object]) -> E:
    """The error of this kind that a call ends in."""
    try:
        call()
    except kind as error:
        return error
    raise AssertionError("the request was taken")


def same(streamed: str, whole: str) -> None:
    """A streamed reply says what the unstreamed one says."""
    assert whole.strip(), "the reply is empty"
    assert streamed == whole, f"streamed {streamed!r}, whole {whole!r}"


def a_person(person: object) -> None:
    """Structured output of the asked form."""
    assert isinstance(person, Person), repr(person)
    assert 0 < len(person.name) <= 16
    assert 0 <= person.age <= 120
