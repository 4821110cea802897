"""pydantic-ai: agents that answer, stream, fill in forms by calls and by schemas, call tools."""

import asyncio

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
from pydantic_ai import Agent, NativeOutput, Tool, ToolCallPart
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

PLACE = place()
SETTINGS = {"temperature": 0, "max_tokens": TOKENS, "seed": 1}
LONGER = {**SETTINGS, "max_tokens": 100}


def model(key: str = PLACE.key) -> OpenAIChatModel:
    return OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=PLACE.url, api_key=key))


def population(city: str) -> str:
    """How many people live in a city."""
    return f"{len(city)} million"


async def talk() -> None:
    agent = Agent(model(), system_prompt=SYSTEM, model_settings=SETTINGS)
    first = await agent.run(QUESTION)
    async with agent.run_stream(QUESTION) as stream:
        same("".join([part async for part in stream.stream_text(delta=True)]), first.output)
    assert first.usage.output_tokens <= TOKENS
    second = await agent.run("And of Italy?", message_history=first.all_messages())
    assert second.usage.input_tokens > first.usage.input_tokens


async def fill_in() -> None:
    """By a forced call, which is how agents get their outputs by default, and by a schema."""
    for form in (Person, NativeOutput(Person)):
        agent = Agent(model(), output_type=form, model_settings=LONGER)
        whole = (await agent.run(PERSON)).output
        a_person(whole)
        async with agent.run_stream(PERSON) as stream:
            assert await stream.get_output() == whole


async def use_a_tool() -> None:
    """An agent's tools are offered; that they are called is up to the model, unless forced."""
    tool = Tool(population)
    answered = await Agent(model(), tools=[tool], model_settings=SETTINGS).run(QUESTION)
    assert answered.output
    forced = await model_request(
        model(),
        [ModelRequest.user_text_prompt("How many people live in Rome?")],
        model_settings={**LONGER, "parallel_tool_calls": False},
        model_request_parameters=ModelRequestParameters(
            function_tools=[tool.tool_def], allow_text_output=False
        ),
    )
    (call,) = forced.parts
    assert isinstance(call, ToolCallPart)
    assert set(call.args_as_dict()) == {"city"}


def errors() -> None:
    def refused(key: str = PLACE.key, prompt: str = QUESTION, **settings: object) -> int:
        agent = Agent(model(key), model_settings={**SETTINGS, **settings})
        return refusal(ModelHTTPError, lambda: agent.run_sync(prompt)).status_code

    assert refused(temperature=-1) == 400
    assert refused(prompt=TOO_LONG) == 400
    assert refused("wrong") == 401


async def together() -> None:
    await talk()
    await fill_in()
    await use_a_tool()


def main() -> None:
    asyncio.run(together())
    errors()


if __name__ == "__main__":
    main()
