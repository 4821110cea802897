"""Runs the real server as users do, as a process of its own, for tests over HTTP."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import openai
import psutil

START_LIMIT_S = 120.0


class ServerProcess:
    """``tupelo serve`` on a free loopback port, from start to stop.

    Attributes:
        url: its address. log: what it wrote, after ``stop`` or while it runs.
    """

    def __init__(
        self,
        model: Path | str,
        folder: Path,
        *flags: str,
        environment: Mapping[str, str] | None = None,
        working_folder: Path | None = None,
    ) -> None:
        """Prepare; ``folder`` takes the log, ``environment`` is added to this process's own.

        With ``working_folder`` it runs there, as the installed ``tupelo`` does: importing nothing
        from where it stands.
        """
        self._log = folder / "server.log"
        self._environment = {**os.environ, "OMP_NUM_THREADS": "2", **(environment or {})}
        self._working_folder = working_folder
        python = [sys.executable, "-P"] if working_folder else [sys.executable]
        self._command = [*python, "-m", "tupelo", "serve", str(model), *flags]
        self._client: openai.OpenAI | None = None
        self.url = ""

    def __enter__(self) -> "ServerProcess":
        """Start it and wait until it is ready."""
        self.launch()
        self.wait_for(self.healthy, START_LIMIT_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def launch(self) -> None:
        """Start the process; wait until it says where it listens."""
        self._hang_up()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*self._command, "--port", "0"],
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._working_folder,
            )
        self.wait_for(lambda: "listening on http" in self.log, START_LIMIT_S)
        self.url = self.log.partition("listening on ")[2].split(";")[0]

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def process(self) -> psutil.Process:
        """The server's own process."""
        return psutil.Process(self._process.pid)

    @property
    def engine(self) -> psutil.Process:
        """The engine's process."""
        for child in psutil.Process(self._process.pid).children(recursive=True):
            if "tupelo.engine.worker" in child.cmdline():
                return child
        raise AssertionError("there is no engine process")

    @property
    def openai(self) -> Any:
        """The official client; typed loosely, for replies have more than it declares."""
        if self._client is None:
            url = f"{self.url}/v1"
            self._client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        return self._client

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, name: str) -> float:
        """The value of a metric, the sum over its labels."""
        found = self.metrics()
        assert name in found, f"no metric {name}"
        return found[name]

    def metrics(self) -> dict[str, float]:
        """The values of all metrics at one moment, each the sum over its labels.

        An engine that is too busy to answer in time has none of its own in them: it is asked again.
        """
        for _ in range(20):
            found = self._metrics()
            if "tupelo:num_running" in found:
                break
        return found

    def _metrics(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for line in httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines():
            if not line.startswith("#"):
                name = line.split("{")[0]
                found[name] = found.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
        return found

    def wait_for(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Wait until ``condition``; the seconds that it took."""
        begin = time.monotonic()
        while not condition():
            ended = self._process.poll()
            assert ended is None, f"the server ended with {ended}:\n{self.log[-3000:]}"
            assert time.monotonic() - begin < limit_s, (
                f"not within {limit_s} s:\n{self.log[-3000:]}"
            )
            time.sleep(0.05)
        return time.monotonic() - begin

    def exit_code(self, limit_s: float) -> int:
        """Wait for the end."""
        return self._process.wait(limit_s)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self) -> None:
        """End it as an operator does; kill it if it does not."""
        self._hang_up()
        if self._process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
