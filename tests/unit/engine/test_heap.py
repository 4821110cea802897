"""What is set aside from garbage collection is found again when something has been dropped."""

import subprocess
import sys

SCRIPT = """
import gc, weakref
from tupelo import heap

class Node: pass

def cycle():
    node = Node()
    node.self = node
    return weakref.ref(node), node

ref, node = cycle()
heap.collect()
assert gc.get_freeze_count() == 0, "collecting alone sets nothing aside"
heap.set_aside()
assert gc.get_freeze_count() > 0
node = None
gc.collect()
assert ref() is not None, "it was set aside"
heap.collect()
assert ref() is None
assert gc.get_freeze_count() > 0
"""


def test_what_was_set_aside_is_collected_once_it_is_dropped() -> None:
    """In a process of its own: the collector is the process's."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
