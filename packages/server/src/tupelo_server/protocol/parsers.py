"""Bodies of ``/parse_function_call`` and ``/separate_reasoning``."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tupelo.errors import ConfigError, InvalidRequest
from tupelo.text.detect import named_reasoning, named_tools
from tupelo.text.output_parser import OutputParser, parse
from tupelo.text.tools.events import Parsed, Reasoning, Text
from tupelo_server.parsing import Formats
from tupelo_server.protocol.fields import Body
from tupelo_server.tools import tool_use


class ParseCallsBody(Body):
    """A text that a model wrote, and the tools that it had."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    text: str
    tools: list[dict[str, Any]] | None = None
    tool_call_parser: str = ""

    def reply(self, formats: Formats) -> dict[str, Any]:
        """The text without the calls, and the calls.

        Raises:
            InvalidRequest: no such parser, or none is named and the model's is not known.
        """
        try:
            family = named_tools(self.tool_call_parser) if self.tool_call_parser else formats.tools
        except ConfigError as error:
            raise InvalidRequest(f"tool_call_parser: {error}", param="tool_call_parser") from None
        if family is None:
            raise InvalidRequest(
                "tool_call_parser: the served model has none, so name one", param="tool_call_parser"
            )
        tools = tool_use(self.tools, None, True).tools
        parsed: Parsed = parse(self.text, tools=family, descriptions=tools)
        calls = [
            {"tool_index": index, "name": call.name, "parameters": call.arguments}
            for index, call in enumerate(parsed.calls)
        ]
        return {"normal_text": parsed.text, "calls": calls}


class SeparateBody(Body):
    """A text that a model wrote, thoughts included."""

    unsupported: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    text: str
    reasoning_parser: str = ""
    return_blocks: bool = False

    def reply(self, formats: Formats) -> dict[str, Any]:
        """The thoughts and the rest; with ``return_blocks`` also both in their order.

        Raises:
            InvalidRequest: no such parser, or none is named and the model has none.
        """
        name = self.reasoning_parser
        try:
            family = named_reasoning(name) if name else formats.reasoning
        except ConfigError as error:
            raise InvalidRequest(f"reasoning_parser: {error}", param="reasoning_parser") from None
        if family is None:
            raise InvalidRequest(
                "reasoning_parser: the served model has none, so name one", param="reasoning_parser"
            )
        parser = OutputParser(reasoning=family)
        blocks: list[dict[str, str]] = []
        for event in [*parser.push(self.text), *parser.finish()]:
            assert isinstance(event, Reasoning | Text), "calls are found where tools are"
            kind = "reasoning" if isinstance(event, Reasoning) else "text"
            if blocks and blocks[-1]["type"] == kind:
                blocks[-1]["text"] += event.text
            else:
                blocks.append({"type": kind, "text": event.text})
        texts = {
            kind: "".join(block["text"] for block in blocks if block["type"] == kind)
            for kind in ("reasoning", "text")
        }
        reply: dict[str, Any] = {"reasoning_text": texts["reasoning"], "text": texts["text"]}
        return {**reply, "blocks": blocks} if self.return_blocks else reply
