"""The Responses API of a real server with a real model, by the official client."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from tests.system.harness import ServerProcess

QUESTION = "What is the capital of France?"
SETTINGS = {"model": "demo", "temperature": 0, "max_output_tokens": 24}
ENDLESS = {"max_output_tokens": 4000, "extra_body": {"ignore_eos": True}}


def is_free(server: ServerProcess) -> bool:
    """Whether nothing runs, and no page is anybody's."""
    seen = server.metrics()
    return seen["tupelo:num_running"] == seen["tupelo:pages_owned"] == 0


def test_a_conversation_goes_on_in_the_cache(server: ServerProcess) -> None:
    client = server.openai
    first = client.responses.create(input=QUESTION, **SETTINGS)
    assert "Paris" in first.output_text
    with client.responses.stream(input=QUESTION, **SETTINGS) as stream:
        kinds = [event.type for event in stream]
        streamed = stream.get_final_response()
    assert kinds.count("response.output_text.delta") > 3
    assert streamed.output_text == first.output_text
    assert streamed.usage.output_tokens == first.usage.output_tokens
    more = {"input": "And of Italy?", **SETTINGS}
    second = client.responses.create(previous_response_id=streamed.id, **more)
    sent = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And of Italy?"},
    ]
    chat = client.chat.completions.create(
        model="demo", messages=sent, temperature=0, max_completion_tokens=24
    )
    assert second.output_text == chat.choices[0].message.content
    assert second.usage.input_tokens == chat.usage.prompt_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0


def test_cancelling_frees_what_the_engine_held(server: ServerProcess) -> None:
    client = server.openai
    ids = []
    for _ in range(3):
        begun = client.responses.create(input=QUESTION, background=True, **{**SETTINGS, **ENDLESS})
        ids.append(begun.id)
    server.wait_for(lambda: server.metrics()["tupelo:num_running"] >= 3, 30)
    for id in ids:
        cancelled = client.responses.cancel(id)
        assert cancelled.status == "cancelled"
        assert client.responses.retrieve(id).output == cancelled.output
    server.wait_for(lambda: is_free(server), 60)
    done = client.responses.create(input=QUESTION, background=True, **SETTINGS)
    server.wait_for(lambda: client.responses.retrieve(done.id).status == "completed", 30)
    assert "Paris" in client.responses.retrieve(done.id).output_text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_them_too(server: ServerProcess, stream: bool) -> None:
    body = {"input": QUESTION, "max_output_tokens": 4000, "ignore_eos": True, "stream": stream}
    with pytest.raises(httpx.TimeoutException), ThreadPoolExecutor(1) as pool:
        pool.submit(_read_a_while, f"{server.url}/v1/responses", body).result()
    server.wait_for(lambda: is_free(server), 60)


def _read_a_while(url: str, body: dict[str, Any]) -> None:
    with httpx.stream("POST", url, json=body, timeout=1.0) as reply:
        for _ in zip(range(5), reply.iter_text(), strict=False):
            continue
        raise httpx.ReadTimeout("enough")


def test_what_is_refused_is_said(server: ServerProcess) -> None:
    client = server.openai
    for change, named in (
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "word " * 9000}, "input"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no"}}}},
         "text.format"),
    ):  # fmt: skip
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                client.responses.create(**{"input": "a", **SETTINGS, **change}, stream=stream)
            assert caught.value.param == named
