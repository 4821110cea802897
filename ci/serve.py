"""Serves a model, asks it for a reply, and measures it: ``python ci/serve.py REPORT.json``.

MODEL is what is served (default: Tupelo's demo model), PORT where (default: any that is free), and
TUPELO_BACKEND on what. 0 if the server became ready, replied, served every request of ``tupelo
bench`` and ended when it was told to.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

READY_S, END_S = 1800.0, 60.0
QUESTION = {"messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 16}


def main() -> int:
    """Serve, ask, measure, end."""
    report = Path(sys.argv[1])
    port = os.environ.get("PORT") or _free_port()
    url = f"http://127.0.0.1:{port}"
    model = [os.environ["MODEL"]] if os.environ.get("MODEL") else []
    command = [sys.executable, "-m", "tupelo", "serve", *model, "--port", str(port)]
    print(" ".join(command), flush=True)
    began = time.monotonic()
    server = subprocess.Popen(command)
    try:
        found = measure(server, url, report.with_suffix(".bench"), began)
    finally:
        code = end(server)
    found |= {"server_exit_code": code, "passed": found["passed"] and code == 0}
    report.write_text(json.dumps(found, indent=1), "utf-8")
    print(json.dumps(found), flush=True)
    return 0 if found["passed"] else 1


def measure(
    server: subprocess.Popen[bytes], url: str, figures: Path, began: float
) -> dict[str, Any]:
    """What the server did, once it is ready."""
    if not wait_ready(server, url, began + READY_S):
        return {"passed": False, "why": "it did not become ready"}
    ready_s = round(time.monotonic() - began, 1)
    reply = ask(url)
    bench = [sys.executable, "-m", "tupelo", "bench", "--url", url, "--num-requests", "16"]
    code = subprocess.run([*bench, "--json", str(figures)], check=False).returncode
    rates = json.loads(figures.read_text("utf-8")) if figures.is_file() else None
    figures.unlink(missing_ok=True)
    passed = bool(reply) and code == 0
    return {"passed": passed, "ready_s": ready_s, "reply": reply, "bench": rates}


def wait_ready(server: subprocess.Popen[bytes], url: str, until: float) -> bool:
    """Whether it became ready before it ended, or the time did."""
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/ready", timeout=10) as answer:
                if answer.status == 200:
                    return True
        except OSError:  # not listening yet, or listening and not ready
            pass
        time.sleep(0.5)
    return False


def ask(url: str) -> str:
    """The reply to ``QUESTION``; "" if the server refuses."""
    body = json.dumps(QUESTION).encode()
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode(errors="replace"), flush=True)
        return ""


def end(server: subprocess.Popen[bytes]) -> int:
    """Tell the server to end; its exit code, or -9 if it had to be killed."""
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
    try:
        return server.wait(END_S)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
