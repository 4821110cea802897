"""Python's garbage collector in a process that serves.

A full collection looks at every object that is alive, and torch and its libraries bring a million:
each stops the process for 50 to 80 ms, every second or so of a busy engine. What is there once a
process is ready stays for good, so it is set aside.
"""

import gc


def set_aside() -> None:
    """Collect, and look at nothing that is alive now again, until the next call of this module."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def collect() -> None:
    """A full collection, of what was set aside too: for when something large has been dropped."""
    if gc.get_freeze_count():
        set_aside()
    else:
        gc.collect()
