"""The official client's Responses: text, forms, calls, kept and in the background; errors."""

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
SETTINGS = {"model": MODEL, "temperature": 0, "max_output_tokens": TOKENS}
LONGER = {**SETTINGS, "max_output_tokens": 100}
TOOL = {
    "type": "function",
    "name": "population",
    "description": "How many people live in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 16}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


def talk(client: openai.OpenAI) -> None:
    reply = client.responses.create(instructions=SYSTEM, input=QUESTION, **SETTINGS)
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens
    with client.responses.stream(instructions=SYSTEM, input=QUESTION, **SETTINGS) as stream:
        events = list(stream)
        final = stream.get_final_response() if reply.status == "completed" else None
    same("".join(e.delta for e in events if e.type == "response.output_text.delta"),
         reply.output_text)  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert final is None or final.usage == reply.usage
    rows = client.responses.create(
        instructions=SYSTEM,
        input=QUESTION,
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        **SETTINGS,
    )
    part = rows.output[0].content[0]
    assert "".join(row.token for row in part.logprobs) == part.text == reply.output_text


def structured(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(input=PERSON, text_format=Person, **LONGER)
    a_person(parsed.output_parsed)
    with client.responses.stream(input=PERSON, text_format=Person, **LONGER) as stream:
        for event in stream:
            assert event.type != "error"
        final = stream.get_final_response()
    a_person(final.output_parsed)
    same(final.output_text, parsed.output_text)


def call(client: openai.OpenAI) -> None:
    asked = [{"role": "user", "content": "How many people live in Rome?"}]
    wanted = {"tools": [TOOL], "tool_choice": {"type": "function", "name": TOOL["name"]}}
    whole = client.responses.create(input=asked, **wanted, **LONGER)
    (made,) = whole.output
    assert set(json.loads(made.arguments)) == {"city"}
    with client.responses.stream(input=asked, **wanted, **LONGER) as stream:
        names = [event.type for event in stream]
        (again,) = stream.get_final_response().output
    assert names.count("response.function_call_arguments.done") == 1
    same(again.arguments, made.arguments)
    result = {"type": "function_call_output", "call_id": made.call_id, "output": "3 million"}
    items = [*asked, made.model_dump(exclude_none=True), result]
    assert client.responses.create(input=items, tools=[TOOL], **SETTINGS).output_text


def keep(client: openai.OpenAI) -> None:
    first = client.responses.create(input=QUESTION, **SETTINGS)
    second = client.responses.create(
        input="And of Italy?", previous_response_id=first.id, **SETTINGS
    )
    assert second.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(second.id) == second
    assert len(list(client.responses.input_items.list(second.id, limit=2))) == 3
    client.responses.delete(second.id)
    gone = refusal(openai.NotFoundError, lambda: client.responses.retrieve(second.id))
    assert gone.code == "response_not_found"


def in_the_background(client: openai.OpenAI) -> None:
    begun = client.responses.create(input=QUESTION, background=True, stream=True, **SETTINGS)
    id = next(iter(begun)).response.id
    begun.close()
    events = list(client.responses.retrieve(id, stream=True, starting_after=0))
    same(events[-1].response.output_text, client.responses.retrieve(id).output_text)
    long = {**SETTINGS, "max_output_tokens": 4000}
    running = client.responses.create(
        input=QUESTION, background=True, extra_body={"ignore_eos": True}, **long
    )
    assert client.responses.cancel(running.id).status == "cancelled"
    assert client.responses.retrieve(running.id).status == "cancelled"


def errors(client: openai.OpenAI) -> None:
    def refused(kind: type[openai.APIStatusError], **fields: object) -> openai.APIStatusError:
        values = {"input": QUESTION, **SETTINGS, **fields}
        return refusal(kind, lambda: client.responses.create(**values))

    assert refused(openai.BadRequestError, temperature=-1).param == "temperature"
    assert refused(openai.BadRequestError, input=[]).param == "input"
    assert refused(openai.BadRequestError, input=TOO_LONG).code == "context_length_exceeded"
    assert refused(openai.BadRequestError, input=TOO_LONG, stream=True).status_code == 400
    tools = [{"type": "web_search"}]
    assert refused(openai.BadRequestError, tools=tools).param == "tools[0].type"
    stranger = client.with_options(api_key="wrong")
    refusal(openai.AuthenticationError, lambda: stranger.responses.create(input="a", **SETTINGS))


async def side_by_side() -> None:
    async with openai.AsyncOpenAI(base_url=PLACE.url, api_key=PLACE.key) as client:
        replies = await asyncio.gather(
            *(client.responses.create(input=QUESTION, **SETTINGS) for _ in range(3))
        )
    assert len({reply.output_text for reply in replies}) == 1


def main() -> None:
    with openai.OpenAI(base_url=PLACE.url, api_key=PLACE.key, max_retries=0) as client:
        talk(client)
        structured(client)
        call(client)
        keep(client)
        in_the_background(client)
        errors(client)
    asyncio.run(side_by_side())


if __name__ == "__main__":
    main()
