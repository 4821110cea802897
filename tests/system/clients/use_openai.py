"""The official client: chat, completions, models, structured output, errors; and its async twin."""

import asyncio
import json

import openai
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
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
ABOUT_ANN = [{"role": "user", "content": PERSON}]
SETTINGS = {"model": MODEL, "temperature": 0, "max_tokens": TOKENS}


def chat(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(messages=MESSAGES, seed=1, **SETTINGS)
    text = reply.choices[0].message.content
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    stream = client.chat.completions.create(
        messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **SETTINGS
    )
    *chunks, last = list(stream)
    same("".join(chunk.choices[0].delta.content or "" for chunk in chunks), text)
    assert last.usage == reply.usage
    several = client.chat.completions.create(
        messages=MESSAGES, n=2, logprobs=True, top_logprobs=2, **SETTINGS
    )
    assert [choice.message.content for choice in several.choices] == [text, text]
    assert all(len(choice.logprobs.content) for choice in several.choices)


def complete(client: openai.OpenAI) -> None:
    reply = client.completions.create(prompt="One, two, three,", stop=["\n"], **SETTINGS)
    stream = client.completions.create(
        prompt="One, two, three,", stop=["\n"], stream=True, **SETTINGS
    )
    same("".join(chunk.choices[0].text for chunk in stream), reply.choices[0].text)


def structured(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=MODEL, messages=ABOUT_ANN, response_format=Person, temperature=0, max_tokens=80
    )
    a_person(parsed.choices[0].message.parsed)
    with client.chat.completions.stream(
        model=MODEL, messages=ABOUT_ANN, response_format=Person, temperature=0, max_tokens=80
    ) as stream:
        for event in stream:
            assert event.type != "error"
        final = stream.get_final_completion().choices[0].message
    a_person(final.parsed)
    same(final.content, parsed.choices[0].message.content)
    free = client.chat.completions.create(
        model=MODEL,
        messages=ABOUT_ANN,
        response_format={"type": "json_object"},
        extra_body={"json_schema": None},
        temperature=0,
        max_tokens=40,
    )
    if free.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(free.choices[0].message.content), dict)


def errors(client: openai.OpenAI) -> None:
    def refused(kind: type[openai.APIStatusError], **fields: object) -> openai.APIStatusError:
        values = {"messages": MESSAGES, **SETTINGS, **fields}
        return refusal(kind, lambda: client.chat.completions.create(**values))

    assert refused(openai.BadRequestError, temperature=-1).param == "temperature"
    assert refused(openai.BadRequestError, messages=[]).param == "messages"
    long = [{"role": "user", "content": TOO_LONG}]
    assert refused(openai.BadRequestError, messages=long).code == "context_length_exceeded"
    assert refused(openai.BadRequestError, messages=long, stream=True).status_code == 400
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    assert refused(openai.BadRequestError, response_format=bad).status_code == 400
    missing = refusal(openai.NotFoundError, lambda: client.models.retrieve("nothing"))
    assert missing.code == "model_not_found"
    stranger = client.with_options(api_key="wrong")
    assert refusal(openai.AuthenticationError, stranger.models.list).code == "invalid_api_key"


async def side_by_side() -> None:
    async with openai.AsyncOpenAI(base_url=PLACE.url, api_key=PLACE.key) as client:
        replies = await asyncio.gather(
            *(client.chat.completions.create(messages=MESSAGES, **SETTINGS) for _ in range(3))
        )
    assert len({reply.choices[0].message.content for reply in replies}) == 1


def main() -> None:
    with openai.OpenAI(base_url=PLACE.url, api_key=PLACE.key, max_retries=0) as client:
        assert client.models.list().data[0].id
        chat(client)
        complete(client)
        structured(client)
        errors(client)
    asyncio.run(side_by_side())


if __name__ == "__main__":
    main()
