"""``tupelo chat`` over a scripted engine."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.cli import main
from tupelo.errors import RequestError
from tupelo_server.terminal import Conversation


def chat(url: str, typed: str, monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    return main(["chat", "--url", url, *flags])


def test_a_conversation_grows_and_can_be_cleared(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "Hi\nAgain\n/clear\nNew\n/exit\nnever sent\n"
    assert chat(service.url, typed, monkeypatch, "--system", "Be kind.") == 0
    assert capsys.readouterr().out.count("Hello, world.") == 3
    prompts = [
        service.engine.tokenizer.decode(r.input_ids, skip_special_tokens=True)
        for r in service.engine.requests
    ]
    assert prompts == [
        "<system>Be kind.<user>Hi<assistant>",
        "<system>Be kind.<user>Hi<assistant>Hello, world.<user>Again<assistant>",
        "<system>Be kind.<user>New<assistant>",
    ]


def test_proxies_are_for_other_machines(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert chat(service.url, "Hi\n", monkeypatch) == 0
    assert capsys.readouterr().out == "Hello, world.\n"
    flags = ["--chat", "--dataset", "text", "--text", "Hi", "--num-requests", "1", "--json", "-"]
    assert main(["bench", "--url", service.url, *flags]) == 0
    assert json.loads(capsys.readouterr().out)["failed"] == 0


def test_the_end_of_the_input_ends_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chat(service.url, "", monkeypatch) == 0
    assert service.engine.requests == []


def test_a_refusal_is_one_line(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start(api_key="secret")
    assert chat(service.url, "Hi\n", monkeypatch) == 2
    assert "401" in capsys.readouterr().err
    assert chat(service.url, "Hi\n", monkeypatch, "--api-key", "secret") == 0


def test_stopping_early_keeps_what_was_said(service: Service) -> None:
    service.engine.delay_s = 0.01
    talk = Conversation(service.url, "")
    pieces = talk.ask("Hi")
    said = next(pieces)
    pieces.close()
    assert talk.messages[-1] == {"role": "assistant", "content": said.text}
    talk.close()


def test_a_failed_turn_is_forgotten(service: Service) -> None:
    service.engine.broken = ValueError("no")
    talk = Conversation(service.url, "")
    with pytest.raises(RequestError, match="500"):
        list(talk.ask("Hi"))
    assert talk.messages == []
    talk.close()


def test_commands_shape_what_is_sent(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    typed = [
        "/set temperature 0.25",
        "/set max_tokens 5",
        "/system Be brief.",
        '"""one',
        'two"""',
        "/set max_tokens",
        "//etc",
        "/retry",
        "/undo",
        f"/save {tmp_path / 'talk.json'}",
        "/clear",
        f"/load {tmp_path / 'talk.json'}",
        "again",
        f"/save {tmp_path / 'talk.txt'}",
        "/help",
        "/quit",
        "never sent",
    ]
    assert chat(service.url, "\n".join(typed), monkeypatch) == 0
    sent = service.engine.requests
    prompts = [service.engine.tokenizer.decode(r.input_ids, skip_special_tokens=True) for r in sent]
    first = "<system>Be brief.<user>one\ntwo<assistant>"
    assert prompts == [
        first,
        f"{first}Hello<user>/etc<assistant>",
        f"{first}Hello<user>/etc<assistant>",
        f"{first}Hello<user>again<assistant>",
    ]
    assert {r.params.temperature for r in sent} == {0.25}
    assert sent[0].params.max_new_tokens == 5
    assert sent[1].params.max_new_tokens != 5
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert "user:\nagain\n" in (tmp_path / "talk.txt").read_text()
    shown = capsys.readouterr()
    assert shown.out.count("Hello") == 4
    assert "/save FILE" in shown.err


@pytest.mark.parametrize(
    "line",
    ["/nothing", "/set colour 3", "/set temperature hot", "/save", "/load nowhere", "/retry"],
)
def test_a_wrong_command_in_a_pipe_ends_it(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    assert chat(service.url, f"{line}\nHi\n", monkeypatch) == 2
    assert line.split()[0] in capsys.readouterr().err
    assert service.engine.requests == []


class Terminal:
    """``tupelo chat`` on a terminal of its own."""

    def __init__(self, *flags: str) -> None:
        self._master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tupelo", "chat", *flags],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            preexec_fn=lambda: self._take_over(slave),
        )
        os.close(slave)
        self.shown = ""

    @staticmethod
    def _take_over(slave: int) -> None:
        """In the child: as under a script that runs in the background."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.login_tty(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Until ``text`` has been shown since the last wait."""
        deadline = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            if select.select([self._master], [], [], 0.2)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]

    def end(self) -> int:
        code = self._process.wait(60)
        os.close(self._master)
        return code

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def terminal(service: Service, tmp_path: Path) -> Iterator[Terminal]:
    flags = ["--url", service.url, "--history", str(tmp_path / "state" / "history")]
    running = Terminal(*flags)
    yield running
    running.stop()


def test_a_terminal_streams_interrupts_and_remembers(
    terminal: Terminal, service: Service, tmp_path: Path
) -> None:
    service.engine.script = lambda request: b"abcdefgh" * 40
    service.engine.delay_s = 0.02
    terminal.wait_for(">")
    terminal.type("/nothing\r")
    terminal.wait_for("no command /nothing")
    terminal.wait_for(">")
    terminal.type("Hi\r")
    terminal.wait_for("abcdefgh")
    terminal.type("\x03")
    terminal.wait_for("(stopped")
    terminal.wait_for(">")
    service.engine.script = lambda request: b"Done."
    terminal.type("one\x1b\rtwo\r")
    terminal.wait_for("Done.")
    terminal.wait_for(">")
    terminal.type("\x03")
    terminal.wait_for("leaves")
    terminal.wait_for(">")
    terminal.type("\x04")
    assert terminal.end() == 0
    assert len(service.engine.aborted) == 1
    last = service.engine.tokenizer.decode(
        service.engine.requests[-1].input_ids, skip_special_tokens=True
    )
    assert re.fullmatch(r"<user>Hi<assistant>abcdefgh[a-h]*<user>one\ntwo<assistant>", last)
    history = tmp_path / "state" / "history"
    assert "+Hi" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
