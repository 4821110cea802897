"""Names of models: paths, hub ids against a small hub of our own, and what is neither."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tupelo.checkpoint import locate
from tupelo.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"hello",
    "pytorch_model.bin": b"pickle",
    "modeling_evil.py": b"raise SystemExit",
    "consolidated.safetensors": b"again",
    "original/params.json": b"{}",
}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as downloading a public repository takes."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/org/tiny/"):
            entries = [{"rfilename": name} for name in FILES]
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": "0" * 40}
                for n, d in FILES.items()
            ]
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": entries, "private": False}
            self._send(json.dumps(tree if "/tree/" in path else info).encode())
        elif path.startswith("/org/tiny/resolve/"):
            self._send(FILES[path.split("/", 5)[5]])
        else:
            self._send(b"{}", status=404, error="RepoNotFound")

    def _send(self, body: bytes, status: int = 200, error: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(body)}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the tests look at what was downloaded."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def locate_in_a_process(model: str, endpoint: str, cache: Path, offline: bool = False) -> list[str]:
    """The hub's address is read when its library is imported, hence a process of its own."""
    code = (
        "import sys\nfrom tupelo.checkpoint import locate\n"
        "from tupelo.errors import CheckpointError\n"
        "try: print('found', locate(sys.argv[1], offline=sys.argv[2] == 'True'), sep='\\n')\n"
        "except CheckpointError as error: print('refused', error, sep='\\n')"
    )
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, model, str(offline)],
        env=env,
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout.strip().split("\n", 1)


def test_hub_id_brings_weights_but_neither_pickles_nor_code(hub: str, tmp_path: Path) -> None:
    outcome, folder = locate_in_a_process("org/tiny", hub, tmp_path)
    assert outcome == "found", folder
    names = {p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}

    cached = locate_in_a_process("org/tiny", "http://127.0.0.1:9", tmp_path, offline=True)
    assert cached == ["found", folder]


def test_hub_without_that_repository(hub: str, tmp_path: Path) -> None:
    outcome, message = locate_in_a_process("org/absent", hub, tmp_path)
    assert outcome == "refused"
    assert "no local path 'org/absent' exists" in message
    assert "not there" in message


def test_unreachable_hub(tmp_path: Path) -> None:
    outcome, message = locate_in_a_process("org/tiny", "http://127.0.0.1:9", tmp_path)
    assert outcome == "refused"
    assert "cannot be reached" in message
    assert "tupelo pull" in message


def test_existing_path_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == Path("org/name")
    assert locate(str(tmp_path)) == tmp_path


def test_offline_and_not_cached(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"not in the cache.*offline.*tupelo pull"):
        locate("org-that-is-not/model-that-is-not", offline=True)


@pytest.mark.parametrize(
    "model",
    [
        "",
        "name",
        "/absent/folder/model",
        "./org/name",
        "../../no/such/folder",
        "org/../name",
        "org/name/more",
        "org/..name",
        "http://host/org/name",
        "org/na me",
        "org\\name",
        "org/name\n",
        "org/%2e%2e",
        "a\0b/c",
        "x" * 5000,
        "o" * 97 + "/n",
        "~nobody-of-that-name/x",
    ],
)
def test_what_is_neither_path_nor_id_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError) as error:
        locate(model)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("revision", ["", "../main", "a b", "x" * 200])
def test_odd_revision_is_refused(revision: str) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        locate("org/name", revision=revision, offline=True)
