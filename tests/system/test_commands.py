"""``tupelo chat`` and ``tupelo bench`` as users run them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
from tests.system.harness import ServerProcess

from tupelo_server.terminal import Conversation


def tupelo(
    *arguments: str, typed: str = "", limit_s: float = 100
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tupelo", *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=limit_s,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )


def test_chat_starts_its_own_server(demo_gguf: Path) -> None:
    flags = ["--max-tokens", "8", "--temperature", "0"]
    found = tupelo("chat", str(demo_gguf), *flags, typed="What is the capital of France?\n/exit\n")
    assert found.returncode == 0, found.stderr
    assert "Paris" in found.stdout
    assert "Traceback" not in found.stderr


def test_a_stopped_reply_leaves_its_prefix_in_the_cache(server: ServerProcess) -> None:
    def live() -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{server.url}/live").json()
        return found

    first = live()["counters"]
    talk = Conversation(server.url, "", options={"temperature": 0})
    said = talk.ask("Write a long story about a river and a stone.")
    shown = [next(said) for _ in range(30)]
    said.close()
    server.wait_for(lambda: live()["num_running"] == 0, 30)
    before = live()["counters"]
    talk.options["max_tokens"] = 1
    assert len(shown) == 30
    assert list(talk.ask("Go on."))
    talk.close()
    after = live()["counters"]
    found = after["cached_tokens"] - before["cached_tokens"]
    asked = sum(before[name] - first[name] for name in ("prefill_tokens", "cached_tokens"))
    assert found >= asked + 8, "the question is not computed again, nor the stopped reply"


def test_chat_says_why_it_cannot_start(tmp_path: Path) -> None:
    found = tupelo("chat", str(tmp_path / "absent.gguf"))
    assert found.returncode == 2
    assert "absent.gguf" in found.stderr
    assert "Traceback" not in found.stderr


def test_bench_measures(server: ServerProcess) -> None:
    flags = ["--dataset", "shared-prefix", "--groups", "2", "--prefix-len", "48", "--json", "-"]
    sizes = ["--num-requests", "8", "--input-len", "8", "--output-len", "4"]
    found = tupelo("bench", "--url", server.url, *flags, *sizes)
    assert found.returncode == 0, found.stderr
    figures = json.loads(found.stdout)
    assert figures["failed"] == 0
    assert (figures["input_tokens"], figures["output_tokens"]) == (8 * 56, 8 * 4)
    assert figures["ttft_ms"]["p99"] > 0
