"""Thoughts over HTTP: split off, streamed, counted; and special tokens that are markers."""

import json
from dataclasses import replace
from typing import Any

import pytest
import tokenizers
from tests.unit.server.conftest import TOKENIZER, Service, Start
from tokenizers import decoders, models, pre_tokenizers

from tupelo.request import Grammar, SamplingParams
from tupelo.text.output import TextStream
from tupelo.text.tokenizer import Tokenizer, TokenizerFacts
from tupelo.text.tools.events import fold
from tupelo.thinking import ThinkingBudget
from tupelo_server.parsing import Formats, ParsedStream, Parsing, stops_early
from tupelo_server.tools import ToolUse

TEMPLATE = (
    "{% if tools %}[{{ tools | length }}]<tool_call>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
HI = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "ping"}}]
THOUGHTS = b"<think>\nHm. So.\n</think>\n\n"
CALL = b'<tool_call>{"name": "ping", "arguments": {}}</tool_call>'


@pytest.fixture(scope="module")
def thinker() -> Any:
    """A server whose model thinks, shared by the module."""
    from tests.unit.server.conftest import _running

    with _running({}, {"template": TEMPLATE}) as service:
        yield service


@pytest.fixture
def service(thinker: Service) -> Service:
    thinker.engine.reset()
    thinker.engine.script = lambda request: THOUGHTS + b"Yes."
    return thinker


def ask(service: Service, **body: Any) -> dict[str, Any]:
    reply = service.post("/v1/chat/completions", **{"messages": HI, **body})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def streamed(service: Service, **body: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The deltas of a stream, and its usage."""
    options = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}, **body}
    deltas, usage = [], {}
    with service.http.stream("POST", "/v1/chat/completions", json=options) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                deltas += [choice["delta"] for choice in chunk["choices"]]
                usage = chunk.get("usage") or usage
    return deltas, usage


def joined(deltas: list[dict[str, Any]], name: str) -> str:
    return "".join(delta.get(name) or "" for delta in deltas)


def prompt_of(service: Service) -> str:
    prompts = service.state.frontend.prompts  # type: ignore[union-attr]
    return prompts.tokenizer.decode(service.engine.requests[-1].input_ids)


@pytest.mark.parametrize("extra", [{}, {"n": 3}, {"logprobs": True}, {"stop": ["Yes"]}], ids=str)
def test_thoughts_stand_beside_the_text(service: Service, extra: dict[str, Any]) -> None:
    reply = ask(service, **extra)
    deltas, usage = streamed(service, **extra)
    num = extra.get("n", 1)
    text = "" if "stop" in extra else "Yes."
    for choice in reply["choices"]:
        message = choice["message"]
        assert (message["reasoning_content"], message["content"]) == ("Hm. So.", text)
        assert choice["finish_reason"] == "stop"
    assert len(joined(deltas, "reasoning_content")) == num * len("Hm. So.")
    assert len(joined(deltas, "content")) == num * len(text)
    assert usage == reply["usage"]
    thinking = num * (len(THOUGHTS.rstrip()) - len("<think>") + 1)
    assert usage["reasoning_tokens"] == thinking
    assert usage["completion_tokens_details"] == {"reasoning_tokens": thinking}


def test_without_thoughts_there_are_none(service: Service) -> None:
    service.engine.script = lambda request: b"Yes."
    reply = ask(service)
    message = reply["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == (None, "Yes.")
    assert reply["usage"]["reasoning_tokens"] == 0


def test_thoughts_may_stay_in_the_text(service: Service) -> None:
    message = ask(service, separate_reasoning=False)["choices"][0]["message"]
    assert message["content"] == (THOUGHTS + b"Yes.").decode()
    assert "reasoning_content" not in message
    deltas, _ = streamed(service, separate_reasoning=False)
    assert joined(deltas, "content") == message["content"]


def test_thoughts_may_come_whole(service: Service) -> None:
    deltas, _ = streamed(service, stream_reasoning=False)
    thoughts = [d["reasoning_content"] for d in deltas if "reasoning_content" in d]
    assert thoughts == ["Hm. So."]
    places = [i for i, d in enumerate(deltas) if "reasoning_content" in d or d.get("content")]
    assert "reasoning_content" in deltas[places[0]]
    service.engine.script = lambda request: b"<think>Hm."
    deltas, _ = streamed(service, stream_reasoning=False)
    assert [d["reasoning_content"] for d in deltas if "reasoning_content" in d] == ["Hm."]


def test_a_prompt_that_opens_the_thoughts(service: Service) -> None:
    service.engine.script = lambda request: THOUGHTS.removeprefix(b"<think>") + b"Yes."
    body = {"chat_template_kwargs": {"enable_thinking": True}}
    message = ask(service, **body)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm. So.", "Yes.")
    assert prompt_of(service).endswith("<assistant><think>\n")


def test_thoughts_before_calls(service: Service) -> None:
    service.engine.script = lambda request: THOUGHTS + CALL
    choice = ask(service, tools=TOOLS)["choices"][0]
    assert choice["message"]["reasoning_content"] == "Hm. So."
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "ping"
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("thinking", "thoughts", "begins"),
    [
        (True, b"Hm. So.</think>", "any_text"),  # its marker is many tokens here
        (None, b"<think>Hm. So.</think>", "optional"),
        (None, b"", "optional"),
        (False, b"", "sequence"),
    ],
)
def test_a_grammar_leaves_room_for_thoughts(
    service: Service, thinking: bool | None, thoughts: bytes, begins: str
) -> None:
    kwargs = {} if thinking is None else {"enable_thinking": thinking}
    for body, output in (
        ({"tools": TOOLS, "tool_choice": "required"}, CALL),
        ({"response_format": {"type": "json_object"}}, b"{}"),
        ({"regex": "a+"}, b"aa"),
    ):
        service.engine.script = lambda request, output=output: thoughts + output
        reply = ask(service, **body, chat_template_kwargs=kwargs)
        message = reply["choices"][0]["message"]
        assert message["reasoning_content"] == ("Hm. So." if thoughts else None)
        assert message["content"] == (None if output == CALL else output.decode())
        grammar = service.engine.requests[-1].grammar
        assert grammar is not None
        assert grammar.after == ()
        if thinking is False and output != CALL:
            assert grammar.kind in body or grammar.kind == "json_object"
            continue
        parts = json.loads(grammar.text)["format"]["elements"]
        first = parts[0]["elements"][0] if begins == "any_text" else parts[0]
        assert first["type"] == begins


def test_a_grammar_waits_for_the_token_that_ends_the_thoughts() -> None:
    formats = Formats(special_tokenizer(), [], "mistral", "mistral")
    own = Grammar(kind="regex", text="a+")
    form = formats.reply_form(ToolUse(), own, "Hi [THINK]")
    grammar = form.grammar()
    assert grammar is not None
    ids = tuple(special_tokenizer().encode("[/THINK]", add_special_tokens=False))
    assert (grammar.kind, grammar.after, len(ids)) == ("regex", ids, 1)
    plain = formats.reply_form(ToolUse(), own, "Hi [THINK]x[/THINK]").grammar()
    assert plain == own


def test_a_budget_is_in_tokens_of_the_models_markers() -> None:
    tokenizer = special_tokenizer()
    formats = Formats(tokenizer, [], "mistral", "mistral")
    (opens,), (closes,) = (
        tokenizer.encode(text, add_special_tokens=False) for text in ("[THINK]", "[/THINK]")
    )
    free = ThinkingBudget(max_tokens=7, close_id=closes, open_ids=(opens,))
    assert formats.budget(7, "Hi") == free
    assert formats.budget(7, "Hi [THINK]x[/THINK]") == free
    assert formats.budget(0, "Hi [THINK]\n") == replace(free, max_tokens=0, inside=True)
    assert formats.budget(None, "Hi [THINK]") is None


@pytest.mark.parametrize("parser", ["qwen3", "gpt-oss", "granite", "none"])
def test_a_budget_that_cannot_be_kept_is_refused(parser: str, start: Start) -> None:
    """Markers of many tokens, of which a model has more than one spelling; or none."""
    service = start(template=TEMPLATE, reasoning_parser=parser)
    reply = service.post("/v1/chat/completions", messages=HI, max_thinking_tokens=9)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "max_thinking_tokens"
    assert not service.engine.requests


@pytest.mark.parametrize("thoughts", [b"Hm. So.</think>", b""])
def test_ids_may_end_within_thoughts(service: Service, thoughts: bytes) -> None:
    service.engine.script = lambda request: thoughts + b"Yes."
    prompt = TOKENIZER.encode("Hi <think>\n" if thoughts else "Hi", add_special_tokens=False)
    message = ask(service, input_ids=prompt)["choices"][0]["message"]
    assert message["content"] == "Yes."
    assert message["reasoning_content"] == ("Hm. So." if thoughts else None)


@pytest.mark.parametrize(
    ("effort", "end"),
    [("high", "<think>\n"), ("low", "<think>\n"), ("none", "<think>\n\n</think>\n\n")],
)
def test_effort_switches_thinking(service: Service, effort: str, end: str) -> None:
    ask(service, reasoning_effort=effort)
    assert prompt_of(service).endswith(f"<assistant>{end}")


def test_the_clients_own_variables_win(service: Service) -> None:
    ask(service, reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert prompt_of(service).endswith("<think>\n")


def test_a_template_may_take_the_effort_itself(start: Start) -> None:
    service = start(template="{{ reasoning_effort }}{{ messages[0].content }}")
    ask(service, reasoning_effort="medium")
    assert prompt_of(service) == "mediumHi"


@pytest.mark.parametrize(
    ("template", "effort"), [(TEMPLATE, "enormous"), ("{{ messages[0].content }}", "high")]
)
def test_an_effort_without_effect_is_refused(start: Start, template: str, effort: str) -> None:
    reply = start(template=template).post(
        "/v1/chat/completions", messages=HI, reasoning_effort=effort
    )
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "reasoning_effort"


def test_no_effort_is_what_models_without_thoughts_make(start: Start) -> None:
    ask(start(template="{{ messages[0].content }}"), reasoning_effort="none")
    always = start(template="{{ messages[0].content }}", reasoning_parser="qwen3")
    reply = always.post("/v1/chat/completions", messages=HI, reasoning_effort="none")
    assert reply.status_code == 400


def test_channels_are_never_shown(start: Start) -> None:
    """Text of gpt-oss makes no sense unparsed: with thoughts in the text, they are plain."""
    output = (
        b"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    )
    service = start(template=TEMPLATE, reasoning_parser="gpt-oss", tool_call_parser="gpt-oss")
    service.engine.script = lambda request: output
    message = ask(service)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
    message = ask(service, separate_reasoning=False)["choices"][0]["message"]
    assert message["content"] == "Hm.Yes."


def test_a_parser_can_be_switched_off(start: Start) -> None:
    service = start(template=TEMPLATE, reasoning_parser="none")
    info = service.http.get("/model_info").json()
    assert (info["tool_call_parser"], info["reasoning_parser"]) == ("hermes", None)
    service.engine.script = lambda request: THOUGHTS + b"Yes."
    reply = ask(service)
    assert reply["choices"][0]["message"]["content"] == (THOUGHTS + b"Yes.").decode()
    assert "reasoning_tokens" not in reply["usage"]


def test_separate_reasoning_route(service: Service) -> None:
    text = (THOUGHTS + b"Yes.").decode()
    reply = service.post("/separate_reasoning", text=text, reasoning_parser="qwen3").json()
    assert reply == {"reasoning_text": "Hm. So.", "text": "Yes."}
    assert service.post("/separate_reasoning", text=text).json() == reply
    blocks = service.post("/separate_reasoning", text=text, return_blocks=True).json()["blocks"]
    assert blocks == [
        {"type": "reasoning", "text": "Hm. So."},
        {"type": "text", "text": "Yes."},
    ]
    channels = "<|channel|>commentary to=functions.f<|message|>{}<|call|>"
    found = service.post("/separate_reasoning", text=channels, reasoning_parser="gpt-oss").json()
    assert found == {"reasoning_text": "", "text": "{}"}
    wrong = service.post("/separate_reasoning", text=text, reasoning_parser="nobody")
    assert wrong.status_code == 400
    assert "reasoning_parser" in wrong.text


SPECIAL = ["<s>", "</s>", "[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "<pad>"]


def special_tokenizer() -> Tokenizer:
    """Bytes, and markers that are special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(backend, TokenizerFacts(eos_token_ids=(len(alphabet) + 1,)))


def _parsing(formats: Formats, use: ToolUse) -> Parsing:
    return formats.parsing(formats.reply_form(use, None, "x"), "x", separate_reasoning=True)


@pytest.mark.parametrize("size", [1, 1000])
def test_markers_that_are_special_tokens(size: int) -> None:
    """The parser sees them, the text never shows them; other special tokens stay hidden."""
    tokenizer = special_tokenizer()
    formats = Formats(tokenizer, ["[TOOL_CALLS][THINK]"])
    assert str(formats) == "tool calls mistral, reasoning mistral"
    tools = ({"type": "function", "function": {"name": "ping"}},)
    parsing = _parsing(formats, ToolUse(tools=tools))
    output = "[THINK]Hm.<pad>[/THINK]Wait.<pad>[TOOL_CALLS]ping[ARGS]{}"
    ids = tokenizer.encode(output, add_special_tokens=False)
    stream = ParsedStream(TextStream(tokenizer, shown_ids=parsing.shown_ids), parsing)
    events = []
    for at in range(0, len(ids), size):
        stream.push(ids[at : at + size])
        events += stream.events(last=False)
    stream.finish()
    parsed = fold([*events, *stream.events(last=True)])
    assert (parsed.reasoning, parsed.text) == ("Hm.", "Wait.")
    assert [(call.name, call.arguments) for call in parsed.calls] == [("ping", "{}")]
    assert stream.reasoning_tokens == len("Hm.") + 3
    shown = {tokenizer.token_text(i) for i in parsing.shown_ids}
    assert shown == {"[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"}
    plain = _parsing(formats, ToolUse())
    assert {tokenizer.token_text(i) for i in plain.shown_ids} == {"[THINK]", "[/THINK]"}


def test_tokens_are_read_one_by_one_where_calls_are_counted() -> None:
    formats = Formats(special_tokenizer(), ["<tool_call>"])
    tools = ({"type": "function", "function": {"name": "ping"}},)
    params = SamplingParams()
    counted = _parsing(formats, ToolUse(tools=tools, max_calls=1))
    free = _parsing(formats, ToolUse(tools=tools))
    assert stops_early(params, counted)
    assert not stops_early(params, free)
    assert not stops_early(params, None)
