"""``tupelo.Engine``, a model in this process, as a backend.

The engine is known by what it can do, not by its class: this package imports nothing that computes.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from tupelo.errors import ProgramError
from tupelo.lang.backends.base import Place, ToolCall, Turn
from tupelo.lang.backends.native import NativeBackend, Reply
from tupelo.lang.content import Message, Prompt
from tupelo.lang.ir import Gen, Step
from tupelo.lang.options import Sampling, split
from tupelo.text.detect import detected_tools
from tupelo.text.output_parser import parse
from tupelo.text.templates import TemplateRenderer
from tupelo.text.tokenizer import Tokenizer
from tupelo.text.tools.family import ToolFamily

MAX_CALLS = 16
"""So many calls a forced turn may make: small models do not know when to stop."""

_renderers: "WeakKeyDictionary[Any, TemplateRenderer]" = WeakKeyDictionary()


class EngineBackend(NativeBackend):
    """An engine in this process.

    Args:
        engine: a ``tupelo.Engine``; it stays its owner's.
        chat_template: source of the template to use instead of the model's.

    Raises:
        ProgramError: the engine has no tokenizer.
    """

    name = "the engine"

    def __init__(self, engine: Any, chat_template: str | None = None) -> None:
        if engine.tokenizer is None:
            raise ProgramError("a language program needs an engine with a tokenizer")
        self.engine = engine
        self._tokenizer: Tokenizer = engine.tokenizer
        self._chat_template = chat_template

    def check(self, step: Step, place: Place) -> None:
        """Refuse what an engine does not do."""
        super().check(step, place)
        if isinstance(step, Gen) and step.sampling.get("return_text_in_logprobs"):
            raise self.cannot("gen(return_text_in_logprobs=…)", "its rows hold ids alone")

    def encode_texts(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids of texts."""
        return self._tokenizer.encode_batch(texts, add_special_tokens=special)

    def decode_ids(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def render_ids(self, messages: Sequence[Message], *, opens: bool, continues: bool) -> list[int]:
        """Ids of a conversation."""
        return self._render(self._template(), messages, opens=opens, continues=continues)

    def call(self, **body: Any) -> list[Reply]:
        """Replies of the engine."""
        found = self.engine.generate(body.pop("text", None), body.pop("sampling_params"), **body)
        return found if isinstance(found, list) else [found]

    def call_stream(self, **body: Any) -> Iterator[Reply]:
        """Cumulative replies of the engine."""
        replies: Iterator[Reply] = self.engine.generate(
            body.pop("text", None), body.pop("sampling_params"), stream=True, **body
        )
        return replies

    def converse(
        self, prompt: Prompt, tools: Sequence[dict[str, Any]], choice: str, sampling: Sampling
    ) -> Turn:
        """The assistant's next turn, taken apart as its chat template tells."""
        template = self._template(tools=True)
        family = detected_tools(template)
        if "tools" not in template or family is None:
            raise self.cannot("gen(tools=…)", "its chat template does not tell how it calls tools")
        ids = self._render(template, prompt.messages, opens=True, tools=tools)
        params, beside = split({**sampling, "skip_special_tokens": False})
        if choice != "auto":
            params["structural_tag"] = _forced(family, tools, choice)
        (reply,) = self.call(input_ids=ids, sampling_params=params, **beside)
        most = 1 if choice not in ("auto", "required") else None
        found = parse(reply["text"], tools=family, descriptions=tools, max_calls=most)
        calls = [
            ToolCall(call.id or f"call_{number}", call.name, call.arguments)
            for number, call in enumerate(found.calls, start=len(prompt.messages))
        ]
        return Turn(found.text, tuple(calls), reply["meta_info"])

    def flush_cache(self) -> bool:
        """Empty the prefix cache; False while requests run."""
        return bool(self.engine.flush_cache())

    def server_info(self) -> dict[str, Any]:
        """The engine's counters and gauges."""
        return dict(self.engine.stats())

    def close(self) -> None:
        """End the processes that render templates; the engine goes on."""
        renderer = _renderers.pop(self.engine, None)
        if renderer is not None:
            renderer.close()

    def _template(self, *, tools: bool = False) -> str:
        return self._chat_template or self._tokenizer.template_for(tools=tools)

    def _render(
        self,
        template: str,
        messages: Sequence[Message],
        *,
        opens: bool,
        continues: bool = False,
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> list[int]:
        renderer = _renderers.get(self.engine)
        if renderer is None:
            renderer = _renderers.setdefault(self.engine, TemplateRenderer())
        special: dict[str, Any] = dict(self._tokenizer.special_tokens)
        text = renderer.render(
            template,
            messages=[_for_template(message) for message in messages],
            tools=tools,
            add_generation_prompt=opens,
            continue_final_message=continues,
            **special,
        )
        return self._tokenizer.encode(text, add_special_tokens=False)


def _for_template(message: Message) -> Message:
    """A message with the arguments of its calls as objects, which is what templates take."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        try:
            given = json.loads(function["arguments"] or "{}")
        except ValueError:  # what the model wrote stands
            given = function["arguments"]
        function["arguments"] = given if isinstance(given, dict) else function["arguments"]
        calls.append({"type": "function", "function": function, "id": call["id"]})
    return {**message, "tool_calls": calls}


def _forced(family: ToolFamily, tools: Sequence[dict[str, Any]], choice: str) -> Any:
    """The grammar of calls that must be made."""
    functions = [tool["function"] for tool in tools]
    wanted = [(f["name"], f["parameters"]) for f in functions if choice in ("required", f["name"])]
    if not family.structures:
        raise ProgramError(f"calls in the format {family.name!r} cannot be forced")
    most = MAX_CALLS if choice == "required" else 1
    return {
        "type": "structural_tag",
        "format": family.structures[0].calls(wanted, most),
    }
