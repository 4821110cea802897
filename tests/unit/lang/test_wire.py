"""What services are sent, and what becomes of what they answer: a socket that takes notes."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

import tupelo as tp
from tupelo.errors import EngineUnavailable, InvalidRequest, RequestError

PNG = b"\x89PNG\r\n\x1a\n"


class Service:
    """A server on loopback.

    Attributes:
        bodies: what was posted, with the path. status, reply: what it answers.
    """

    def __init__(self) -> None:
        self.bodies: list[tuple[str, dict[str, Any]]] = []
        self.status, self.reply = 200, b"{}"
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                service.bodies.append((self.path, json.loads(self.rfile.read(length))))
                self.send_response(service.status)
                self.send_header("Content-Length", str(len(service.reply)))
                self.end_headers()
                self.wfile.write(service.reply)

            def log_message(self, *_: object) -> None:
                """Nothing is logged."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


@tp.function
def look(s: Any) -> None:
    """A conversation with all that services take."""
    s += tp.system("Be brief.")
    s += tp.user("What is on " + tp.image(PNG) + " here?")
    s += tp.assistant(tp.gen("seen", max_tokens=9, stop="!"))


def test_anthropic_is_sent_its_own_form(service: Service) -> None:
    service.reply = json.dumps(
        {
            "id": "msg_1",
            "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a cat"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 2},
        }
    ).encode()
    backend = tp.Anthropic("m", "key", service.url)
    state = look.run(backend=backend)
    assert state["seen"] == "a cat"
    assert state.get_meta_info("seen")["completion_tokens"] == 2
    ((path, body),) = service.bodies
    assert path == "/v1/messages"
    assert body["system"] == [{"type": "text", "text": "Be brief."}]
    (message,) = body["messages"]
    assert [block["type"] for block in message["content"]] == ["text", "image", "text"]
    source = message["content"][1]["source"]
    assert (source["type"], source["media_type"]) == ("base64", "image/png")
    assert (body["max_tokens"], body["stop_sequences"]) == (9, ["!"])
    backend.close()


def test_openai_is_sent_its_own_form(service: Service) -> None:
    message = {"content": "a dog", "reasoning_content": "hm"}
    choice = {"message": message, "finish_reason": "stop"}
    service.reply = json.dumps({"id": "1", "choices": [choice]}).encode()
    backend = tp.OpenAI("m", "key", f"{service.url}/v1")

    @tp.function
    def split(s: Any) -> None:
        s += tp.separate_reasoning(tp.user("x") + tp.assistant(tp.gen("y", n=1)), "qwen3")

    assert look.run(backend=backend)["seen"] == "a dog"
    state = split.run(backend=backend)
    assert (state["y"], state["y_reasoning_content"]) == ("a dog", "hm")
    (path, body), (_, other) = service.bodies
    assert path == "/v1/chat/completions"
    assert (body["max_completion_tokens"], body["stop"]) == (9, "!")
    assert body["messages"][1]["content"][1]["image_url"]["url"].startswith("data:image/png;")
    assert other["max_completion_tokens"] == 128
    backend.close()


def test_schemas_are_strict_where_they_can_be(service: Service) -> None:
    reply = {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}]}
    service.reply = json.dumps(reply).encode()
    backend = tp.OpenAI("m", base_url=service.url)
    closed = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    closed["properties"] = {"a": {"type": "null"}}

    @tp.function
    def ask(s: Any, schema: Any) -> None:
        s += tp.user("x") + tp.assistant(tp.gen("y", json_schema=schema))

    ask.run(closed, backend=backend)
    ask.run({**closed, "required": ["a"]}, backend=backend)
    formats = [body["response_format"]["json_schema"]["strict"] for _, body in service.bodies]
    assert formats == [False, True]
    backend.close()


@pytest.mark.parametrize(
    ("status", "reply", "kind", "message"),
    [
        (400, b'{"error": {"message": "no such field"}}', InvalidRequest, "no such field"),
        (401, b'{"error": "a key is needed"}', RequestError, "a key is needed"),
        (500, b"<html>oh no</html>", RequestError, "answered 500: <html>oh no"),
    ],
)
def test_refusals_keep_their_words(
    service: Service, status: int, reply: bytes, kind: type[RequestError], message: str
) -> None:
    service.status, service.reply = status, reply
    backend = tp.OpenAI("m", base_url=service.url)
    for stream in (False, True):
        error = look.run(backend=backend, stream=stream)
        with pytest.raises(kind, match=message) as caught:
            error["seen"]
        assert caught.value.status == status
    backend.close()


def test_an_error_inside_a_stream_ends_it(service: Service) -> None:
    service.reply = (
        b'data: {"choices": [{"delta": {"content": "Well"}}]}\n\n'
        b'data: {"error": {"message": "the engine is gone"}}\n\ndata: [DONE]\n\n'
    )
    backend = tp.OpenAI("m", base_url=service.url)
    pieces = look.run(backend=backend, stream=True).text_iter("seen")
    assert next(pieces) == "Well"
    with pytest.raises(RequestError, match="the engine is gone"):
        next(pieces)
    backend.close()


def test_a_connection_that_breaks_is_told(service: Service) -> None:
    service.server.shutdown()
    service.server.server_close()
    state = look.run(backend=tp.OpenAI("m", base_url=service.url))
    assert isinstance(state.error(), EngineUnavailable)
