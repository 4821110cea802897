"""Traces one chat request through the server and the engine, and counts what it passes through.

    python ci/request_path.py [MODEL]      prints a Markdown table and both figures

A server is started with a hook in each of its Python processes. After one request that warms
everything up, a second one is traced: every file of ours in which a function is called counts, and
every line that runs. Lines of code are those that are neither blank nor comment nor docstring.
"""

import ast
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
import urllib.request
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ROOT / "packages"
FOLDER = "TUPELO_TRACE_FOLDER"
_SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
# Runs in a process of its own that keeps neither environment nor hooks; counted whole.
_SANDBOXED = "core/src/tupelo/text/template_worker.py"
_START_LIMIT_S = 180.0


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that are neither blank nor comment nor docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstrings


def lines_passed(source: str, run: set[int]) -> set[int]:
    """Lines of code of the statements that ``run`` touches; of a compound one, its head alone."""
    passed: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if body else node.end_lineno or node.lineno
            span = set(range(node.lineno, max(last, node.lineno) + 1))
            if span & run:
                passed |= span
    return passed & code_lines(source)


def install() -> None:
    """Trace this process while the file ``on`` is in the folder; write a report when it goes."""
    folder = Path(os.environ[FOLDER])
    prefix = str(PACKAGES) + os.sep
    seen: dict[str, set[int]] = defaultdict(set)
    active = threading.Event()

    def trace_lines(frame: FrameType, event: str, argument: object) -> Any:
        if active.is_set() and event == "line":
            seen[frame.f_code.co_filename].add(frame.f_lineno)
        return trace_lines

    def trace_calls(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(prefix):
            return None
        if active.is_set():
            seen[frame.f_code.co_filename].add(frame.f_lineno)
        return trace_lines

    def watch() -> None:
        while True:
            on = (folder / "on").exists()
            if on and not active.is_set():
                seen.clear()
                active.set()
                (folder / f"started-{os.getpid()}").touch()
            elif not on and active.is_set():
                active.clear()
                report = {name: sorted(lines) for name, lines in seen.items()}
                part = folder / f"part-{os.getpid()}"
                part.write_text(json.dumps(report))
                part.rename(folder / f"report-{os.getpid()}.json")
            time.sleep(0.02)

    threading.settrace(trace_calls)
    sys.settrace(trace_calls)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()


def trace(model: list[str]) -> dict[str, set[int]]:
    """Serve ``model``, trace one streamed chat request, and return the lines run by file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sitecustomize.py").write_text(
            f"import sys\nsys.path.insert(0, {str(ROOT / 'ci')!r})\n"
            "import request_path\nrequest_path.install()\n"
        )
        environment = {**os.environ, FOLDER: name, "PYTHONPATH": name}
        port = _free_port()
        command = [sys.executable, "-m", "tupelo", "serve", *model, "--port", str(port)]
        limits = ["--max-total-tokens", "4096", "--max-running-requests", "8"]
        server = subprocess.Popen([*command, *limits], env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(server, url)
            _chat(url, "What is the capital of France?")
            (folder / "on").touch()
            _wait_for(folder, "started-*")
            _chat(url, "Name three colours of the rainbow.")
            time.sleep(0.5)  # the last step's bookkeeping
            (folder / "on").unlink()
            return _gather(_wait_for(folder, "report-*.json"))
        finally:
            server.terminate()
            server.wait()


def table(lines_run: dict[str, set[int]]) -> str:
    """The files as a Markdown table, and a last line with the sums."""
    rows, total, run = [], 0, 0
    for file in sorted(lines_run):
        source = (PACKAGES / file).read_text(encoding="utf-8")
        code, passed = len(code_lines(source)), len(lines_passed(source, lines_run[file]))
        rows.append(f"| `{file.partition('/src/')[2]}` | {code} | {passed} |")
        total, run = total + code, run + passed
    head = ["| file | lines of code | run by the request |", "| --- | ---: | ---: |"]
    sums = f"{len(rows)} files with {total} lines of code, {run} of which run."
    return "\n".join([*head, *rows, "", sums])


def _gather(reports: list[Path]) -> dict[str, set[int]]:
    lines: dict[str, set[int]] = defaultdict(set)
    for report in reports:
        for name, numbers in json.loads(report.read_text()).items():
            lines[Path(name).relative_to(PACKAGES).as_posix()].update(numbers)
    if not lines:
        raise RuntimeError(f"nothing in {PACKAGES} ran: the environment has another Tupelo")
    lines[_SANDBOXED] |= code_lines((PACKAGES / _SANDBOXED).read_text(encoding="utf-8"))
    return lines


def _wait_for(folder: Path, pattern: str, count: int = 2) -> list[Path]:
    """Files of both processes, the server's and the engine's."""
    deadline = time.monotonic() + 30.0
    while len(found := list(folder.glob(pattern))) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {len(found)} of {count} processes answered with {pattern}")
        time.sleep(0.02)
    return found


def _chat(url: str, question: str) -> None:
    body = {
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "max_tokens": 16,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 1,
    }
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), headers
    )
    with _opener().open(request, timeout=120) as reply:
        assert b"[DONE]" in reply.read()


def _wait_until_ready(server: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + _START_LIMIT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with _opener().open(url + "/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server did not become ready")


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    print(table(trace(sys.argv[1:2])))
