"""Forced tool calls of a real, small model: valid against their schemas, streamed or not.

The demo model knows no tools; a chat template that shows them in Hermes' form is given to it.
"""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from tests.system.harness import ServerProcess

TEMPLATE = Path(__file__).resolve().parent / "tools.jinja"
SHORT = {"type": "string", "minLength": 1, "maxLength": 16}
SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": SHORT,
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
    "book_table": {
        "type": "object",
        "properties": {
            "guests": {"type": "array", "items": {"$ref": "#/$defs/Guest"}, "maxItems": 2},
            "time": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"},
            "outside": {"type": "boolean"},
        },
        "required": ["guests", "time", "outside"],
        "additionalProperties": False,
        "$defs": {
            "Guest": {
                "type": "object",
                "properties": {"name": SHORT, "diet": {"enum": ["none", "vegan", None]}},
                "required": ["name", "diet"],
                "additionalProperties": False,
            }
        },
    },
    "stop_timer": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": schema, "strict": True}}
    for name, schema in SCHEMAS.items()
]
NAMED = {"type": "function", "function": {"name": "book_table"}}
Calls = list[tuple[str, str]]


@pytest.fixture(scope="module")
def tooled(demo_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The demo model with a template that takes tools."""
    folder = tmp_path_factory.mktemp("tooled")
    flags = ["--chat-template", str(TEMPLATE), "--batch-invariant", "--check-integrity"]
    with ServerProcess(demo_gguf, folder, *flags) as running:
        yield running


async def _unstreamed(client: openai.AsyncOpenAI, request: dict[str, Any]) -> Calls:
    reply = await client.chat.completions.create(**request)
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    return [
        (call.function.name, call.function.arguments)
        for call in choice.message.tool_calls or []
        if call.type == "function"
    ]


async def _streamed(client: openai.AsyncOpenAI, request: dict[str, Any]) -> Calls:
    names: list[str] = []
    arguments: list[str] = []
    async for chunk in await client.chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            assert not choice.delta.content
            for call in choice.delta.tool_calls or []:
                assert call.function is not None
                if call.id is not None:
                    assert call.index == len(names)
                    names.append(call.function.name or "")
                    arguments.append("")
                arguments[call.index] += call.function.arguments or ""
    return list(zip(names, arguments, strict=True))


async def _check(url: str, number: int) -> int:
    """Ask for calls in one of several ways; every call must be valid. Returns their number."""
    request: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": f"Request {number}: weather, table, or timer?"}],
        "tools": TOOLS,
        "tool_choice": "required" if number % 2 else NAMED,
        "parallel_tool_calls": False,
        "seed": number,
        "temperature": 1.0,
        "max_tokens": 400,
    }
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        calls = await _unstreamed(client, request)
        assert await _streamed(client, request) == calls
    assert len(calls) == 1
    for name, arguments in calls:
        assert name in SCHEMAS if number % 2 else name == "book_table"
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    return len(calls)


async def _checked(url: str, numbers: range) -> int:
    turns = asyncio.Semaphore(8)

    async def one(number: int) -> int:
        async with turns:
            return await _check(url, number)

    return sum(await asyncio.gather(*map(one, numbers)))


@pytest.mark.timeout(300)
async def test_forced_calls_are_valid(tooled: ServerProcess) -> None:
    assert await _checked(tooled.url, range(2)) == 2


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_a_hundred_forced_calls_are_valid(tooled: ServerProcess) -> None:
    assert await _checked(tooled.url, range(100)) == 100


@pytest.mark.timeout(300)
def test_a_conversation_with_calls_goes_on(tooled: ServerProcess) -> None:
    """The client's own records of a call and its result are taken back."""
    with openai.OpenAI(base_url=f"{tooled.url}/v1", api_key="none", max_retries=0) as client:
        messages: list[Any] = [{"role": "user", "content": "Stop the timer."}]
        choice: Any = {"type": "function", "function": {"name": "stop_timer"}}
        asked = client.chat.completions.create(
            model="demo", messages=messages, tools=TOOLS, tool_choice=choice, max_tokens=100
        )
        message = asked.choices[0].message
        assert message.tool_calls
        (call,) = message.tool_calls
        messages += [
            message.model_dump(),
            {"role": "tool", "tool_call_id": call.id, "content": "stopped"},
        ]
        reply = client.chat.completions.create(
            model="demo", messages=messages, tools=TOOLS, max_tokens=8
        )
        assert reply.choices[0].finish_reason in ("stop", "length", "tool_calls")
        assert reply.usage is not None
        assert asked.usage is not None
        assert reply.usage.prompt_tokens > asked.usage.prompt_tokens


def test_forced_calls_of_responses(tooled: ServerProcess) -> None:
    functions = [
        {"type": "function", "name": name, "parameters": schema, "strict": True}
        for name, schema in SCHEMAS.items()
    ]

    def ask(number: int) -> int:
        name = list(SCHEMAS)[number % len(SCHEMAS)]
        choices: list[Any] = [
            "required",
            {"type": "function", "name": name},
            {"type": "allowed_tools", "mode": "required",
             "tools": [{"type": "function", "name": name}]},
        ]  # fmt: skip
        body = {
            "model": "demo",
            "input": f"Request {number}: weather, table, or timer?",
            "tools": functions,
            "tool_choice": choices[number % 3],
            "parallel_tool_calls": False,
            "max_output_tokens": 400,
            "extra_body": {"seed": number},
        }
        whole = client.responses.create(**body)
        calls = [(item.name, item.arguments) for item in whole.output]
        for called, arguments in calls:
            assert called == name or body["tool_choice"] == "required"
            jsonschema.validate(json.loads(arguments), SCHEMAS[called])
        with client.responses.stream(**body) as stream:
            final = stream.get_final_response()
        assert [(item.name, item.arguments) for item in final.output] == calls
        return len(calls)

    client = tooled.openai
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [1] * 4
