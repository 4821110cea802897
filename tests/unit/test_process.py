"""A child that is asked over pipes: whatever it does, an answer or an error comes in time."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tupelo.process import AskedProcess

ECHO = """
import sys
source, sink = sys.stdin.buffer, sys.stdout.buffer
while head := source.read(4):
    sink.write(head + source.read(int.from_bytes(head, "big"))[::-1])
    sink.flush()
"""


def start(program: str) -> AskedProcess:
    return AskedProcess([sys.executable, "-c", program])


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def test_messages_of_any_size(stack: ExitStack) -> None:
    child = start(ECHO)
    stack.callback(child.kill)
    for size in (0, 1, 70_000, 3_000_000):
        message = bytes(i % 251 for i in range(size))
        assert child.ask(message, soon()) == message[::-1]
    assert child.alive()


@pytest.mark.parametrize("size", [10, 3_000_000], ids=["waits", "does not read"])
def test_a_child_that_does_nothing(stack: ExitStack, size: int) -> None:
    child = start("import time; time.sleep(60)")
    stack.callback(child.kill)
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        child.ask(bytes(size), soon(0.2))
    assert time.monotonic() - begin < 20


@pytest.mark.parametrize("patience_s", [0.0, 60.0])
def test_a_child_that_is_kept_from_the_processor(stack: ExitStack, patience_s: float) -> None:
    """It is waited for, if it is to be, until it has had its time of one."""
    child = start(ECHO)
    stack.callback(child.kill)
    assert child.ask(b"ready", soon()) == b"ydaer"
    (process,) = [p for p in psutil.Process().children() if "sys.stdin.buffer" in str(p.cmdline())]
    process.suspend()
    later = threading.Timer(2.0, process.resume)
    later.start()
    stack.callback(later.join)
    if patience_s:
        assert child.ask(b"abc", soon(0.5), patience_s=patience_s) == b"cba"
    else:
        with pytest.raises(TimeoutError):
            child.ask(b"abc", soon(0.5))


def test_a_busy_child_gets_no_patience(stack: ExitStack) -> None:
    child = start("import sys; sys.stdin.buffer.read(1)\nwhile True: pass")
    stack.callback(child.kill)
    with pytest.raises(TimeoutError):
        child.ask(b"abc", soon(0.5), patience_s=1e6)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_child_that_ends(stack: ExitStack, size: int) -> None:
    child = start("import sys; sys.stdin.buffer.read(1)")
    stack.callback(child.kill)
    with pytest.raises((EOFError, OSError)):
        child.ask(bytes(size), soon())


def test_one_that_another_thread_ends(stack: ExitStack) -> None:
    child = start(ECHO)
    stack.callback(child.kill)
    child.end()
    with pytest.raises((EOFError, OSError)):
        child.ask(b"?", soon())
    child.kill()
    assert not child.alive()


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        AskedProcess(["/nonexistent/program"])
