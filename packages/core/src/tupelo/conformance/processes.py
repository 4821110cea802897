"""The kit's child processes: one module of the kit each, answering with one line of JSON."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tupelo.conformance.case import CheckFailed


class Child:
    """``python -m MODULE ARGS…``, started at once, in an interpreter of its own."""

    def __init__(self, module: str, args: Sequence[str]) -> None:
        self._module = module
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self, timeout_s: float) -> Any:
        """The last line that it prints, parsed.

        Raises:
            CheckFailed: it failed, printed no JSON, or took longer than ``timeout_s``; it is ended
                then.
        """
        try:
            out, err = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise CheckFailed(f"{self._module} did not answer within {timeout_s:g} s") from None
        if self._process.returncode:
            tail = "\n".join(err.strip().splitlines()[-8:])
            raise CheckFailed(f"{self._module} ended with {self._process.returncode}: {tail}")
        lines = out.strip().splitlines()
        try:
            return json.loads(lines[-1] if lines else "")
        except json.JSONDecodeError as error:
            raise CheckFailed(f"{self._module} printed no answer: {out[-200:]!r}") from error

    def end(self) -> None:
        """Kill it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
