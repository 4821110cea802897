"""The process in which a grammar is compiled for the first time; started by ``trial``.

Compilers are native code that meets what strangers wrote: some sources overflow its stack, others
take minutes or gigabytes. Here that ends a process that holds nothing, instead of the engine's.

Messages are msgpack behind a 4-byte length, on standard input and output: the vocabulary first,
then one grammar at a time, each answered. The process ends when its input does.
"""

import contextlib
import signal
import sys
import threading
import time
from typing import Any, BinaryIO

import msgspec

from tupelo.grammar.backend import GrammarBackend, GrammarError
from tupelo.grammar.backends import open_backend
from tupelo.grammar.options import GrammarOptions
from tupelo.grammar.vocabulary import Vocabulary, greedy_encoder
from tupelo.process import LENGTH
from tupelo.request import Grammar

STACK_BYTES = 1 << 20
"""Of the thread that compiles here: less than any thread of the engine has, so that what comes
through here cannot overflow a stack there."""

MEMORY_BYTES = {"llguidance": 4 << 30, "xgrammar": 32 << 30}
"""Address space of the process; torch alone reserves many times what it uses."""


class Setup(msgspec.Struct, frozen=True):
    """To the worker, first."""

    tokens: list[bytes]
    special_ids: list[int]
    eos_ids: list[int]
    options: GrammarOptions


class Verdict(msgspec.Struct, frozen=True):
    """From the worker: the library's own source of a grammar, or what is wrong with it.

    ``seconds``: what compiling took.
    """

    source: str = ""
    error: str = ""
    seconds: float = 0.0


def _judge(backend: GrammarBackend, grammar: Grammar) -> Verdict:
    began = time.perf_counter()
    try:
        source = backend.translate(grammar)
        backend.compile(source)
    except GrammarError as error:
        return Verdict(error=str(error) or "is invalid")
    except RecursionError:
        return Verdict(error="is nested too deeply")
    except MemoryError:
        return Verdict(error="needs more memory than it may have")
    except Exception as error:  # whatever a library makes of what a stranger wrote
        return Verdict(error=f"cannot be compiled ({type(error).__name__})")
    return Verdict(source=source, seconds=time.perf_counter() - began)


def _give_up_rights(memory_bytes: int) -> None:
    """A bounded address space, no files to write, no core dumps."""
    import resource

    limits = {"RLIMIT_AS": memory_bytes, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            with contextlib.suppress(OSError, ValueError):  # not every system has every limit
                resource.setrlimit(kind, (value, value))


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    def receive() -> bytes | None:
        head = source.read(LENGTH.size)
        return source.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None

    def send(verdict: Verdict) -> None:
        data = msgspec.msgpack.encode(verdict)
        sink.write(LENGTH.pack(len(data)) + data)
        sink.flush()

    first = receive()
    if first is None:
        return
    setup = msgspec.msgpack.decode(first, type=Setup)
    vocabulary = Vocabulary(
        tokens=tuple(setup.tokens),
        special_ids=tuple(setup.special_ids),
        eos_ids=tuple(setup.eos_ids),
        encode=greedy_encoder(setup.tokens),
    )
    backend = open_backend(vocabulary, setup.options)
    _give_up_rights(MEMORY_BYTES[setup.options.backend])
    send(Verdict())
    while (data := receive()) is not None:
        send(_judge(backend, msgspec.msgpack.decode(data, type=Grammar)))


def main() -> int:
    """Entry point of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.stack_size(STACK_BYTES)
    failures: list[Any] = []

    def run() -> None:
        try:
            _serve(sys.stdin.buffer, sys.stdout.buffer)
        except BrokenPipeError as error:  # the parent is gone
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
