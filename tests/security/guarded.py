"""A server under attack: what must hold for it whatever is sent."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from tests.security.model import CONTEXT
from tests.security.streams import Streams
from tests.system.harness import ServerProcess

MAX_GROWTH_BYTES = 192 << 20
"""Memory that server and engine may have gained over a test file: what malloc keeps, no leak."""

MAX_NEW_FILES = 24
"""Files and sockets that may be open after a test file and were not before: idle template workers,
connections that the client's pool keeps."""

MAX_BODY_BYTES = 4 << 20

OPTIONS = {
    "--load-format": "dummy",
    "--served-model-name": "tiny",
    "--max-total-tokens": "16384",
    "--context-length": str(CONTEXT),
    "--page-size": "8",
    "--max-running-requests": "48",
    "--max-queued-requests": "256",
    "--pipeline-depth": "2",
    "--request-timeout-s": "2",
    "--max-body-bytes": str(MAX_BODY_BYTES),
}


class Guarded(ServerProcess):
    """The tiny model, served batch-invariantly, with its background streams.

    Attributes:
        streams: run in quiet when the server is ready. engine_pid: as it was then.
        key: an API key that opens it, "" where it needs none. folder: where its log is.
    """

    def __init__(
        self, model: Path, folder: Path, *flags: str, key: str = "", **environment: str
    ) -> None:
        words = [word for pair in OPTIONS.items() for word in pair]
        super().__init__(
            model,
            folder,
            *words,
            "--batch-invariant",
            "--check-integrity",
            *flags,
            environment={"OMP_NUM_THREADS": "1", **environment},
        )
        self.key = key
        self.folder = folder
        self._http = httpx.Client(timeout=60, limits=httpx.Limits(keepalive_expiry=2))

    def __enter__(self) -> "Guarded":
        super().__enter__()
        self.streams = Streams(self.url, key=self.key)
        self.engine_pid = self.engine.pid
        return self

    def stop(self) -> None:
        self._http.close()
        super().stop()

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        """Send ``body`` as JSON."""
        return self.request("POST", path, json=body, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send anything, with the key unless ``headers`` say otherwise."""
        if self.key:
            more.setdefault("headers", {"authorization": f"Bearer {self.key}"})
        return self._http.request(method, self.url + path, **more)

    def resident_bytes(self) -> int:
        """Memory of the server's and the engine's process."""
        found = (self.process.memory_info().rss, self.engine.memory_info().rss)
        return sum(found)

    def open_files(self) -> int:
        """Descriptors of both processes."""
        return int(self.process.num_fds() + self.engine.num_fds())

    @contextmanager
    def besieged(self) -> Iterator["Guarded"]:
        """Streams run inside; afterwards nothing of what happened may be left."""
        memory, files = self.resident_bytes(), self.open_files()
        with self.streams.running():
            yield self
        self.audit()
        grown = self.resident_bytes() - memory
        assert grown < MAX_GROWTH_BYTES, f"{grown >> 20} MiB more in use than before"
        self.wait_for(lambda: self.open_files() <= files + MAX_NEW_FILES, 10)

    def still_stands(self) -> None:
        """After a test: the same engine, healthy, and no stream has changed."""
        self.streams.check()
        assert self.engine.pid == self.engine_pid, "the engine was restarted"
        assert self.engine.status() != psutil.STATUS_ZOMBIE
        assert self.healthy()

    def audit(self, limit_s: float = 60.0) -> None:
        """Nothing runs, nothing waits, no page is owned, every page is accounted for."""
        self.still_stands()
        end = time.monotonic() + limit_s
        while left := self.leftovers():
            assert time.monotonic() < end, f"left behind: {left}"
            time.sleep(0.05)

    def leftovers(self) -> dict[str, float]:
        """Figures that are not as they are when nothing runs."""
        seen = self.metrics()
        figures = {
            "running": seen["tupelo:num_running"],
            "waiting": seen["tupelo:num_waiting"],
            "owned pages": seen["tupelo:pages_owned"],
            "lost pages": seen["tupelo:pages_total"]
            - seen["tupelo:pages_free"]
            - seen["tupelo:pages_cached"],
        }
        return {name: value for name, value in figures.items() if value}


class Keyed(Guarded):
    """The same with keys of two users, ``alice`` and ``bob``, and of an administrator, ``root``.

    ``post`` and ``get`` send the first user's, whose streams are in the background.

    Attributes:
        roots: the one folder that clients may name paths in.
    """

    alice, bob, root = "sk-alice-5e1f0a", "sk-bob-77c2d9", "sk-root-c0ffee"

    def __init__(self, model: Path, folder: Path, *flags: str) -> None:
        names = f"{self.alice},{self.bob}"
        self.roots = folder / "roots"
        self.roots.mkdir()
        words = ["--log-level", "debug", "--log-requests", "--enable-cache-report"]
        words += ["--tool-call-parser", "hermes", "--reasoning-parser", "qwen3"]
        super().__init__(
            model,
            folder,
            *words,
            "--weight-roots",
            str(self.roots),
            "--profile-dir",
            str(self.roots),
            *flags,
            key=self.alice,
            TUPELO_API_KEY=names,
            TUPELO_ADMIN_API_KEY=self.root,
        )

    def as_(self, key: str) -> dict[str, str]:
        """Headers with a key; none at all with ""."""
        return {"authorization": f"Bearer {key}"} if key else {}
