"""How a benchmark was called, as its report says it."""

import sys
from pathlib import Path


def command() -> str:
    """The command that repeats this run, without places of this machine."""
    told = [f"benchmarks/{Path(sys.argv[0]).name}"]
    given = iter(sys.argv[1:])
    for word in given:
        if word == "--json":
            next(given, None)  # where the report goes
        else:
            told.append(word)
    return " ".join(told)
