"""The real server when things go wrong: bad input, lost clients, a frozen or dead engine."""

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from tests.system.harness import ServerProcess


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", {"messages": []}, 400, None),
        ("/v1/completions", {"prompt": "a", "max_tokens": 10**6}, 400, "context_length_exceeded"),
        ("/v1/completions", {"prompt": [49152]}, 400, None),
        ("/v1/completions", {"prompt": "a", "temperature": -1}, 400, None),
        ("/v1/completions", {"prompt": "a", "lora_path": "a"}, 400, "unsupported_parameter"),
        ("/v1/models/nothing", None, 404, "model_not_found"),
        ("/v1/nothing", {}, 404, None),
    ],
)
def test_refusals(
    server: ServerProcess, path: str, body: Any, status: int, code: str | None
) -> None:
    method = "GET" if body is None else "POST"
    reply = httpx.request(method, server.url + path, json=body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert error["code"] == code
    assert "/" not in error["message"].replace("'a/b'", ""), "no path in a message"


def test_native_generate(server: ServerProcess) -> None:
    body: dict[str, Any] = {
        "text": ["The sky is", "Grass is"],
        "sampling_params": {"max_new_tokens": 6, "temperature": 0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 2,
    }
    whole = httpx.post(f"{server.url}/generate", json=body, timeout=60).json()
    assert [len(item["output_ids"]) for item in whole] == [6, 6]
    for item in whole:
        meta = item["meta_info"]
        assert meta["finish_reason"] == {"type": "length", "length": 6}
        assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"]
        assert len(meta["output_token_logprobs"]) == 6
        assert [row[1] for row in meta["output_token_logprobs"]] == item["output_ids"]
    last: dict[int, Any] = {}
    with httpx.stream(
        "POST", f"{server.url}/generate", json={**body, "stream": True}, timeout=60
    ) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    for line in lines[:-1]:
        item = json.loads(line.removeprefix("data: "))
        last[item["index"]] = item
    for index, item in enumerate(whole):
        assert last[index]["text"] == item["text"]
        assert last[index]["output_ids"] == item["output_ids"]


def test_probes_add_no_work(server: ServerProcess) -> None:
    before = server.metric("tupelo:steps_total")
    with httpx.Client(base_url=server.url) as client:
        for _ in range(1000):
            assert client.get("/health").status_code == 200
    assert server.metric("tupelo:steps_total") == before


def test_random_disconnects_return_to_the_baseline(server: ServerProcess) -> None:
    """200 clients that leave at a random moment: sockets closed, so that nothing is tidied up."""
    draw = random.Random(4)
    parts = urlsplit(server.url)

    def leave_early(number: int, wait_s: float) -> None:
        body = json.dumps(
            {
                "prompt": f"Story {number % 7}: once upon a time",
                "max_tokens": 200,
                "stream": number % 3 > 0,
                "n": 1 + number % 2,
                "ignore_eos": True,
            }
        ).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(wait_s)

    pid = server.engine.pid
    for _ in range(10):
        threads = [
            threading.Thread(target=leave_early, args=(n, draw.uniform(0, 0.4))) for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    took = server.wait_for(
        lambda: (
            server.metric("sglang:num_running_reqs") == 0
            and server.metric("sglang:num_queue_reqs") == 0
        ),
        10,
    )
    assert took < 10
    assert server.metric("tupelo:pages_owned") == 0
    total = server.metric("tupelo:pages_total")
    kept = server.metric("tupelo:pages_free") + server.metric("tupelo:pages_cached")
    assert kept == total
    assert server.engine.pid == pid
    reply = server.openai.completions.create(model="demo", prompt="a", max_tokens=2)
    assert reply.choices[0].finish_reason


def test_frozen_engine_is_not_ready_and_thaws(server: ServerProcess) -> None:
    engine = server.engine
    engine.suspend()
    try:
        took = server.wait_for(lambda: not server.healthy(), 10)
        assert took < 5
    finally:
        engine.resume()
    server.wait_for(server.healthy, 5)
    reply = server.openai.completions.create(model="demo", prompt="a", max_tokens=2)
    assert reply.choices[0].finish_reason


def test_killed_engine_ends_the_server(demo_gguf: Path, tmp_path: Path) -> None:
    with ServerProcess(demo_gguf, tmp_path) as server:
        stream = server.openai.completions.create(
            model="demo", prompt="a", max_tokens=500, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        server.engine.kill()
        with pytest.raises(openai.APIError, match="engine process died"):
            list(stream)
        assert server.exit_code(10) == 1
        assert "the engine process died" in server.log
        assert "Traceback" not in server.log


def test_drains_on_sigterm(demo_gguf: Path, tmp_path: Path) -> None:
    with ServerProcess(demo_gguf, tmp_path) as server:
        engine = server.engine
        stream = server.openai.completions.create(
            model="demo", prompt="a", max_tokens=30, stream=True, extra_body={"ignore_eos": True}
        )
        first = next(iter(stream))
        server.signal(signal.SIGTERM)
        rest = list(stream)
        assert [c.choices[0].finish_reason for c in (first, *rest)][-1] == "length"
        assert server.exit_code(15) == 0
        assert not engine.is_running()
        assert len([line for line in server.log.splitlines() if " INFO " in line]) <= 20


def test_drain_is_bounded(demo_gguf: Path, tmp_path: Path) -> None:
    with ServerProcess(demo_gguf, tmp_path, "--shutdown-timeout-s", "1") as server:
        stream = server.openai.completions.create(
            model="demo", prompt="a", max_tokens=5000, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        server.signal(signal.SIGTERM)
        assert list(stream)[-1].choices[0].finish_reason == "abort"
        assert server.exit_code(15) == 0


def test_port_in_use_is_found_before_the_model_is_loaded(demo_gguf: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        begin = time.monotonic()
        found = subprocess.run(
            [sys.executable, "-m", "tupelo", "serve", str(demo_gguf), "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert found.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in found.stderr
    assert "Traceback" not in found.stderr
    assert "loading" not in found.stderr
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize(
    "flags",
    [["--port", "99999"], ["--host", "no.such.host.invalid"], ["--chat-template", "/no/file"]],
    ids=lambda flags: flags[0],
)
def test_wrong_options(demo_gguf: Path, flags: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-m", "tupelo", "serve", str(demo_gguf), "--port", "0", *flags],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 2
    assert flags[0] in found.stderr
    assert "Traceback" not in found.stderr


def test_api_key(demo_gguf: Path, tmp_path: Path) -> None:
    with ServerProcess(demo_gguf, tmp_path, "--api-key", "open-sesame") as server:
        with pytest.raises(openai.AuthenticationError) as caught:
            server.openai.models.list()
        assert caught.value.code == "invalid_api_key"
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="open-sesame") as client:
            assert client.models.list().data
        assert httpx.get(f"{server.url}/server_info").status_code == 401
        assert httpx.get(f"{server.url}/metrics").status_code == 200
        assert "open-sesame" not in server.log
