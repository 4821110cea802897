"""The OpenAI routes through the openai client, over a scripted engine."""

from typing import Any

import openai
import pytest
from tests.unit.server.conftest import Service, Start

from tupelo.engine.messages import Finish
from tupelo.request import FinishReason
from tupelo_server.generation import derived_seed

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}


def chat_stream(service: Service, **extra: Any) -> dict[int, dict[str, Any]]:
    """A streamed chat put together: for each index its text, tokens, finish and role."""
    found: dict[int, dict[str, Any]] = {}
    stream = service.openai.chat.completions.create(**{**CHAT, **extra}, stream=True)
    for chunk in stream:
        for choice in chunk.choices:
            new = {"text": "", "tokens": [], "finish": [], "roles": []}
            one = found.setdefault(choice.index, new)
            one["text"] += choice.delta.content or ""
            one["roles"] += [choice.delta.role] if choice.delta.role else []
            one["finish"] += [choice.finish_reason] if choice.finish_reason else []
            if choice.logprobs and choice.logprobs.content:
                one["tokens"] += choice.logprobs.content
    return found


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"n": 3, "seed": 5},
        {"stop": ["wor"]},
        {"stop": "world.", "logprobs": True, "top_logprobs": 2},
        {"logprobs": True, "n": 2, "seed": 1},
        {"max_tokens": 4, "logprobs": True},
        {"extra_body": {"stop_token_ids": [11]}, "logprobs": True},
    ],
    ids=str,
)
def test_stream_equals_unstreamed(service: Service, extra: dict[str, Any]) -> None:
    service.engine.script = lambda request: f"Hello, {request.params.seed} world.".encode()
    reply = service.openai.chat.completions.create(**{**CHAT, **extra})
    streamed = chat_stream(service, **extra)
    assert sorted(streamed) == [choice.index for choice in reply.choices]
    for choice in reply.choices:
        one = streamed[choice.index]
        assert one["text"] == choice.message.content
        assert one["finish"] == [choice.finish_reason]
        assert one["roles"] == ["assistant"]
        assert one["tokens"] == (choice.logprobs.content if choice.logprobs else [])
        if choice.logprobs:
            assert "".join(t.token for t in choice.logprobs.content or []) == one["text"]


def test_role_comes_first_and_usage_last(service: Service) -> None:
    stream = list(
        service.openai.chat.completions.create(
            **CHAT, n=2, stream=True, stream_options={"include_usage": True}
        )
    )
    first: dict[int, str] = {}
    for chunk in stream[:-1]:
        for choice in chunk.choices:
            first.setdefault(choice.index, choice.delta.role)
    assert first == {0: "assistant", 1: "assistant"}
    assert stream[-1].choices == []
    usage = stream[-1].usage
    assert usage is not None
    prompt = service.engine.requests[-1].input_ids
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 2 * 14)
    assert all(chunk.usage is None for chunk in stream[:-1])


def test_continuous_usage_grows(service: Service) -> None:
    stream = service.openai.chat.completions.create(
        **CHAT, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
    )
    counts = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
    assert counts == sorted(counts)
    assert counts[-1] == 14


def test_usage_counts_to_the_cut_and_the_engine_is_told(service: Service) -> None:
    reply = service.openai.chat.completions.create(**CHAT, stop=["lo, w"], max_tokens=400)
    assert reply.choices[0].message.content == "Hel"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.choices[0].matched_stop == "lo, w"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len("Hello, w")
    assert service.engine.aborted == [service.engine.requests[-1].rid]


def test_no_part_of_a_stop_string_leaks(service: Service) -> None:
    service.engine.script = lambda request: "héllo END".encode()
    chunks = [
        chunk.choices[0].delta.content
        for chunk in service.openai.chat.completions.create(**CHAT, stop=["END!"], stream=True)
    ]
    assert "".join(c for c in chunks if c) == "héllo END"
    assert all("\ufffd" not in (c or "") for c in chunks)
    assert not any((c or "").endswith(("E", "EN")) for c in chunks)
    reply = service.openai.chat.completions.create(**CHAT, stop=["END"], logprobs=True)
    assert reply.choices[0].message.content == "héllo "
    content = reply.choices[0].logprobs
    assert content is not None
    assert "".join(t.token for t in content.content or []) == "héllo "


def test_sampling_reaches_the_engine(service: Service) -> None:
    service.openai.chat.completions.create(
        **CHAT,
        temperature=0.25,
        top_p=0.5,
        frequency_penalty=1.5,
        presence_penalty=-1,
        logit_bias={"7": -100},
        seed=3,
        stop=["a", "b"],
        max_completion_tokens=9,
        extra_body={
            "min_p": 0.1,
            "repetition_penalty": 1.25,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [5],
            "cache_salt": "tenant",
        },
    )
    request = service.engine.requests[-1]
    params = request.params
    assert (params.temperature, params.top_p, params.min_p) == (0.25, 0.5, 0.1)
    assert (params.frequency_penalty, params.presence_penalty) == (1.5, -1.0)
    assert (params.repetition_penalty, params.seed, params.max_new_tokens) == (1.25, 3, 9)
    assert (params.min_new_tokens, params.ignore_eos, params.stop_token_ids) == (2, True, (5,))
    assert (params.stop, params.logit_bias) == (("a", "b"), ((7, -100.0),))
    assert request.salt == "tenant"
    assert params.top_k == 20, "not given: the model's own default"


def test_defaults_are_the_models(service: Service) -> None:
    service.openai.chat.completions.create(**CHAT)
    assert service.engine.requests[-1].params.temperature == 0.6
    service.post("/generate", text="a")
    assert service.engine.requests[-1].params.temperature == 1.0, "the native route has its own"


def test_defaults_can_be_openais(start: Start) -> None:
    service = start(sampling_defaults="openai")
    for path, body in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", CHAT)):
        service.post(path, **body)
        params = service.engine.requests[-1].params
        assert (params.temperature, params.top_k) == (1.0, -1)


def test_chat_fills_the_context_and_completions_take_16(service: Service) -> None:
    service.openai.chat.completions.create(**CHAT)
    request = service.engine.requests[-1]
    assert request.params.max_new_tokens == 512 - len(request.input_ids)
    service.openai.completions.create(model="tiny", prompt="a")
    assert service.engine.requests[-1].params.max_new_tokens == 16


def test_seeds_of_samples_differ_and_repeat(service: Service) -> None:
    for _ in range(2):
        service.openai.chat.completions.create(**CHAT, n=3, seed=7)
    seeds = [request.params.seed for request in service.engine.requests]
    assert seeds[:3] == seeds[3:] == [7, derived_seed(7, 1), derived_seed(7, 2)]
    assert len(set(seeds)) == 3
    assert len({request.rid for request in service.engine.requests}) == 6


def test_template_makes_the_prompt(service: Service) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Well"},
    ]
    reply = service.post(
        "/v1/chat/completions", messages=messages, continue_final_message=True, max_tokens=1
    )
    assert reply.status_code == 200, reply.text
    ids = service.engine.requests[-1].input_ids
    text = service.engine.tokenizer.decode(ids, skip_special_tokens=False)
    assert text == "<s><system>Be brief.<user>Hi<assistant>Well"


def test_echo_with_logprobs_covers_the_prompt(service: Service) -> None:
    service.engine.script = lambda request: b"cd"
    options: dict[str, Any] = {"model": "tiny", "prompt": "ab", "echo": True, "logprobs": 2}
    reply = service.openai.completions.create(**options)
    choice = reply.choices[0]
    assert choice.text == "abcd"
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a", "b", "c", "d"]
    assert logprobs.text_offset == [0, 1, 2, 3]
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs is not None
    assert logprobs.top_logprobs[0] is None
    assert min(logprobs.top_logprobs[1].values()) == -9999.0, "JSON has no infinity"
    streamed = list(service.openai.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == "abcd"
    tokens = [t for c in streamed for t in (c.choices[0].logprobs.tokens or [])]
    offsets = [o for c in streamed for o in (c.choices[0].logprobs.text_offset or [])]
    assert (tokens, offsets) == (logprobs.tokens, logprobs.text_offset)


def test_prompt_only_scoring(service: Service) -> None:
    reply = service.openai.completions.create(
        model="tiny", prompt="abc", echo=True, logprobs=1, max_tokens=0
    )
    assert reply.choices[0].text == "abc"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("prompt", "count"),
    [("ab", 1), (["ab", "cd"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_prompts_of_every_kind(service: Service, prompt: Any, count: int) -> None:
    reply = service.openai.completions.create(model="tiny", prompt=prompt, n=2)
    assert [choice.index for choice in reply.choices] == list(range(2 * count))
    assert reply.usage is not None
    requests = service.engine.requests
    assert reply.usage.prompt_tokens == sum(len(r.input_ids) for r in requests[::2])


def test_stop_token_is_no_text_unless_kept(service: Service) -> None:
    stop = service.engine.tokenizer.encode(".")[0]
    body = {"stop_token_ids": [stop]}
    reply = service.openai.completions.create(model="tiny", prompt="a", extra_body=body, logprobs=0)
    choice = reply.choices[0]
    assert choice.text == "Hello, world"
    assert choice.matched_stop == stop
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    assert reply.usage is not None
    assert reply.usage.completion_tokens == len("Hello, world."), "it was generated"
    kept = service.openai.completions.create(
        model="tiny", prompt="a", extra_body={**body, "no_stop_trim": True}
    )
    assert kept.choices[0].text == "Hello, world."


def test_cache_report(start: Start) -> None:
    service = start(enable_cache_report=True)
    reply = service.openai.chat.completions.create(**CHAT, n=2)
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 2


def test_models(service: Service) -> None:
    assert [model.id for model in service.openai.models.list()] == ["tiny"]
    assert service.openai.models.retrieve("tiny").max_model_len == 512
    with pytest.raises(openai.NotFoundError) as caught:
        service.openai.models.retrieve("other/model")
    assert caught.value.code == "model_not_found"


def test_queue_full_is_a_429_also_for_streams(service: Service) -> None:
    service.engine.refuse = Finish(
        FinishReason.ERROR, message="the queue is full", status=429, code="queue_full"
    )
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            service.openai.chat.completions.create(**CHAT, stream=stream)
        assert caught.value.code == "queue_full"


def test_engine_death_ends_replies(service: Service) -> None:
    service.engine.delay_s = 0.02
    stream = service.openai.chat.completions.create(**CHAT, stream=True)
    next(iter(stream))
    service.loop.call_soon_threadsafe(service.engine.die)
    with pytest.raises(openai.APIError, match="engine process died"):
        list(stream)
    with pytest.raises(openai.InternalServerError) as caught:
        service.openai.chat.completions.create(**CHAT)
    assert caught.value.status_code == 503
    assert caught.value.code == "engine_unavailable"


def test_unexpected_error_tells_nothing(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    service.engine.broken = ValueError("/secret/path and a prompt")
    with pytest.raises(openai.InternalServerError) as caught:
        service.openai.chat.completions.create(**CHAT)
    assert caught.value.status_code == 500
    assert "secret" not in str(caught.value)
    assert "unexpected error" in caplog.text


def test_stream_interval_joins_tokens(start: Start) -> None:
    service = start(stream_interval=5)
    chunks = [
        chunk.choices[0].delta.content
        for chunk in service.openai.chat.completions.create(**CHAT, stream=True)
        if chunk.choices[0].delta.content
    ]
    assert chunks == ["Hello", ", wor", "ld."]
