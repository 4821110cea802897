"""The commands and programs of the documentation: found, and run as a reader would run them."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))))
NO_TASKS = {
    "docs/adding-a-model.md": "for those who change Tupelo: tests/parity runs its example",
    "docs/backends.md": "for vendors: tests/unit/cli/test_sample_backend.py runs its example",
    "docs/development.md": "for those who change Tupelo: its commands are the checks themselves",
    "docs/performance.md": "measurements, minutes and machines long",
}
"""Pages whose blocks are not run, and why."""
NOT_RUN = {
    "bash quickstart.sh": "test_quickstart runs it, in an environment of its own",
    "bash ci/cpu/test.sh": "what runs these tests",
    ". .venv/bin/activate": "tests have their environment",
    "pip install ./packages/core ./packages/backend-cpu ./packages/server": "ci/cpu/wheels.sh does",
    "pip install 'tupelo-server[grpc]'": "the tools of the tests bring it",
    'grpcurl -plaintext -d \'{"text": "The capital of France is"}\' '
    "127.0.0.1:30001 tupelo.v1.Tupelo/Generate": "not of Python; test_grpc.py calls the same",
    "tupelo serve HuggingFaceTB/SmolLM2-135M-Instruct": "the hub is not asked by tests",
}
"""Commands that are not run, and why."""

URL = "http://127.0.0.1:30000"
LIMIT_S = 300.0
_BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SERVES = re.compile(r"tupelo serve\b|python -m tupelo\.launch_server\b")


@dataclass(frozen=True)
class Block:
    """One fenced block: the page that it stands on, which of its blocks it is, what it says."""

    page: str
    number: int
    language: str
    text: str

    def __str__(self) -> str:
        """What tests are named by."""
        return f"{Path(self.page).stem}-{self.number}-{self.language}"

    @property
    def commands(self) -> list[str]:
        """The commands of a shell's block, without comments; a Python block is none."""
        if self.language != "bash":
            return []
        found, text = [], ""
        for line in self.text.replace("\\\n", " ").splitlines(keepends=True):
            text += line
            try:
                words = shlex.split(text, comments=True)
            except ValueError:  # a quotation goes on in the next line
                continue
            if words:
                found.append(re.sub(r"\s+# .*", "", text).strip() if text == line else text.strip())
            text = ""
        return found

    @property
    def needs_a_server(self) -> bool:
        """Whether it talks to a server that runs."""
        return URL in self.text


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text()
    return [Block(page, i, *found) for i, found in enumerate(_BLOCK.findall(text), 1)]


def run(block: Block, folder: Path, words: Mapping[str, str]) -> str:
    """Run a block in ``folder``, with ``words`` replaced in it; what it prints.

    Raises:
        AssertionError: it failed; holds what it said.
    """
    if block.language == "python":
        program = folder / "program.py"
        program.write_text(_replaced(block.text, words))
        return _finish([sys.executable, str(program)], folder)
    said = []
    for command in block.commands:
        if command not in NOT_RUN:
            line = _replaced(command, words)
            said.append(_serve(line, folder) if _SERVES.match(line) else _shell(line, folder))
    return "\n".join(said)


def _replaced(text: str, words: Mapping[str, str]) -> str:
    for word, other in words.items():
        text = text.replace(word, other)
    return text


def _environment(folder: Path) -> dict[str, str]:
    """The tests' own, with ``tupelo``, ``python`` and a curl that fails where HTTP does."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name, module in (("tupelo", "-m tupelo"), ("python", "")):
        script = bin_folder / name
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        script.chmod(0o755)
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nnoproxy = *\n")
    return {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "CURL_HOME": str(folder),
        "XDG_STATE_HOME": str(folder),
    }


def _shell(line: str, folder: Path) -> str:
    return _finish(["bash", "-c", line], folder)


def _finish(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(folder),
        input="What is the capital of France?\n",
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _serve(line: str, folder: Path) -> str:
    """Start a server as the line says, on free ports, until it is ready; then end it."""
    words = [re.sub(r"^3000[01]$", "0", word) for word in shlex.split(line)]
    if "--port" not in words:
        words += ["--port", "0"]
    log = folder / "serve.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            words, cwd=folder, env=_environment(folder), stdout=out, stderr=out
        )
    try:
        begin = time.monotonic()
        while "ready in" not in log.read_text():
            assert process.poll() is None, f"{line}\n{log.read_text()[-3000:]}"
            assert time.monotonic() - begin < LIMIT_S, f"{line}\n{log.read_text()[-3000:]}"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return log.read_text()
