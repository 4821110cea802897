"""Ollama's client: chat, generate, forms, tools, models, errors; and its async twin."""

import asyncio

import ollama
from common import (
    MODEL,
    PERSON,
    QUESTION,
    SYSTEM,
    TOKENS,
    TOO_LONG,
    Person,
    a_person,
    place,
    refusal,
    same,
)

PLACE = place()
HEADERS = {"authorization": f"Bearer {PLACE.key}"}
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
ABOUT_ANN = [{"role": "user", "content": PERSON}]
OPTIONS = {"temperature": 0, "num_predict": TOKENS}
LONGER = {"temperature": 0, "num_predict": 80}


def population(city: str) -> str:
    """How many people live in a city.

    Args:
        city: its name
    """
    return f"{len(city)} million"


def chat(client: ollama.Client) -> None:
    reply = client.chat(MODEL, MESSAGES, options=OPTIONS)
    assert reply.done_reason in ("stop", "length")
    assert 0 < reply.prompt_eval_duration + reply.eval_duration <= reply.total_duration
    *lines, last = client.chat(MODEL, MESSAGES, options=OPTIONS, stream=True)
    same("".join(line.message.content for line in lines), reply.message.content)
    assert (last.prompt_eval_count, last.eval_count) == (reply.prompt_eval_count, reply.eval_count)
    rated = client.chat(MODEL, MESSAGES, options=OPTIONS, logprobs=True, top_logprobs=2)
    assert rated.message.content == reply.message.content
    assert len(rated.logprobs[0].top_logprobs) == 2


def generate(client: ollama.Client) -> None:
    raw = {"prompt": "One, two, three,", "raw": True, "options": {**OPTIONS, "stop": ["\n"]}}
    reply = client.generate(MODEL, **raw)
    lines = client.generate(MODEL, stream=True, **raw)
    same("".join(line.response for line in lines), reply.response)
    first = client.generate(MODEL, QUESTION, system=SYSTEM, options=OPTIONS)
    more = client.generate(MODEL, "And of Italy?", context=first.context, options=OPTIONS)
    assert more.context[: len(first.context)] == first.context
    assert client.generate(MODEL, keep_alive=-1).done_reason == "load"


def structured(client: ollama.Client) -> None:
    asked = {"format": Person.model_json_schema(), "options": LONGER}
    reply = client.chat(MODEL, ABOUT_ANN, **asked)
    a_person(Person.model_validate_json(reply.message.content))
    lines = client.chat(MODEL, ABOUT_ANN, stream=True, **asked)
    same("".join(line.message.content for line in lines), reply.message.content)
    client.generate(MODEL, PERSON, format="json", options=OPTIONS)


def tools(client: ollama.Client) -> None:
    """Ollama's API forces no calls, so the model is free to answer."""
    first = client.chat(MODEL, MESSAGES, tools=[population], options=OPTIONS)
    assert first.message.content or first.message.tool_calls
    call = {"function": {"name": "population", "arguments": {"city": "Paris"}}}
    turns = [
        *MESSAGES,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "population", "content": population("Paris")},
    ]
    second = client.chat(MODEL, turns, tools=[population], options=OPTIONS)
    assert second.prompt_eval_count > first.prompt_eval_count


def models(client: ollama.Client) -> None:
    (listed,) = client.list().models
    (loaded,) = client.ps().models
    assert listed.digest == loaded.digest
    shown = client.show(listed.model)
    assert {"completion", "tools"} <= set(shown.capabilities)


def errors(client: ollama.Client) -> None:
    def refused(status: int, word: str, **fields: object) -> None:
        values = {"model": MODEL, "messages": MESSAGES, **fields}
        error = refusal(ollama.ResponseError, lambda: client.chat(**values))
        assert (error.status_code, word in error.error) == (status, True), error

    refused(400, "temperature", options={"temperature": -1})
    refused(400, "mirostat", options={"mirostat": 2})
    refused(400, "num_ctx", options={"num_ctx": 1 << 30})
    refused(400, "format", format={"type": "nothing"})
    refused(400, "keep_alive", keep_alive=0)
    refused(400, "think", think=True)
    refused(400, "images", messages=[{"role": "user", "content": "a", "images": [b"png"]}])
    long = [{"role": "user", "content": TOO_LONG}]
    refused(400, "context", messages=long)
    error = refusal(
        ollama.ResponseError, lambda: list(client.chat(MODEL, long, stream=True, options=OPTIONS))
    )
    assert error.status_code == 400
    for status, call in (
        (404, lambda: client.show("nothing")),
        (400, lambda: client.pull("nothing")),
        (400, lambda: client.copy(MODEL, "other")),
        (400, lambda: client.embed(MODEL, "a")),
    ):
        assert refusal(ollama.ResponseError, call).status_code == status
    with ollama.Client(PLACE.root, headers={"authorization": "Bearer wrong"}) as stranger:
        assert refusal(ollama.ResponseError, stranger.list).status_code == 401


async def side_by_side() -> None:
    async with ollama.AsyncClient(PLACE.root, headers=HEADERS) as client:
        replies = await asyncio.gather(
            *(client.chat(MODEL, MESSAGES, options=OPTIONS) for _ in range(3))
        )
    assert len({reply.message.content for reply in replies}) == 1


def main() -> None:
    with ollama.Client(PLACE.root, headers=HEADERS) as client:
        chat(client)
        generate(client)
        structured(client)
        tools(client)
        models(client)
        errors(client)
    asyncio.run(side_by_side())


if __name__ == "__main__":
    main()
