"""What a common prefix is worth to a language program: ``run_batch`` of many questions on one text.

``python benchmarks/lang_batch.py MODEL`` asks 64 questions about a text of some 1,000 tokens, once
as a batch, and once as 64 calls that know nothing of one another, on an engine without a prefix
cache. Both have the same engine options otherwise and as many calls at a time; answers are
compared. Prints one JSON object.
"""

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tupelo as tp
from tupelo.lang import EngineBackend

LINES = 70
"""Of the text; about 15 tokens each."""


@tp.function
def ask(s: Any, context: str, number: int) -> None:
    """One question about the text."""
    s += context
    s += f"Question: which number does line {number} have? Answer: Line {number} has the number"
    s += tp.gen("answer", max_tokens=4)


def main() -> None:
    """Measure both, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    context = "".join(f"Line {i} has the number {i * 37 % 101}.\n" for i in range(LINES))
    items = [{"context": context, "number": i % LINES} for i in range(args.questions)]

    def batch(backend: EngineBackend) -> list[str]:
        states = ask.run_batch(items, backend=backend, temperature=0)
        return [state["answer"] for state in states]

    def independent(backend: EngineBackend) -> list[str]:
        with ThreadPoolExecutor(len(items)) as pool:
            run = lambda item: ask.run(backend=backend, temperature=0, **item)["answer"]  # noqa: E731
            return list(pool.map(run, items))

    shared, answers = measured(args.model, args.rounds, batch, disable_radix_cache=False)
    alone, expected = measured(args.model, args.rounds, independent, disable_radix_cache=True)
    assert answers == expected, "the cache changed an answer"
    print(
        json.dumps(
            {
                "questions": args.questions,
                "batch_s": round(shared, 2),
                "independent_s": round(alone, 2),
                "times_faster": round(alone / shared, 1),
            }
        )
    )


def measured(
    model: str, rounds: int, work: Callable[[EngineBackend], list[str]], **options: Any
) -> tuple[float, list[str]]:
    """Seconds of the fastest round, each with an empty cache, and the answers."""
    with tp.Engine(model=model, batch_invariant=True, **options) as engine:
        backend = EngineBackend(engine)
        times = []
        for _ in range(rounds):
            engine.flush_cache()
            begin = time.perf_counter()
            answers = work(backend)
            times.append(time.perf_counter() - begin)
        return min(times), answers


if __name__ == "__main__":
    main()
