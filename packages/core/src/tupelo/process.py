"""A child process that is asked over pipes: messages behind a 4-byte length, each with a deadline.

What somebody else wrote (chat templates, grammars) is worked on in such a process: it can be
killed, and whatever it does to its memory or its interpreter ends with it.
"""

import os
import select
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Final

import psutil

LENGTH: Final = struct.Struct(">I")
"""Before each message, both ways: its length in bytes."""

_PIPE_BYTES: Final = 1 << 16
_LEAST_S: Final = 0.05
"""Less time of a processor than this is none that was missed."""


class AskedProcess:
    """One process and its two pipes. Owned by one thread at a time; ``end`` any thread may call.

    Args:
        command: a program that reads requests from its standard input, answers each on its
            standard output, and ends when its input does.
        environment: all that it sees of the environment; None: this process's.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests = self._process.stdin
        self._replies = self._process.stdout
        os.set_blocking(self._requests.fileno(), False)
        self._last = 0.0
        self._cpu_end_s = 0.0

    def ask(self, request: bytes, deadline: float, *, patience_s: float = 0.0) -> bytes:
        """Send a request and wait for its reply. After any error only ``kill`` is of use.

        Args:
            deadline: by ``time.monotonic``.
            patience_s: so much longer for a process that a busy machine did not let run; none once
                it has had as much time of a processor as lay before ``deadline``.

        Raises:
            TimeoutError: no reply in time. EOFError, OSError: the process is gone.
        """
        self._last = deadline + patience_s
        if patience_s:
            self._cpu_end_s = self._cpu_s() + deadline - time.monotonic()
        self._write(LENGTH.pack(len(request)) + request, deadline)
        return self.reply(deadline)

    def reply(self, deadline: float) -> bytes:
        """Wait for a message that nothing was sent for, such as that it is ready.

        Raises:
            As ``ask``.
        """
        self._last = max(self._last, deadline)
        (size,) = LENGTH.unpack(self._read(LENGTH.size, deadline))
        return self._read(size, deadline)

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it, and leave the rest to its owner, who sees its end."""
        self._process.kill()

    def kill(self) -> None:
        """Kill it, and give back all that belongs to it."""
        self._process.kill()
        self._process.wait()
        self._requests.close()
        self._replies.close()

    def _write(self, data: bytes, deadline: float) -> None:
        left = memoryview(data)
        while left:
            self._wait(self._requests.fileno(), select.POLLOUT, deadline)
            left = left[os.write(self._requests.fileno(), left[:_PIPE_BYTES]) :]

    def _read(self, size: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self._replies.fileno(), select.POLLIN, deadline)
            chunk = os.read(self._replies.fileno(), size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def _wait(self, pipe: int, event: int, deadline: float) -> None:
        """Until ``pipe`` is ready for ``event``, or broken, which the next call on it says."""
        poll = select.poll()
        poll.register(pipe, event)
        while not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            now = time.monotonic()
            left = self._cpu_end_s - self._cpu_s() if now < self._last else 0.0
            if left < _LEAST_S:
                raise TimeoutError
            deadline = min(self._last, now + left)

    def _cpu_s(self) -> float:
        """Seconds that it has had of processors."""
        try:
            times = psutil.Process(self._process.pid).cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(times.user + times.system)
