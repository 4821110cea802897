#!/usr/bin/env python3
"""How long the README's first minutes take: every step of "Try it", as a newcomer would take it.

  python benchmarks/first_minutes.py [--port 30000] [--out FILE]

A fresh clone of what is committed, a new environment, and empty caches of pip and of models.
The steps are the page's own blocks, in its order: the first in one terminal, the others in a second
one once the server answers. Nothing is done that the page doesn't say, so a step that is missing
there fails here. ``cpu_s`` is the time of processors that all of it took, which other work on the
machine changes little. Ends with code 1 if the first program has not answered after five minutes.
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300.0
PORT = "30000"
READY = "the server stays at"
_BLOCK = re.compile(r"(.*?)^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps(page: Path) -> Iterator[tuple[str, str]]:
    """What to run, and a file to write before it: of ``(command, program)`` either may be ""."""
    section = page.read_text().split("\n## Try it\n")[1].split("\n## ")[0]
    for number, (prose, language, block) in enumerate(_BLOCK.findall(section)):
        for command in re.findall(r"`(pip install [^`]+)`", prose):
            yield command, ""
        if language == "bash":
            yield block.strip(), ""
            continue
        name = re.search(r"as `(\w+\.py)`", prose)
        yield f"python {name[1] if name else f'program{number}.py'}", block


def environment(folder: Path) -> dict[str, str]:
    """The user's own, without anything of Tupelo's, and without caches."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("TUPELO_", "PYTHON", "VIRTUAL_"))
    }
    inside = Path(sys.prefix) / "bin"
    path = [place for place in os.environ["PATH"].split(":") if Path(place) != inside]
    caches = {"PIP_CACHE_DIR": "pip", "TUPELO_CACHE": "models", "XDG_STATE_HOME": "state"}
    return {
        **kept,
        "PATH": ":".join(path),
        **{name: str(folder / place) for name, place in caches.items()},
    }


class Terminal:
    """A shell; ``run`` gives it a command, and waits for its end."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self._shell = subprocess.Popen(
            ["bash"],
            cwd=folder,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """What it prints.

        Raises:
            RuntimeError: it failed; holds what it said.
        """
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f'{command}\necho "=== $?"\n')
        self._shell.stdin.flush()
        said = []
        for line in self._shell.stdout:
            if found := re.search(r"=== (\d+)$", line):
                said.append(line[: found.start()])
                break
            said.append(line)
        text = "".join(said).strip()
        if not found or found[1] != "0":
            raise RuntimeError(f"{command}\n{text}")
        return text

    def close(self) -> None:
        """End the shell."""
        self._shell.communicate()


def serve(
    command: str, folder: Path, variables: dict[str, str], note: Callable[[str], None]
) -> "subprocess.Popen[str]":
    """Run the first step until the server answers; ``note`` gets what it tells on the way."""
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if READY in line:
            # Whatever the server says later must not fill the pipe.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return process
        if line.startswith(("setup:", "quickstart:", "answer:")) or "start-up:" in line:
            note(line.strip())
    raise RuntimeError(f"{command}\n{''.join(said)}")


def measure(folder: Path, port: str) -> dict[str, Any]:
    """Take every step; when each ended, and what it said."""
    clone = folder / "tupelo"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    variables = environment(folder)
    if port != PORT:
        variables["TUPELO_PORT"] = port
    (first, _), *others = steps(clone / "README.md")
    load, began = os.getloadavg(), time.perf_counter()
    table: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []

    def passed() -> float:
        return round(time.perf_counter() - began, 1)

    def tell(line: str) -> None:
        print(f"{passed():7.1f} s      {line}", flush=True)
        stages.append({"at_s": passed(), "said": line})

    def note(command: str, said: str) -> None:
        table.append({"command": command, "ended_s": passed(), "said": said[-200:]})
        print(f"{passed():7.1f} s  {command.splitlines()[0]}", flush=True)

    server = serve(first, clone, variables, tell)
    try:
        note(first, stages[-1]["said"])
        terminal = Terminal(clone, variables)
        for command, program in others:
            line = command.replace(PORT, port)
            if program:
                (clone / command.split()[1]).write_text(program.replace(PORT, port))
            if "tupelo chat" in line:  # what a person would type there
                line += " <<< 'What is the capital of France?'"
            elif program or line.startswith("pip"):
                line += " </dev/null"
            note(command, terminal.run(line))
        terminal.close()
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpus": os.cpu_count(),
        "load_before": round(load[0], 2),
        "load_after": round(os.getloadavg()[0], 2),
        "first_reply_s": table[0]["ended_s"],
        "first_program_s": table[-1]["ended_s"],
        "limit_s": LIMIT_S,
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "stages": stages,
        "steps": table,
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", default=PORT, help="another one, where that is taken")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tupelo-first-minutes-"))
    try:
        found = measure(folder, arguments.port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(found["first_program_s"] > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
