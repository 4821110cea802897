"""Fields beyond the plain ones: each that is accepted has its effect."""

import json
import logging
from typing import Any

import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.request import Grammar
from tupelo_server.generation import derived_seed

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "string"}}}

# What a body says, and the grammar that the engine gets.
GRAMMARS: list[tuple[dict[str, Any], Grammar | None]] = [
    ({}, None),
    ({"response_format": {"type": "text"}, "regex": "", "ebnf": None}, None),
    (
        {"response_format": {"type": "json_object"}},
        Grammar(kind="json_object", param="response_format"),
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "n", "description": "d", "schema": SCHEMA},
            }
        },
        Grammar(kind="json_schema", text=json.dumps(SCHEMA, separators=(",", ":")),
                param="response_format"),
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": True, "strict": False},
            }
        },
        Grammar(kind="json_schema", text="true", strict=False, param="response_format"),
    ),
    (
        {"response_format": {"type": "structural_tag", "structures": [], "triggers": ["<"]}},
        Grammar(
            kind="structural_tag",
            text='{"type":"structural_tag","structures":[],"triggers":["<"]}',
            param="response_format",
        ),
    ),
    ({"json_schema": "{}"}, Grammar(kind="json_schema", text="{}")),
    ({"json_schema": {"a": 1}}, Grammar(kind="json_schema", text='{"a": 1}')),
    ({"regex": "a+"}, Grammar(kind="regex", text="a+")),
    ({"ebnf": "root ::= x"}, Grammar(kind="ebnf", text="root ::= x")),
    ({"structural_tag": {"type": "x"}}, Grammar(kind="structural_tag", text='{"type": "x"}')),
    ({"choice": ["yes", "no"]}, Grammar(kind="choice", text='["yes", "no"]')),
]  # fmt: skip


@pytest.mark.parametrize(("said", "grammar"), GRAMMARS, ids=lambda v: str(v)[:40])
def test_grammars_reach_the_engine(
    service: Service, said: dict[str, Any], grammar: Grammar | None
) -> None:
    assert service.post("/v1/chat/completions", **CHAT, **said).status_code == 200
    assert service.post("/v1/completions", prompt="a", **said).status_code == 200
    if "response_format" not in said:
        assert service.post("/generate", text="a", sampling_params=said).status_code == 200
    assert {request.grammar for request in service.engine.requests} == {grammar}


def test_stop_patterns_end_the_text(service: Service) -> None:
    body: dict[str, Any] = {"stop_regex": ["l.,", "never"]}
    for path, start in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "a"})):
        choice = service.post(path, **start, **body, max_tokens=99).json()["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        assert (text, choice["finish_reason"], choice["matched_stop"]) == ("Hello,", "stop", "l.,")
    item = service.post("/generate", text="a", sampling_params=body).json()
    assert item["text"] == "Hello,"
    assert item["meta_info"]["finish_reason"] == {"type": "stop", "matched": "l.,"}
    assert item["meta_info"]["completion_tokens"] == len("Hello,")


def test_token_ids_of_completions(service: Service) -> None:
    body: dict[str, Any] = {"prompt": ["ab", "c"], "return_token_ids": True}
    whole = service.post("/v1/completions", **body).json()["choices"]
    tokenizer = service.engine.tokenizer
    assert [choice["prompt_token_ids"] for choice in whole] == [
        tokenizer.encode("ab"),
        tokenizer.encode("c"),
    ]
    assert tokenizer.decode(whole[0]["token_ids"]) == "Hello, world."
    lines = service.post("/v1/completions", **body, stream=True).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    for choice in whole:
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert [i for c in own for i in c["token_ids"]] == choice["token_ids"]
        assert [c["prompt_token_ids"] for c in own if "prompt_token_ids" in c] == [
            choice["prompt_token_ids"]
        ]


def test_ids_and_meta_of_chats(service: Service) -> None:
    body = {**CHAT, "n": 2, "seed": 3, "logprobs": True, "top_logprobs": 1}
    wanted = {"return_token_ids": True, "return_meta_info": True}
    whole = service.post("/v1/chat/completions", **body, **wanted).json()
    prompt = list(service.engine.requests[-1].input_ids)
    for choice in whole["choices"]:
        assert choice["prompt_token_ids"] == prompt
        meta = choice["meta_info"]
        assert meta["completion_tokens"] == len(choice["response_token_ids"]) == 14
        assert len(meta["output_token_logprobs"]) == len(meta["output_top_logprobs"]) == 14
    assert whole["metadata"] == {"weight_version": "default"}
    text = service.post("/v1/chat/completions", **body, **wanted, stream=True).text
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    for index in (0, 1):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert own[0]["prompt_token_ids"] == prompt
        ids = [i for choice in own for i in choice.get("response_token_ids", [])]
        assert ids == whole["choices"][index]["response_token_ids"]
        metas = [choice["meta_info"] for choice in own if "meta_info" in choice]
        assert len(metas) == 1
        skip = {"id", "e2e_latency"}
        want = whole["choices"][index]["meta_info"]
        assert {k: v for k, v in metas[0].items() if k not in skip} == {
            k: v for k, v in want.items() if k not in skip
        }


def test_prompt_ids_alone(service: Service) -> None:
    choice = service.post("/v1/chat/completions", **CHAT, return_prompt_token_ids=True).json()
    assert "response_token_ids" not in choice["choices"][0]
    assert choice["choices"][0]["prompt_token_ids"]
    item = service.post("/generate", text="ab", return_prompt_token_ids=True).json()
    assert item["prompt_token_ids"] == service.engine.tokenizer.encode("ab")


def test_where_cached_tokens_were(service: Service) -> None:
    want = {"cached_tokens_details": {"device": 2, "host": 0}}
    for path, body in (("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "a"})):
        options: dict[str, Any] = {**body, "return_cached_tokens_details": True}
        assert service.post(path, **options).json()["sglext"] == want
        lines = service.post(path, **options, stream=True).text.split("\n\n")
        last = json.loads([line for line in lines if line.startswith("data: {")][-1][6:])
        assert (last["choices"], last["sglext"]) == ([], want)


def test_the_best_of_several(service: Service) -> None:
    words = {derived_seed(5, i): word for i, word in enumerate((b"zz", b"aa", b"mm"))}
    service.engine.script = lambda request: words[request.params.seed or 0]
    reply = service.post("/v1/completions", prompt="p", seed=5, n=2, best_of=3).json()
    # The scripted engine gives a token the log-probability -id/100; the mean includes the end's.
    assert [c["text"] for c in reply["choices"]] == ["aa", "mm"]
    assert [c["index"] for c in reply["choices"]] == [0, 1]
    assert all(c["logprobs"] is None for c in reply["choices"])
    assert reply["usage"]["completion_tokens"] == 9, "all that was generated"
    several = service.post("/v1/completions", prompt=["p", "q"], seed=5, best_of=3, logprobs=0)
    choices = several.json()["choices"]
    assert [c["text"] for c in choices] == ["aa", "aa"]
    assert choices[1]["logprobs"]["tokens"] == ["a", "a"]


def test_each_prompt_has_its_own_salt_and_id(service: Service) -> None:
    body = {"prompt": ["a", "b"], "cache_salt": ["x", "y"], "rid": ["one", "two"]}
    reply = service.post("/v1/completions", **body).json()
    assert [request.salt for request in service.engine.requests] == ["x", "y"]
    assert reply["id"] == "one"


def test_ids_instead_of_a_conversation(service: Service) -> None:
    service.post("/v1/chat/completions", **CHAT, input_ids=[5, 6, 7])
    assert service.engine.requests[-1].input_ids == (5, 6, 7)


def test_where_the_prompt_ends(service: Service) -> None:
    def prompt(**options: Any) -> str:
        reply = service.post("/v1/chat/completions", **CHAT, **options)
        assert reply.status_code == 200, reply.text
        ids = service.engine.requests[-1].input_ids
        return service.engine.tokenizer.decode(ids, skip_special_tokens=False)

    assert prompt() == prompt(add_generation_prompt=True) == "<s><user>Hi<assistant>"
    assert prompt(add_generation_prompt=False) == "<s><user>Hi"
    tokens = service.post("/tokenize", **CHAT, add_generation_prompt=False).json()["tokens"]
    assert tokens == list(service.engine.requests[-1].input_ids)
    both = {"add_generation_prompt": True, "continue_final_message": True}
    last = [*CHAT["messages"], {"role": "assistant", "content": "So"}]
    reply = service.post("/v1/chat/completions", messages=last, **both)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "add_generation_prompt"


@pytest.mark.parametrize("inside", [False, True])
def test_templates_of_clients_are_trusted_only_if_told(start: Start, inside: bool) -> None:
    service = start(trust_request_chat_template=True)
    template = "{{ messages[0].content }}-{{ word }}"
    body: dict[str, Any] = {"chat_template_kwargs": {"word": "w"}}
    if inside:
        body["chat_template_kwargs"]["chat_template"] = template
    else:
        body["chat_template"] = template
    assert service.post("/v1/chat/completions", **CHAT, **body).status_code == 200
    assert service.engine.tokenizer.decode(service.engine.requests[-1].input_ids) == "Hi-w"
    evil = {"chat_template": "{{ ''.__class__.__mro__ }}"}
    reply = service.post("/v1/chat/completions", **CHAT, **evil)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] == "template_error"


def test_requests_that_are_not_to_be_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = start(log_requests=True)
    caplog.set_level(logging.INFO)
    service.post("/generate", text="a", rid="quiet", no_logs=True)
    service.post("/generate", text="a", rid="loud")
    text = " ".join(str(vars(record)) for record in caplog.records)
    assert "loud" in text
    assert "quiet" not in text
