"""Runs a program for many sets of arguments at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from tupelo.errors import ProgramError

T = TypeVar("T")

MAX_THREADS = 256
"""Programs at a time where nobody says how many: as many as a server runs side by side."""


def run_all(
    run: Callable[[Mapping[str, Any]], T],
    items: Sequence[Mapping[str, Any]],
    num_threads: int | str,
    progress_bar: bool,
) -> Iterator[T]:
    """Results in the items' order, each as soon as it and those before it are there.

    Work begins at once. Where the iterator is let go of, items that have not begun do not begin.

    Raises:
        ProgramError: a number of threads that is none. Exception: what an item raised, in its turn.
    """
    if num_threads != "auto" and (not isinstance(num_threads, int) or num_threads < 1):
        raise ProgramError(f"num_threads={num_threads!r}: must be a number from 1, or 'auto'")
    count = min(MAX_THREADS if isinstance(num_threads, str) else num_threads, len(items) or 1)
    pool = ThreadPoolExecutor(count, thread_name_prefix="tupelo-batch")
    futures = deque(pool.submit(run, item) for item in items)
    return _results(pool, futures, progress_bar)


def _results(
    pool: ThreadPoolExecutor, futures: "deque[Future[T]]", progress_bar: bool
) -> Iterator[T]:
    bar = None
    if progress_bar:
        from tqdm import tqdm

        bar = tqdm(total=len(futures))
        for future in futures:
            future.add_done_callback(lambda _: bar.update())
    try:
        while futures:
            yield futures.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if bar is not None:
            bar.close()
