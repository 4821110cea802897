"""The openai client, unmodified, against the real server: streamed and not, the same."""

import time
from typing import Any

import openai
import pytest
from tests.system.harness import ServerProcess

MESSAGES: Any = [{"role": "user", "content": "Name three colours."}]
BASE: dict[str, Any] = {"model": "demo", "max_tokens": 12}

SHAPES: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seed": {"seed": 11, "temperature": 1.0},
    "n=3": {"n": 3, "seed": 5, "temperature": 1.0},
    "logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 3},
    "n and logprobs": {"n": 2, "seed": 3, "logprobs": True, "temperature": 0.9},
    "stop": {"temperature": 0, "stop": [":", "colour"], "max_tokens": 40},
    "stop with logprobs": {"temperature": 0, "stop": "most", "max_tokens": 40, "logprobs": True},
    "penalties": {
        "seed": 1,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "logit_bias": {"198": -100},
    },
    "one token": {"temperature": 0, "max_tokens": 1},
}


def summary(text: str, finish: str | None, tokens: Any) -> tuple[Any, ...]:
    rows = [(t.token, tuple(t.bytes or []), t.logprob) for t in tokens or []]
    return text, finish, rows


def collect_chat(client: openai.OpenAI, **options: Any) -> tuple[list[tuple[Any, ...]], Any]:
    """A streamed chat, put together by hand."""
    texts: dict[int, str] = {}
    finishes: dict[int, str] = {}
    tokens: dict[int, list[Any]] = {}
    usage = None
    for chunk in client.chat.completions.create(
        messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **options
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.logprobs:
                tokens.setdefault(choice.index, []).extend(choice.logprobs.content or [])
            if choice.finish_reason:
                assert choice.index not in finishes, "one finish chunk a choice"
                finishes[choice.index] = choice.finish_reason
    found = [summary(texts[i], finishes[i], tokens.get(i)) for i in sorted(texts)]
    return found, usage


@pytest.mark.parametrize("shape", SHAPES)
def test_chat_stream_equals_unstreamed(server: ServerProcess, shape: str) -> None:
    options = {**BASE, **SHAPES[shape]}
    reply = server.openai.chat.completions.create(messages=MESSAGES, **options)
    whole = [
        summary(
            choice.message.content or "",
            choice.finish_reason,
            choice.logprobs.content if choice.logprobs else None,
        )
        for choice in reply.choices
    ]
    streamed, usage = collect_chat(server.openai, **options)
    assert [(t, f) for t, f, _ in streamed] == [(t, f) for t, f, _ in whole]
    for (text, _, rows), (_, _, rows_whole) in zip(streamed, whole, strict=True):
        assert [r[:2] for r in rows] == [r[:2] for r in rows_whole]
        assert [r[2] for r in rows] == pytest.approx([r[2] for r in rows_whole], abs=1e-3)
        if options.get("logprobs"):
            assert "".join(row[0] for row in rows) == text
    assert reply.usage is not None
    assert usage.completion_tokens == reply.usage.completion_tokens
    assert usage.prompt_tokens == reply.usage.prompt_tokens
    assert len(whole) == options.get("n", 1)


COMPLETIONS: dict[str, dict[str, Any]] = {
    "greedy": {"prompt": "The sky is", "temperature": 0},
    "several prompts": {"prompt": ["The sky is", "Grass is"], "temperature": 0},
    "ids": {"prompt": [[504, 6376, 314], [504]], "temperature": 0},
    "echo": {"prompt": "The sky is", "temperature": 0, "echo": True},
    "echo with logprobs": {"prompt": "The sky", "temperature": 0, "echo": True, "logprobs": 2},
    "n=3": {"prompt": "The sky is", "n": 3, "seed": 9},
    "stop": {"prompt": "1 2 3 4", "temperature": 0, "stop": " 8", "max_tokens": 24},
    "scoring": {"prompt": "The sky", "echo": True, "logprobs": 1, "max_tokens": 0},
}


@pytest.mark.parametrize("shape", COMPLETIONS)
def test_completion_stream_equals_unstreamed(server: ServerProcess, shape: str) -> None:
    options = {**BASE, **COMPLETIONS[shape]}
    reply = server.openai.completions.create(**options)
    texts: dict[int, str] = {}
    tokens: dict[int, list[str]] = {}
    offsets: dict[int, list[int]] = {}
    finishes: dict[int, Any] = {}
    for chunk in server.openai.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            if choice.logprobs:
                tokens.setdefault(choice.index, []).extend(choice.logprobs.tokens or [])
                offsets.setdefault(choice.index, []).extend(choice.logprobs.text_offset or [])
            if choice.finish_reason:
                finishes[choice.index] = choice.finish_reason
    for choice in reply.choices:
        assert texts[choice.index] == choice.text
        assert finishes[choice.index] == choice.finish_reason
        if choice.logprobs:
            assert tokens[choice.index] == choice.logprobs.tokens
            assert offsets[choice.index] == choice.logprobs.text_offset
            assert "".join(tokens[choice.index]) == choice.text


def test_samples_of_one_seed_differ_and_repeat(server: ServerProcess) -> None:
    options: dict[str, Any] = {**BASE, "n": 3, "seed": 17, "temperature": 1.2}
    first = server.openai.chat.completions.create(messages=MESSAGES, **options)
    second = server.openai.chat.completions.create(messages=MESSAGES, **options)
    alone = server.openai.chat.completions.create(messages=MESSAGES, **{**options, "n": 1})
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) == 3
    assert alone.choices[0].message.content == texts[0]


def test_stop_is_cut_exactly_and_counted(server: ServerProcess) -> None:
    options: dict[str, Any] = {"model": "demo", "prompt": "1 2 3 4", "temperature": 0}
    whole = server.openai.completions.create(**options, max_tokens=24)
    text = whole.choices[0].text
    stop = text[9:12]
    cut = server.openai.completions.create(**options, max_tokens=24, stop=stop)
    assert cut.choices[0].text == text[: text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None
    assert cut.usage.completion_tokens < 24


def test_samples_share_the_prefix(server: ServerProcess) -> None:
    prompt = "Once upon a time there was a fox who " * 12
    options: dict[str, Any] = {
        "model": "demo",
        "max_tokens": 2,
        "prompt": prompt + str(time.time()),
    }
    server.openai.completions.create(**options)
    again = server.openai.completions.create(**options)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    cached = again.usage.prompt_tokens_details.cached_tokens or 0
    assert cached >= again.usage.prompt_tokens - 16


def test_closing_a_stream_aborts(server: ServerProcess) -> None:
    stream = server.openai.chat.completions.create(
        model="demo",
        messages=MESSAGES,
        max_tokens=2000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    assert server.metric("sglang:num_running_reqs") == 1
    aborted = server.metric("sglang:num_aborted_requests_total")
    stream.close()
    took = server.wait_for(lambda: server.metric("sglang:num_running_reqs") == 0, 5)
    assert took < 5
    assert server.metric("sglang:num_aborted_requests_total") == aborted + 1
    assert server.metric("tupelo:pages_owned") == 0
