"""T5: a template that tries to get out of its sandbox gets an error, whichever way it came."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.security.guarded import Guarded
from tests.security.model import CHAT_TEMPLATE, write_byte_model
from tests.unit.text.conftest import byte_level_metadata, tokenizer_of

from tupelo.errors import TemplateError
from tupelo.text.templates import TemplateRenderer

ESCAPES = {
    "globals of a method": "{{ raise_exception.__globals__ }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].popen('touch MARK') }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('touch MARK') }}",
    "joiner": "{{ joiner.__init__.__globals__.os.popen('touch MARK') }}",
    "namespace": "{{ namespace.__init__.__globals__ }}",
    "class of a text": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "class by a filter": "{{ (''|attr('__class__')).__mro__ }}",
    "attribute built of parts": "{{ ''|attr('__cl' ~ 'ass__') }}",
    "attribute by hex": "{{ ''['\\x5f\\x5fclass\\x5f\\x5f'] }}",
    "map of attributes": "{{ ['']|map(attribute='__class__')|list }}",
    "selectattr": "{{ ['']|selectattr('__class__')|list }}",
    "groupby": "{{ ['']|groupby('__class__')|list }}",
    "sum of attributes": "{{ ['']|sum(attribute='__class__') }}",
    "format": "{{ '{0.__class__}'.format('') }}",
    "format_map": "{{ '{x.__class__}'.format_map({'x': ''}) }}",
    "percent format": "{{ '%s' % self.__init__.__globals__ }}",
    "self": "{{ self._TemplateReference__context }}",
    "context": "{{ self.__dict__ }}",
    "loop": "{% for i in [1] %}{{ loop.__class__ }}{% endfor %}",
    "macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "caller": "{% macro c() %}{{ caller._func.x }}{% endmacro %}{% call c() %}{% endcall %}",
    "generator": "{{ ([1]|select).gi_frame.f_globals }}",
    "code": "{{ raise_exception.__code__ }}",
    "function globals": "{{ strftime_now.__globals__ }}",
    "import": "{% import 'os' as os %}",
    "include": "{% include '/etc/passwd' %}",
    "extends": "{% extends '/etc/passwd' %}",
    "do": "{% do messages.append(1) %}",
    "change a list": "{{ messages.append(1) }}",
    "change a mapping": "{{ messages[0].update(role='x') }}",
    "clear": "{{ messages.clear() }}",
    "request": "{{ request.application.__globals__ }}",
    "config": "{{ config.items() }}",
    "open": "{{ open('/etc/passwd').read() }}",
    "builtins": "{{ __builtins__ }}{{ __import__('os') }}",
    "type": "{{ dict.__subclasses__() }}",
    "mro of dict": "{{ dict.mro() }}",
    "a forbidden filter": "{{ 'x'|pprint|attr('__doc__') }}",
}
"""Each alone in a template; ``change a list`` and its kind would reach the next request."""

QUIET = {"config", "builtins", "request"}
"""What Jinja2 calls undefined: an error or an empty text, and no way out."""


STATEMENTS = ("import", "include", "extends", "do")
"""These cannot stand in a branch of a template that works otherwise."""


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A server whose model's template does what the first message's content names."""
    folder = tmp_path_factory.mktemp("evil")
    mark = folder / "ran"
    usual = CHAT_TEMPLATE
    for name, text in ESCAPES.items():
        if name not in STATEMENTS:
            usual += _branch(name, text.replace("MARK", str(mark)))
    model = write_byte_model(tmp_path_factory.mktemp("model"), usual)
    with Guarded(model, folder) as server, server.besieged():
        yield server
    assert not mark.exists()


def _branch(name: str, text: str) -> str:
    return f"{{% if messages[0].content == {name!r} %}}{text}{{% endif %}}"


ASKED: dict[str, Any] = {
    "/v1/chat/completions": {"max_tokens": 1},
    "/v1/tokenize": {},
    "/tokenize": {},
}


@pytest.mark.parametrize("route", ASKED)
def test_escapes_in_the_model_s_template(evil: Guarded, route: str) -> None:
    for name in ESCAPES:
        if name in STATEMENTS:
            continue
        messages = [{"role": "user", "content": name}]
        reply = evil.post(route, {**ASKED[route], "messages": messages})
        if name in QUIET and reply.status_code == 200:
            continue
        assert reply.status_code == 400, (name, reply.text)
        error = reply.json()["error"]
        assert "chat template" in error["message"], (name, error)
        assert "0x" not in error["message"]
    evil.still_stands()


def test_what_a_template_changed_is_gone(evil: Guarded) -> None:
    messages = [{"role": "user", "content": "change a list"}]
    evil.post("/tokenize", {"messages": messages})
    good = {"messages": [{"role": "user", "content": "a"}]}
    counts = {evil.post("/tokenize", good).json()["count"] for _ in range(3)}
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
