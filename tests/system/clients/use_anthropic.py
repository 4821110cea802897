"""Anthropic's client: messages, streams, tools, forms, counting, errors; and its async twin."""

import asyncio

import anthropic
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
MESSAGES = [{"role": "user", "content": QUESTION}]
ABOUT_ANN = [{"role": "user", "content": PERSON}]
GREEDY = {"temperature": 0}
"""A field that this client no longer names."""
SETTINGS = {"model": MODEL, "max_tokens": TOKENS, "system": SYSTEM, "extra_body": GREEDY}
LONGER = {**SETTINGS, "max_tokens": 100}
NOTE = {
    "name": "note_person",
    "description": "Keep what is known of a person.",
    "input_schema": Person.model_json_schema(),
    "strict": True,
}


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def talk(client: anthropic.Anthropic) -> None:
    message = client.messages.create(messages=MESSAGES, **SETTINGS)
    assert message.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(messages=MESSAGES, **SETTINGS) as stream:
        streamed = "".join(stream.text_stream)
        final = stream.get_final_message()
    same(streamed, text_of(message))
    assert final.usage.output_tokens == message.usage.output_tokens
    count = client.messages.count_tokens(model=MODEL, messages=MESSAGES, system=SYSTEM)
    assert count.input_tokens == message.usage.input_tokens == final.usage.input_tokens
    prefilled = [*MESSAGES, {"role": "assistant", "content": "The capital of France is"}]
    ended = client.messages.create(messages=prefilled, stop_sequences=["."], **SETTINGS)
    assert "." not in text_of(ended)


def call(client: anthropic.Anthropic) -> None:
    forced = {"tools": [NOTE], "tool_choice": {"type": "tool", "name": "note_person"}}
    message = client.messages.create(messages=ABOUT_ANN, **forced, **LONGER)
    assert message.stop_reason == "tool_use"
    (block,) = message.content
    a_person(Person.model_validate(block.input))
    with client.messages.stream(messages=ABOUT_ANN, **forced, **LONGER) as stream:
        for event in stream:
            assert event.type != "error"
        (twin,) = stream.get_final_message().content
    assert (twin.name, twin.input) == (block.name, block.input)
    result = {"type": "tool_result", "tool_use_id": block.id, "content": "kept"}
    turns = [
        *ABOUT_ANN,
        {"role": "assistant", "content": [b.model_dump(mode="json") for b in message.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "Thanks."}]},
    ]
    after = client.messages.create(messages=turns, tools=[NOTE], **SETTINGS)
    assert after.usage.input_tokens > message.usage.input_tokens


def structured(client: anthropic.Anthropic) -> None:
    parsed = client.messages.parse(messages=ABOUT_ANN, output_format=Person, **LONGER)
    a_person(parsed.parsed_output)
    with client.messages.stream(messages=ABOUT_ANN, output_format=Person, **LONGER) as stream:
        same("".join(stream.text_stream), text_of(parsed))


def errors(client: anthropic.Anthropic) -> None:
    def refused(kind: type[anthropic.APIStatusError], **fields: object) -> str:
        values = {"messages": MESSAGES, **SETTINGS, **fields}
        error = refusal(kind, lambda: client.messages.create(**values))
        assert error.body["type"] == "error"
        return str(error.body["error"]["message"])

    assert "temperature" in refused(anthropic.BadRequestError, extra_body={"temperature": -1})
    image = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}
    shown = [{"role": "user", "content": [image]}]
    assert "image" in refused(anthropic.BadRequestError, messages=shown)
    assert "web_search" in refused(
        anthropic.BadRequestError, tools=[{"type": "web_search_20250305", "name": "web_search"}]
    )
    long = [{"role": "user", "content": TOO_LONG}]
    assert "context" in refused(anthropic.BadRequestError, messages=long)
    assert "context" in refused(anthropic.BadRequestError, messages=long, stream=True)
    stranger = client.with_options(api_key="wrong")
    count = {"model": MODEL, "messages": MESSAGES}
    refusal(anthropic.AuthenticationError, lambda: stranger.messages.count_tokens(**count))


async def side_by_side() -> None:
    async with anthropic.AsyncAnthropic(base_url=PLACE.root, api_key=PLACE.key) as client:
        replies = await asyncio.gather(
            *(client.messages.create(messages=MESSAGES, **SETTINGS) for _ in range(3))
        )
    assert len({text_of(reply) for reply in replies}) == 1


def main() -> None:
    with anthropic.Anthropic(base_url=PLACE.root, api_key=PLACE.key, max_retries=0) as client:
        talk(client)
        call(client)
        structured(client)
        errors(client)
    asyncio.run(side_by_side())


if __name__ == "__main__":
    main()
