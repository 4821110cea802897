"""Tools: Python functions that the model may call, until it answers."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from tupelo.errors import ProgramError
from tupelo.lang.backends.base import Backend, ToolCall
from tupelo.lang.content import Message, Prompt, Turns
from tupelo.lang.ir import Gen
from tupelo.lang.schema import build, parameters_of


@dataclass(frozen=True)
class Answer:
    """What came of a conversation with tools.

    Attributes:
        text: the answer. turns: the calls and their results, in their order.
        meta: of the last turn; ``tool_calls`` lists the calls: name, arguments, result.
    """

    text: str
    turns: Turns
    meta: dict[str, Any]


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """A function as OpenAI's API describes tools: its name, docstring, and typed arguments.

    Raises:
        ProgramError: it has no name, or arguments that JSON cannot hold.
    """
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise ProgramError(f"a tool must be a named function, not {function!r:.80}")
    described = {"name": name, "parameters": parameters_of(function)}
    if text := inspect.getdoc(function):
        described["description"] = text
    return {"type": "function", "function": described}


def answer_with_tools(backend: Backend, prompt: Prompt, gen: Gen) -> Answer:
    """Let the model call tools until it answers in text.

    What a tool returns goes to the model as it stands if it is text, else as JSON. A tool that
    raises, that does not exist, or that gets wrong arguments has its error told to the model.

    Raises:
        ProgramError: the model still calls tools after ``gen.max_tool_rounds`` rounds.
    """
    functions = {function.__name__: function for function in gen.tools}
    described = [describe(function) for function in gen.tools]
    messages: list[Message] = []
    record: list[dict[str, Any]] = []
    choice = gen.tool_choice
    for _ in range(gen.max_tool_rounds + 1):
        now = Prompt(messages=(*prompt.messages, *messages), role=prompt.role)
        turn = backend.converse(now, described, choice, gen.sampling)
        if not turn.calls:
            return Answer(turn.text, Turns(tuple(messages)), {**turn.meta, "tool_calls": record})
        messages.append(_asked(turn.text, turn.calls))
        for call in turn.calls:
            result = _call(functions, call)
            record.append({"name": call.name, "arguments": call.arguments, "result": result})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        choice = "auto"
    raise ProgramError(
        f"the model still calls tools after {gen.max_tool_rounds} rounds; its last call was "
        f"{record[-1]['name']}({record[-1]['arguments']:.80}). Raise max_tool_rounds if need be"
    )


def _asked(text: str, calls: Sequence[ToolCall]) -> Message:
    """The assistant's message that makes calls."""
    return {
        "role": "assistant",
        "content": text,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ],
    }


def _call(functions: Mapping[str, Callable[..., Any]], call: ToolCall) -> str:
    """What the model is told of a call's result."""
    function = functions.get(call.name)
    if function is None:
        return f"error: there is no tool {call.name!r}; tools are {', '.join(functions)}"
    try:
        given = json.loads(call.arguments or "{}")
        hints = get_type_hints(function)
        arguments = {name: build(hints.get(name, Any), value) for name, value in given.items()}
        inspect.signature(function).bind(**arguments)
        result = function(**arguments)
        return result if isinstance(result, str) else json.dumps(result, default=str)
    except Exception as error:  # the model is told, and may do better; the program sees it in meta
        return f"error: {type(error).__name__}: {error}"
