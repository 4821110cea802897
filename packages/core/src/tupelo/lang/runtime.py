"""A server as an object: one that is there, or one that is started for the purpose."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tupelo.config import server_environment
from tupelo.errors import EngineUnavailable, ProgramError
from tupelo.lang.backends.endpoint import RuntimeEndpoint
from tupelo.lang.options import Sampling
from tupelo.text.tokenizer import Tokenizer, load_tokenizer

_LISTENING = re.compile(r"listening on (http\S+?);")
_POLL_S = 0.1
_STOP_S = 20.0
_KEYS = ("api_key", "admin_api_key")


class Runtime(RuntimeEndpoint):
    """A server as a backend.

    ::

        runtime = Runtime(endpoint="http://localhost:30000")  # it runs already
        with Runtime(model_path="…", context_length=4096) as runtime:  # started, and stopped
            ...

    Args:
        model_path: start a server with this model, in a process of its own.
        endpoint: or use the one at this address.
        api_key, verify: see ``RuntimeEndpoint``.
        start_limit_s: for a started server to be ready.
        server_args: options of a started server, with underscores: ``page_size=16``; True and
            False for flags, a list for several values.

    Raises:
        ProgramError: both or neither of model and endpoint. EngineUnavailable: the server ended,
            or was not ready in time; the message has the end of what it wrote.
    """

    def __init__(
        self,
        model_path: str | Path | None = None,
        *,
        endpoint: str | None = None,
        api_key: str | None = None,
        verify: bool | str | None = None,
        start_limit_s: float = 600.0,
        **server_args: Any,
    ) -> None:
        if (model_path is None) == (endpoint is None):
            raise ProgramError("Runtime() takes either a model_path, or an endpoint")
        if endpoint is not None and server_args:
            raise ProgramError(
                f"Runtime(endpoint=…) starts no server, so it takes no {next(iter(server_args))!r}"
            )
        self._model = model_path
        self._stop: weakref.finalize[..., Any] | None = None
        if endpoint is None:
            options = {"api_key": api_key, **server_args}
            endpoint = self._launch(str(model_path), options, start_limit_s, verify)
        super().__init__(endpoint, api_key, verify)

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return self.base_url

    def shutdown(self) -> None:
        """Close connections; stop the server if it was started here. May be called twice."""
        self.close()
        if self._stop is not None:
            self._stop()

    def generate(self, prompt: Any, sampling_params: Any = None, **wanted: Any) -> Any:
        """A call of ``/generate``.

        Args:
            prompt: a text, or a list of texts.
            sampling_params: as ``/generate`` takes them.
            wanted: what else its body may hold.
        """
        return self._http.post(
            "/generate", {"text": prompt, "sampling_params": sampling_params or {}, **wanted}
        )

    async def async_generate(self, prompt: Any, sampling_params: Any = None, **wanted: Any) -> Any:
        """``generate`` for an event loop."""
        return await asyncio.to_thread(self.generate, prompt, sampling_params, **wanted)

    def encode(self, prompt: str | Sequence[str]) -> Any:
        """Vectors of texts, as ``/encode`` gives them."""
        text = prompt if isinstance(prompt, str) else list(prompt)
        return self._http.post("/encode", {"text": text})

    def cache_prefix(self, prefix: str) -> None:
        """Have a text computed that prompts will begin with."""
        only_compute: Sampling = {"max_new_tokens": 0, "temperature": 0.0}
        self.call(text=prefix, sampling_params=only_compute)

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer of the model that was started.

        Raises:
            ProgramError: the server was there already; ``encode_texts`` and ``decode_ids`` ask it.
        """
        if self._model is None:
            raise ProgramError("get_tokenizer() needs a model: Runtime(model_path=…)")
        return load_tokenizer(self._model)

    def _launch(
        self, model: str, options: dict[str, Any], limit_s: float, verify: bool | str | None
    ) -> str:
        """Start a server; its address once it is ready."""
        log = Path(tempfile.mkdtemp(prefix="tupelo-runtime-")) / "server.log"
        process = _start(model, options, log)
        self._stop = weakref.finalize(self, _stop, process, log)
        self.pid = process.pid
        try:
            return _ready(process, log, limit_s, verify)
        except BaseException:
            self._stop()
            raise


def _start(model: str, options: dict[str, Any], log: Path) -> "subprocess.Popen[bytes]":
    """Start a server that writes to ``log``, on a free port unless one is named."""
    keys = {name: options.pop(name, None) for name in _KEYS}
    command = [sys.executable, "-m", "tupelo.launch_server", "--model-path", model]
    with log.open("w") as out:
        return subprocess.Popen(
            [*command, *_flags({"port": 0, **options})],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=server_environment(keys),
        )


def _flags(options: dict[str, Any]) -> list[str]:
    """Options as a command line has them."""
    found: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value is False:
            found.append(f"--no-{flag[2:]}")
        elif isinstance(value, list | tuple):
            found += [flag, *map(str, value)]
        elif value is not None:
            found += [flag, str(value)]
    return found


def _ready(
    process: "subprocess.Popen[bytes]", log: Path, limit_s: float, verify: bool | str | None
) -> str:
    """Wait until a server is ready; its address."""
    from tupelo.lang.backends.http import Http

    deadline = time.monotonic() + limit_s
    http: Http | None = None
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineUnavailable(
                f"the server ended with {process.returncode}:\n{log.read_text()[-2000:]}"
            )
        if http is None and (found := _LISTENING.search(log.read_text())):
            http = Http(found[1], verify=verify is None or verify, timeout_s=5.0)
        if http is not None and _healthy(http):
            http.close()
            return http.base_url
        time.sleep(_POLL_S)
    raise EngineUnavailable(
        f"the server was not ready within {limit_s:g} s:\n{log.read_text()[-2000:]}"
    )


def _healthy(http: Any) -> bool:
    from tupelo.errors import RequestError

    try:
        http.get("/health")
    except RequestError:  # it starts, and says so
        return False
    return True


def _stop(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """End a server as an operator does; kill it if it does not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    log.unlink(missing_ok=True)
    if log.parent.is_dir():
        os.rmdir(log.parent)
