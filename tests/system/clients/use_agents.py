"""openai-agents: agents that answer, stream, fill in a form, must call, hand over; errors."""

import asyncio
from dataclasses import replace

import openai
from agents import (
    Agent,
    ModelSettings,
    Runner,
    function_tool,
    set_default_openai_client,
    set_tracing_disabled,
)
from agents.items import HandoffOutputItem, ToolCallItem, ToolCallOutputItem
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
SETTINGS = ModelSettings(temperature=0, max_tokens=TOKENS)
LONGER = replace(SETTINGS, max_tokens=100)


def client(key: str = PLACE.key) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=PLACE.url, api_key=key, max_retries=0)


@function_tool
def population() -> str:
    """How many people live in Rome."""
    return "3 million"


async def talk() -> None:
    agent = Agent(name="Guide", instructions=SYSTEM, model=MODEL, model_settings=SETTINGS)
    whole = await Runner.run(agent, QUESTION)
    streamed = Runner.run_streamed(agent, QUESTION)
    parts = [
        event.data.delta
        async for event in streamed.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    same("".join(parts), whole.final_output)
    assert streamed.final_output == whole.final_output
    (response,) = whole.raw_responses
    assert response.usage.output_tokens <= TOKENS
    going_on = [*whole.to_input_list(), {"role": "user", "content": "And of Italy?"}]
    second = await Runner.run(agent, going_on)
    kept = await Runner.run(agent, "And of Italy?", previous_response_id=whole.last_response_id)
    same(kept.final_output, second.final_output)


async def fill_in() -> None:
    agent = Agent(name="Clerk", model=MODEL, output_type=Person, model_settings=LONGER)
    whole = (await Runner.run(agent, PERSON)).final_output
    a_person(whole)
    streamed = Runner.run_streamed(agent, PERSON)
    async for event in streamed.stream_events():
        assert event.type
    assert streamed.final_output == whole


async def use_a_tool() -> None:
    """The first turn must call; then the agent itself lets the model choose."""
    agent = Agent(
        name="Guide",
        model=MODEL,
        tools=[population],
        model_settings=replace(LONGER, tool_choice="required", parallel_tool_calls=False),
    )
    found = await Runner.run(agent, "How many people live in Rome?", max_turns=4)
    kinds = [type(item) for item in found.new_items]
    assert kinds[:2] == [ToolCallItem, ToolCallOutputItem]
    assert found.new_items[1].output == "3 million"
    assert found.final_output
    streamed = Runner.run_streamed(agent, "How many people live in Rome?", max_turns=4)
    async for event in streamed.stream_events():
        assert event.type
    assert [type(item) for item in streamed.new_items] == kinds
    assert streamed.final_output == found.final_output


async def hand_over() -> None:
    italian = Agent(name="Italian", instructions=SYSTEM, model=MODEL, model_settings=SETTINGS)
    desk = Agent(
        name="Desk",
        model=MODEL,
        handoffs=[italian],
        model_settings=replace(LONGER, tool_choice="required", parallel_tool_calls=False),
    )
    found = await Runner.run(desk, QUESTION, max_turns=4)
    assert any(isinstance(item, HandoffOutputItem) for item in found.new_items)
    assert found.last_agent is italian
    assert found.final_output


def errors() -> None:
    def refused(prompt: str = QUESTION, **settings: object) -> openai.APIStatusError:
        agent = Agent(name="A", model=MODEL, model_settings=replace(SETTINGS, **settings))
        return refusal(openai.APIStatusError, lambda: Runner.run_sync(agent, prompt))

    assert refused(temperature=-1).status_code == 400
    assert refused(TOO_LONG).code == "context_length_exceeded"
    assert refused(truncation="auto").param == "truncation"
    set_default_openai_client(client("wrong"))
    assert refused().status_code == 401


async def together() -> None:
    await talk()
    await fill_in()
    await use_a_tool()
    await hand_over()


def main() -> None:
    set_tracing_disabled(True)
    set_default_openai_client(client())
    asyncio.run(together())
    set_default_openai_client(client())
    errors()


if __name__ == "__main__":
    main()
