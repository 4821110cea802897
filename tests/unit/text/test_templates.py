"""Chat templates: reference renderings, message forms, arguments."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tupelo.errors import TemplateError
from tupelo.text.templates import TemplateRenderer

USER = [{"role": "user", "content": "Hi"}]
CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PARTS_ONLY = (
    "{% for m in messages %}{% for part in m['content'] %}"
    "[{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}]"
    "{% endfor %}{% endfor %}"
)
BOTH_FORMS = (
    "{% for m in messages %}{% if m.content is string %}S:{{ m.content }}{% else %}"
    "{% for part in m.content %}P:{{ part.text }};{% endfor %}{% endif %}{% endfor %}"
)


def test_reference_renderings(formats_dir: Path) -> None:
    """Every rendering byte for byte, every refusal with the template's own message."""
    reference = json.loads((formats_dir / "rendered.json").read_text())
    now = datetime.fromisoformat(reference["frozen_now"])
    renderer = TemplateRenderer(time_limit_s=10.0, clock=lambda: now)
    rendered = refused = 0
    for case in reference["cases"]:
        name = f"{case['template']}, {case['case']}"
        tools = case["tools"]
        request: dict[str, Any] = {
            "messages": case["messages"],
            "tools": reference["tool_sets"][tools] if isinstance(tools, str) else tools,
            "add_generation_prompt": case["add_generation_prompt"],
            "template_kwargs": case["kwargs"],
            **case["special_tokens"],
        }
        template = (formats_dir / "chat_templates" / case["template"]).read_text()
        if "rendered" in case:
            assert renderer.render(template, **request) == case["rendered"], name
            rendered += 1
        else:
            with pytest.raises(TemplateError) as caught:
                renderer.render(template, **request)
            own = case["error_type"] == "TemplateError"
            assert str(caught.value) == case["error"] or not own, name
            assert str(caught.value).endswith(case["error"]), name
            refused += 1
    renderer.close()
    assert (rendered, refused) == (437, 26)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "<|user|>Hi<|end|>\n<|assistant|>"),
        ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
        ("{{ {'b': 'é<>', 'a': [1, 1.5, none]} | tojson }}", '{"b": "é<>", "a": [1, 1.5, null]}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("{% generation %}in{% endgeneration %} out", "in out"),
        ("{% set n = namespace(x=1) %}{% set n.x = n.x + 1 %}{{ n.x }}", "2"),
        ("{{ strftime_now('%d %b %Y') }}", "15 Jun 2025"),
        ("{{ '{}-{x}'.format(1, x=2) }}{{ '%s' | format('y') }}", "1-2y"),
        (
            "{% macro m(a) %}<{{ a }}{{ caller() }}>{% endmacro %}{% call m(1) %}2{% endcall %}",
            "<12>",
        ),
        ("{{ tools is none and documents is none }}{{ unknown is defined }}", "TrueFalse"),
        ("{{ dict(a=1).items() | list }}{{ 'a b'.split() | join('-') }}", "[('a', 1)]a-b"),
        ("{{ messages[0].get('name', 'none') }}{{ loop is defined }}", "noneFalse"),
    ],
)
def test_language(template: str, expected: str) -> None:
    renderer = TemplateRenderer(time_limit_s=10.0, clock=lambda: datetime(2025, 6, 15))
    assert renderer.render(template, messages=USER) == expected
    renderer.close()


def test_variables_reach_the_template(renderer: TemplateRenderer) -> None:
    text = renderer.render(
        "{{ bos_token }}{{ enable_thinking }}{{ tools[0].name }}{{ add_generation_prompt }}",
        messages=USER,
        tools=[{"name": "f"}],
        add_generation_prompt=False,
        template_kwargs={"enable_thinking": False},
        bos_token="<s>",
    )
    assert text == "<s>FalsefFalse"


@pytest.mark.parametrize(
    "name",
    ["messages", "tools", "tokenize", "chat_template", "add_generation_prompt", "raise_exception"],
)
def test_reserved_names_cannot_be_set(renderer: TemplateRenderer, name: str) -> None:
    with pytest.raises(TemplateError, match=f"may not set '{name}'"):
        renderer.render(CHATML, messages=USER, template_kwargs={name: []})


def test_the_templates_own_error_keeps_its_message(renderer: TemplateRenderer) -> None:
    with pytest.raises(TemplateError) as caught:
        renderer.render("{{ raise_exception('Roles must alternate!') }}", messages=USER)
    assert str(caught.value) == "Roles must alternate!"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% if %}", r"syntax error: .*\(line 1\)"),
        ("\n\n{{ 1 + }}", r"syntax error: .*\(line 3\)"),
        ("{{ a.b.c }}", "'a' is undefined"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% include 'x' %}", "no loader"),
        ("{{ messages.keys }}{{ messages.x() }}", "has no attribute 'x'"),
    ],
)
def test_failures_say_what_failed(renderer: TemplateRenderer, template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message) as caught:
        renderer.render(template, messages=USER)
    assert "/" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "content", "expected"),
    [
        (CHATML, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        (CHATML, "plain", "plain"),
        (PARTS_ONLY, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "[a][b]"),
        (PARTS_ONLY, "plain", "[plain]"),
        (BOTH_FORMS, [{"type": "text", "text": "a"}], "P:a;"),
        (BOTH_FORMS, "plain", "S:plain"),
        ("{{ messages[0].content | tojson }}", [{"type": "text", "text": "a"}], '"a"'),
        ("{{ messages[0].content | upper }}", [{"type": "text", "text": "a"}], "A"),
    ],
)
def test_contents_come_in_the_form_the_template_takes(
    renderer: TemplateRenderer, template: str, content: Any, expected: str
) -> None:
    messages = [{"role": "user", "content": content}]
    assert expected in renderer.render(template, messages=messages)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("{{ call.function.arguments | tojson }}", '{"a": "é"}'),
        ("{% for k, v in call.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}", "a=é"),
        ("{{ call.function.arguments }}", '{"a": "é"}'),
        ("{{ '<' + call.function.arguments + '>' }}", '<{"a": "é"}>'),
    ],
)
def test_arguments_come_in_the_form_the_template_takes(
    renderer: TemplateRenderer, written: str, expected: str
) -> None:
    template = (
        "{% for m in messages %}{% for call in m.tool_calls %}" + written + "{% endfor %}"
        "{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": "é"}}}
    messages = [*USER, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert renderer.render(template, messages=messages) == expected


def test_a_part_that_is_no_text_is_named(renderer: TemplateRenderer) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    with pytest.raises(TemplateError, match="takes text only, got a part of type 'image_url'"):
        renderer.render(CHATML, messages=messages)


@pytest.mark.parametrize(
    ("template", "content", "expected"),
    [
        (CHATML, "The answer is ", "<|user|>Hi<|end|>\n<|assistant|>The answer is "),
        (CHATML.replace("m.content", "m.content | trim"), "is ", "<|assistant|>is "),
        (PARTS_ONLY, [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "[a][b"),
    ],
)
def test_continue_final_message(
    renderer: TemplateRenderer, template: str, content: Any, expected: str
) -> None:
    messages = [*USER, {"role": "assistant", "content": content}]
    text = renderer.render(
        template, messages=messages, add_generation_prompt=False, continue_final_message=True
    )
    assert text.endswith(expected)


@pytest.mark.parametrize(
    ("template", "messages", "prompt", "message"),
    [
        (CHATML, USER, True, "exclude each other"),
        (CHATML, [], False, "no final message"),
        (
            CHATML,
            [{"role": "assistant", "content": None}],
            False,
            "no text that could be continued",
        ),
        ("fixed", USER, False, "does not show the final message"),
    ],
)
def test_what_cannot_be_continued(
    renderer: TemplateRenderer,
    template: str,
    messages: list[dict[str, Any]],
    prompt: bool,
    message: str,
) -> None:
    with pytest.raises(TemplateError, match=message):
        renderer.render(
            template,
            messages=messages,
            add_generation_prompt=prompt,
            continue_final_message=True,
        )


def test_odd_data_survives_the_trip(renderer: TemplateRenderer) -> None:
    content = "\x00\x7f\u2028\u00a0\U0001f642\ud800"
    messages = [{"role": "user", "content": content, "n": 2**80, "f": 1e-7}]
    text = renderer.render("{{ messages[0].content }}{{ messages[0].n }}", messages=messages)
    assert text == content + str(2**80)


def test_data_that_is_no_data_is_refused(renderer: TemplateRenderer) -> None:
    with pytest.raises(TemplateError, match="no plain data"):
        renderer.render(CHATML, messages=[{"role": "user", "content": object()}])
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TemplateError, match="no plain data"):
        renderer.render(CHATML, messages=[{"role": "user", "content": "x", "deep": deep}])
