"""``tupelo chat`` over a scripted engine."""

import io

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
    pieces.close()  # type: ignore[attr-defined]
    assert talk.messages[-1] == {"role": "assistant", "content": said}
    talk.close()


def test_a_failed_turn_is_forgotten(service: Service) -> None:
    service.engine.broken = ValueError("no")
    talk = Conversation(service.url, "")
    with pytest.raises(RequestError, match="500"):
        list(talk.ask("Hi"))
    assert talk.messages == []
    talk.close()
