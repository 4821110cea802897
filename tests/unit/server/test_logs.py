"""What is logged: levels of requests, redaction, one line a record, JSON."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.server.conftest import Start
from tests.unit.server.fake_engine import byte_tokenizer

import tupelo_server
from tupelo.engine.logs import LineFormatter
from tupelo.errors import ConfigError
from tupelo.request import SamplingParams
from tupelo_server.config import ServerConfig
from tupelo_server.generation import Job, Prompt
from tupelo_server.request_log import RequestLog

SECRET_PROMPT, SECRET_STOP, ANSWER = "my-prompt-text", "my-stop-text", "Hello, world."


@contextmanager
def capture() -> Iterator[list[logging.LogRecord]]:
    """Records of the request log."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("tupelo_server.request_log")
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.INFO
    try:
        yield records
    finally:
        logger.removeHandler(handler)
        logger.level = level


def lines(start: Start, caplog: pytest.LogCaptureFixture, *, form: str, **options: Any) -> str:
    """Everything that is logged while a few requests are served, right and wrong ones."""
    formatter = LineFormatter(form, process="server", secrets=["some-api-key"])
    service = start(api_key="some-api-key", **options)
    headers = {"authorization": "Bearer some-api-key"}
    with caplog.at_level("INFO"):
        for path, body in (
            ("/v1/completions", {"prompt": SECRET_PROMPT, "stop": SECRET_STOP}),
            ("/v1/completions", {"prompt": list(SECRET_PROMPT.encode()), "stream": True}),
            ("/generate", {"text": SECRET_PROMPT, "sampling_params": {"stop": SECRET_STOP}}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": SECRET_PROMPT}]}),
            ("/v1/chat/completions", {"messages": [{"role": SECRET_PROMPT, "content": "a"}]}),
            ("/v1/completions", {"prompt": "a", SECRET_PROMPT: "a"}),
        ):
            service.http.post(path + "?q=" + SECRET_PROMPT, json=body, headers=headers)
        service.engine.broken = ValueError(f"no way with {SECRET_PROMPT}")
        service.http.post("/v1/completions", json={"prompt": "a"}, headers=headers)
    return "\n".join(
        formatter.format(r) for r in caplog.records if r.name.startswith(("tupelo", "uvicorn"))
    )


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("level", [None, 0, 1, 2, 3])
def test_content_is_logged_only_where_it_is_asked_for(
    start: Start, caplog: pytest.LogCaptureFixture, form: str, level: int | None
) -> None:
    options = {} if level is None else {"log_requests": True, "log_requests_level": level}
    text = lines(start, caplog, form=form, access_log=True, **options)
    assert "some-api-key" not in text
    assert ("request begins" in text) == (level is not None)
    assert ("temperature" in text) == (level is not None and level >= 1)
    for content in (SECRET_PROMPT, SECRET_STOP, ANSWER):
        assert (content in text) == (level is not None and level >= 2), content
    assert "/v1/completions 200" in text
    assert "?q=" not in text


def test_a_long_text_is_cut_below_level_3() -> None:
    tokenizer = byte_tokenizer()
    text = "x" * 5000
    job = Job(prompt=Prompt((1,), text), params=SamplingParams(), rid="r")
    for level, shown in ((2, 2048), (3, 5000)):
        with capture() as records:
            RequestLog(enabled=True, level=level).begin(job, "s0", tokenizer)
        prompt = records[0].__dict__["fields"]["prompt"]
        assert prompt.count("x") == shown


def test_every_json_line_is_an_object(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    text = lines(
        start, caplog, form="json", access_log=True, log_requests=True, log_requests_level=3
    )
    records = [json.loads(line) for line in text.splitlines()]
    ends = [r for r in records if r["message"] == "request ends"]
    assert {"request", "rid", "finish_reason", "completion_tokens", "e2e_s"} <= set(ends[0])
    traces = [r["trace"] for r in records if "trace" in r]
    assert traces
    assert 'File "tupelo_server/' in traces[0]


def record(message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("tupelo.x", logging.INFO, "file", 1, message, args, None)


def test_a_message_cannot_forge_a_line() -> None:
    formatter = LineFormatter("text", process="server")
    text = formatter.format(record("got %s", "a\nINFO server: all is well\x1b[31m"))
    assert "\n" not in text
    assert "\x1b" not in text


def test_secrets_are_hidden_and_short_ones_left() -> None:
    formatter = LineFormatter("text", process="server", secrets=["abcdefgh", "a"])
    assert formatter.format(record("key abcdefgh a")).endswith("key *** a")


def test_tracebacks_name_no_folder_of_this_machine() -> None:
    formatter = LineFormatter("text", process="server")
    try:
        ServerConfig(port=-1)
    except ConfigError:
        found = record("failed")
        found.exc_info = sys.exc_info()
    text = formatter.format(found)
    assert "tupelo_server/config.py" in text
    assert str(Path(tupelo_server.__file__).parent.parent) not in text


def test_level_out_of_bounds() -> None:
    with pytest.raises(ConfigError, match="log-requests-level"):
        ServerConfig(log_requests_level=4)


def test_logging_is_changed_while_the_server_runs(start: Start) -> None:
    service = start(enable_admin_routes=True)
    root = logging.getLogger()
    before = root.level

    def lines(**body: Any) -> list[str]:
        """What is logged of a request after this change."""
        assert service.post("/configure_logging", **body).status_code == 200
        with capture() as records:
            assert service.post("/v1/completions", prompt=SECRET_PROMPT).status_code == 200
        return [str(record.__dict__["fields"]) for record in records]

    try:
        assert lines() == []
        begin, end = lines(log_requests=True)
        assert SECRET_PROMPT not in begin + end
        assert SECRET_PROMPT in lines(log_requests_level=2)[0]
        assert lines(log_requests=False, log_level="ERROR") == []
        assert root.level == logging.ERROR
    finally:
        root.setLevel(before)
    for body in (
        {"log_requests_level": 4},
        {"log_requests_level": -1},
        {"log_level": "loud"},
        {"log_requests": 1},
        {"dump_requests_folder": "x"},
        {"log_requests_format": "json"},
    ):
        reply = service.post("/configure_logging", **body)
        assert reply.status_code == 400, body
        assert next(iter(body)) in reply.text
