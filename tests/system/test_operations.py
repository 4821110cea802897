"""A real server as operators run it: metrics, timing, logs, a drain."""

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.system.harness import ServerProcess
from tests.system.tiny_model import write_tiny_model

from tupelo_server.metric_names import declared, exposed_names

DASHBOARD = Path(__file__).resolve().parents[2] / "examples" / "monitoring" / "dashboard.json"
USER, ADMIN = "user-key-123456", "admin-key-123456"
PROMPT = "w11 w12 w13"
PARTS = ("prepare_s", "queue_s", "prefill_s", "decode_s")
ASK = {"authorization": f"Bearer {USER}", "x-tupelo-timing": "1"}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 60, "ignore_eos": True},
    "/generate": {"text": PROMPT, "sampling_params": {"max_new_tokens": 60, "ignore_eos": True}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("operated"))


@pytest.fixture(scope="module")
def operated(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A tiny model that runs four requests at a time, and logs all that it may."""
    log = tmp_path_factory.mktemp("log")
    (log / "options.yaml").write_text(
        f"load-format: dummy\nmax-running-requests: 4\napi-key: {USER}\nlog-format: json\n"
        f"admin-api-key: {ADMIN}\nlog-requests: true\nlog-requests-level: 1\naccess-log: true\n"
    )
    with ServerProcess(folder, log, "--config", str(log / "options.yaml")) as server:
        yield server


def timing(server: ServerProcess, path: str, *, stream: bool) -> dict[str, float]:
    """The timing block of one request."""
    body = {**BODIES[path], "stream": stream}
    reply = httpx.post(server.url + path, json=body, headers=ASK, timeout=60)
    assert reply.status_code == 200, reply.text
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    last = json.loads(lines[-1]) if stream else reply.json()
    item = last["meta_info"] if path == "/generate" else last["choices"][0]
    found: dict[str, float] = item["timing"]
    return found


def sums(server: ServerProcess) -> dict[str, float]:
    """What the histograms have added up to."""
    names = {
        "prepare_s": "tupelo:prepare_time_seconds",
        "queue_s": "sglang:queue_time_seconds",
        "prefill_s": "tupelo:prefill_time_seconds",
        "decode_s": "tupelo:decode_time_seconds",
        "e2e_s": "sglang:e2e_request_latency_seconds",
    }
    return {part: server.metric(f"{name}_sum") for part, name in names.items()}


def test_times_add_up_and_histograms_agree(operated: ServerProcess) -> None:
    before = sums(operated)
    asked = [(path, stream) for path in BODIES for stream in (False, True)] * 3
    with ThreadPoolExecutor(6) as pool:  # more than run at once, so that some wait
        blocks = list(pool.map(lambda ask: timing(operated, ask[0], stream=ask[1]), asked))
    total = {part: sum(block[part] for block in blocks) for part in (*PARTS, "e2e_s")}
    assert total["queue_s"] > 0
    assert sum(total[part] for part in PARTS) == pytest.approx(total["e2e_s"], rel=0.05)
    after = sums(operated)
    for part, seconds in total.items():
        assert after[part] - before[part] == pytest.approx(seconds, rel=0.05), part


def test_every_metric_is_declared_and_every_declared_one_is_there(operated: ServerProcess) -> None:
    text = httpx.get(f"{operated.url}/metrics").text
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    expected = {
        name + ("_total" if family.kind == "counter" else ""): family.kind
        for name, family in declared().items()
    }
    assert kinds == expected
    assert set(re.findall(r"^([a-z0-9_:]+)", text, re.MULTILINE)) == exposed_names()


def test_the_dashboard_asks_for_nothing_else(operated: ServerProcess) -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [t["expr"] for panel in board["panels"] for t in panel.get("targets", [])]
    used = {n for query in queries for n in re.findall(r"\b[a-z]+:[a-z0-9_]+", query)}
    assert len(used) > 30
    there = {line.split("{")[0] for line in httpx.get(f"{operated.url}/metrics").text.splitlines()}
    assert used <= there
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_nothing_secret_leaves_the_server(operated: ServerProcess, folder: Path) -> None:
    """Keys, prompts and paths, in what it answers and in what it logs (below level 2)."""
    for path, body in BODIES.items():
        httpx.post(operated.url + path, json=body, headers=ASK, timeout=60)
        httpx.post(operated.url + path, json={**body, PROMPT: 1}, headers=ASK)
        httpx.post(operated.url + path, json=body, headers={"authorization": f"Bearer x{USER}"})
    shown = operated.log
    for path in ("/server_info", "/model_info", "/openapi.json", "/v1/models", "/metrics", "/x"):
        for key in (USER, ADMIN):
            headers = {"authorization": f"Bearer {key}"}
            shown += httpx.get(operated.url + path, headers=headers).text
    for secret in (USER, ADMIN, PROMPT, str(folder)):
        assert secret not in shown
    assert not re.search(r"/(home|root|tmp|opt|usr)/", shown)


def test_callers_share_no_prefix(operated: ServerProcess) -> None:
    """The second of one key finds what its first left; another key does not."""
    text = " ".join(f"w{i}" for i in range(50, 130))
    body = {"text": text, "sampling_params": {"max_new_tokens": 1}}
    found = []
    for key, salt in ((USER, None), (USER, None), (ADMIN, None), (USER, "s"), (ADMIN, "s")):
        reply = httpx.post(
            f"{operated.url}/generate",
            json={**body, "cache_salt": salt},
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
        )
        found.append(reply.json()["meta_info"]["cached_tokens"])
    assert found == [0, 64, 0, 0, 0]


def test_every_line_of_the_log_is_json(operated: ServerProcess) -> None:
    timing(operated, "/generate", stream=True)
    records = [json.loads(line) for line in operated.log.splitlines()]
    assert {"server", "engine rank 0"} <= {record["process"] for record in records}
    ends = [r for r in records if r["message"] == "request ends"]
    assert ends[-1]["completion_tokens"] == 60
    assert ends[-1]["finish_reason"] == "length"
    assert any("/generate 200 in" in record["message"] for record in records)


def test_a_drain_lets_streams_end_and_sends_others_away(folder: Path, tmp_path: Path) -> None:
    flags = ["--load-format", "dummy", "--shutdown-timeout-s", "60"]
    with ServerProcess(folder, tmp_path, *flags) as server:
        body = {**BODIES["/v1/completions"], "max_tokens": 120, "n": 4, "stream": True}
        begun, lines = threading.Event(), []

        def read() -> None:
            with httpx.stream(
                "POST", f"{server.url}/v1/completions", json=body, timeout=60
            ) as reply:
                for line in reply.iter_lines():
                    lines.append(line)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(30)
        server.signal(signal.SIGTERM)
        refused = _refusal(server)
        reader.join(60)
        finished = [line for line in lines if '"finish_reason":"length"' in line]
        assert len(finished) == 4
        assert "data: [DONE]" in lines
        assert server.exit_code(20) == 0
        if refused is not None:  # else it had ended before it could be asked
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "engine_unavailable"


def _refusal(server: ServerProcess) -> httpx.Response | None:
    """The first refusal of a new request after the signal."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.url}/ready").status_code == 503:
                assert httpx.get(f"{server.url}/health").status_code == 200
                return httpx.post(f"{server.url}/v1/completions", json={"prompt": "w1"})
        except httpx.TransportError:
            return None
    raise AssertionError("the server is ready all the same")
