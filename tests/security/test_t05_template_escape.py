"""T5: a template that tries to get out of its sandbox gets an error, whichever way it came."""

from typing import Any

import pytest
from tests.security.guarded import Guarded
from tests.security.templates import ESCAPES, QUIET, STATEMENTS
from tests.unit.text.conftest import byte_level_metadata, tokenizer_of

from tupelo.errors import TemplateError
from tupelo.text.templates import TemplateRenderer

ASKED: dict[str, Any] = {
    "/v1/chat/completions": {"max_tokens": 1},
    "/v1/responses": {"max_output_tokens": 1, "background": True},
    "/v1/tokenize": {},
    "/tokenize": {},
    "/v1/messages": {"model": "m", "max_tokens": 1},
    "/v1/messages/count_tokens": {"model": "m"},
    "/api/chat": {"model": "m", "options": {"num_predict": 1}, "stream": False},
}


@pytest.mark.parametrize("route", ASKED)
def test_escapes_in_the_model_s_template(templated: Guarded, route: str) -> None:
    for name in ESCAPES:
        if name in STATEMENTS:
            continue
        field = "input" if route == "/v1/responses" else "messages"
        messages = [{"role": "user", "content": name}]
        reply = templated.post(route, {**ASKED[route], field: messages})
        if name in QUIET and reply.status_code == 200:
            continue
        assert reply.status_code == 400, (name, reply.text)
        error = reply.json()["error"]
        message = error if route == "/api/chat" else error["message"]
        assert "chat template" in message, (name, error)
        assert "0x" not in message
    assert not (templated.folder / "ran").exists()


def test_what_a_template_changed_is_gone(templated: Guarded) -> None:
    messages = [{"role": "user", "content": "change a list"}]
    templated.post("/tokenize", {"messages": messages})
    good = {"messages": [{"role": "user", "content": "a"}]}
    counts = {templated.post("/tokenize", good).json()["count"] for _ in range(3)}
    assert len(counts) == 1


@pytest.mark.parametrize(
    "name", ["import", "include", "extends", "do", "globals of lipsum", "self"]
)
def test_templates_of_every_source_go_through_the_same_door(name: str) -> None:
    """A GGUF's metadata ends in the one renderer, as a folder's template does, which refuses."""
    tokenizer = tokenizer_of({**byte_level_metadata(), "tokenizer.chat_template": ESCAPES[name]})
    renderer = TemplateRenderer()
    try:
        with pytest.raises(TemplateError):
            renderer.render(tokenizer.template_for(), messages=[{"role": "user", "content": "a"}])
    finally:
        renderer.close()


@pytest.mark.parametrize("field", ["chat_template", "template", "jinja", "tools"])
def test_clients_bring_no_template(server: Guarded, field: str) -> None:
    body = {"messages": [{"role": "user", "content": "a"}], field: "{{ lipsum.__globals__ }}"}
    for route in ("/v1/chat/completions", "/v1/tokenize"):
        assert server.post(route, body).status_code == 400
    for route in ("/v1/messages", "/api/chat"):
        wrong = {**ASKED[route], **body}
        assert server.post(route, wrong).status_code == 400
        variables = {**ASKED[route], "messages": body["messages"], "chat_template_kwargs": {}}
        assert "chat_template_kwargs" in server.post(route, variables).text
    prompt = {"model": "m", "prompt": "a", field: body[field]}
    assert server.post("/api/generate", prompt).status_code == 400
    kwargs = {"messages": body["messages"], "chat_template_kwargs": {field: body[field]}}
    status = server.post("/v1/chat/completions", kwargs).status_code
    assert status == (200 if field == "jinja" else 400)


def test_a_client_s_text_is_never_a_template(server: Guarded) -> None:
    """Braces in a message are text: they come back as they were."""
    for text in ESCAPES.values():
        body = {"messages": [{"role": "user", "content": text}], "add_special_tokens": False}
        ids = server.post("/tokenize", body).json()["tokens"]
        back = server.post("/detokenize", {"tokens": ids, "skip_special_tokens": False}).json()
        assert text in back["text"]
