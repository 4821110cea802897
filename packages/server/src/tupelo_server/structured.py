"""The grammar over a chat reply: forced calls, calls held to their schemas, text as a client wants
it, and room for thoughts before all of these.

Calls are written in the model's own format where that has room for JSON, else as a JSON list.
"""

import json
from dataclasses import dataclass, replace
from typing import Any

from tupelo.errors import InvalidRequest
from tupelo.request import Grammar
from tupelo.text.reasoning.split import ThinkFormat
from tupelo.text.tools.family import ToolFamily
from tupelo.text.tools.json_calls import JsonFormat
from tupelo.text.tools.structure import Node, Structure, either, fixed, free, in_turn, maybe
from tupelo.text.tools.structures import LIST
from tupelo_server.tools import ToolUse

MAX_CALLS = 16
"""A forced reply ends behind so many calls at last, for small models do not know when to stop."""

LISTED = ToolFamily("list", JsonFormat(opens=(), bare=("[",)), structures=(LIST,))
"""Stands in for a format that has no room for JSON, or that nobody knows."""

_SCHEMAS = ("json_schema", "json_object")
_THOUGHT = in_turn(fixed("<|channel|>analysis<|message|>"), free("<|end|><|start|>assistant"))
_REMARK = in_turn(fixed("<|channel|>commentary<|message|>"), free("<|end|><|start|>assistant"))
_FINAL = fixed("<|channel|>final<|message|>")


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """What may stand before the answer.

    Attributes:
        form: of the thoughts; None if there are none.
        inside: the prompt has begun them.
        over: the prompt has ended them.
        close_ids: the tokens of the marker that ends them.
    """

    form: ThinkFormat | None = None
    inside: bool = False
    over: bool = False
    close_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReplyForm:
    """What a request asks of the form of its reply.

    Attributes:
        use: its tools. own: the grammar that the client gives for the text.
        native: how the model writes calls; None if nobody knows.
        special_texts: of the model's special tokens.
        channels: the model writes channels, as gpt-oss does.
    """

    use: ToolUse
    own: Grammar | None
    native: ToolFamily | None
    special_texts: frozenset[str]
    channels: bool
    thinking: Thinking

    @property
    def family(self) -> ToolFamily | None:
        """In which format calls will come; None if nobody knows how this model writes them."""
        if self._together and self._structure_of(self.native) is None:
            return LISTED
        return self.native

    def grammar(self) -> Grammar | None:
        """What the output must look like; None for anything.

        Raises:
            InvalidRequest: calls cannot be held to their schemas, or a schema is none.
        """
        own, use = self.own, self.use
        if use.forced:
            return self._grammar(self._calls(use.forced))
        if own is not None and self._together:
            return self._grammar(either(self._text(_node(own)), self._calls(use.names)))
        if own is None:
            return self._grammar(self._free_calls()) if use.strict else None
        channels = self.channels and own.kind != "structural_tag"
        if channels or (self._may_think and own.kind != "structural_tag"):
            return self._grammar(self._text(_node(own)))
        return replace(own, after=self._after)

    @property
    def wants_json(self) -> bool:
        """Whether the client asks for a text that is JSON."""
        return self.own is not None and self.own.kind in _SCHEMAS

    @property
    def _together(self) -> bool:
        """Whether one grammar holds calls, and perhaps text that a schema describes."""
        return bool(self.use.forced or (self.use.tools and self.wants_json))

    @property
    def _may_think(self) -> bool:
        """Whether thoughts may come that the grammar has to allow for."""
        thinking = self.thinking
        if thinking.form is None or thinking.over:
            return False
        return not thinking.inside or len(thinking.close_ids) > 1

    @property
    def _after(self) -> tuple[int, ...]:
        return self.thinking.close_ids if self.thinking.inside else ()

    def _grammar(self, answer: Node) -> Grammar:
        """The grammar of an answer, with room for thoughts before it."""
        own, thinking = self.own, self.thinking
        after: tuple[int, ...] = ()
        if self.channels:
            answer = in_turn({"type": "star", "content": either(_THOUGHT, _REMARK)}, answer)
        elif thinking.inside and len(thinking.close_ids) == 1:
            after = thinking.close_ids
        elif thinking.form is not None and not thinking.over:
            thoughts = free(thinking.form.close)
            if not thinking.inside:
                thoughts = maybe(in_turn(fixed(thinking.form.opens[0]), thoughts))
            answer = in_turn(thoughts, answer)
        try:
            text = json.dumps({"type": "structural_tag", "format": answer})
        except RecursionError:
            raise InvalidRequest("tools: nested too deeply", param="tools") from None
        return Grammar(
            kind="structural_tag",
            text=text,
            strict=self.use.strict or (own is not None and own.strict),
            param="tools" if own is None or self.use.forced else own.param or own.kind,
            after=after,
        )

    def _text(self, content: Node) -> Node:
        return in_turn(_FINAL, content) if self.channels else content

    def _calls(self, names: tuple[str, ...]) -> Node:
        structure = self._structure_of(self.native) or LIST
        tools = [(f["name"], _closed(f)) for f in self.use.functions if f["name"] in names]
        return structure.calls(tools, self.use.max_calls or MAX_CALLS)

    def _free_calls(self) -> Node:
        """Text, and calls wherever they begin; those of strict tools are held to their schemas."""
        structure = self._structure_of(self.native)
        if structure is None:
            raise InvalidRequest(
                "tools: this model's calls cannot be held to a schema unless they are forced; "
                "leave strict out, or set tool_choice",
                param="tools",
            )
        tools = [
            (f["name"], _closed(f) if f.get("strict") else {"type": "object"})
            for f in self.use.functions
        ]
        most = self.use.max_calls or MAX_CALLS
        if self.channels:
            return either(self._text(free()), structure.calls(tools, most))
        assert self.native is not None
        trigger, skip = self._trigger(structure, self.native)
        content = structure.calls(tools, most, skip=skip)
        tag = {"type": "tag", "begin": trigger, "content": content, "end": ""}
        return {
            "type": "triggered_tags",
            "triggers": [trigger],
            "tags": [tag],
            "stop_after_first": self.use.max_calls == 1,
        }

    def _trigger(self, structure: Structure, family: ToolFamily) -> tuple[str, int]:
        """What in free text is the beginning of calls, and where in ``beginning`` that ends.

        A special token, if there is one; else the family's marker; else all up to the name.
        """
        beginning = structure.beginning
        found = [(beginning.index(text), text) for text in self.special_texts if text in beginning]
        if found:
            place, trigger = min(found, key=lambda one: (one[0], -len(one[1])))
            return trigger, place + len(trigger)
        form = family.form
        ambiguous = (*form.ambiguous, *form.bare) if isinstance(form, JsonFormat) else ()
        for marker in form.openers:
            if beginning.startswith(marker) and marker not in ambiguous:
                return marker, len(marker)
        return beginning, len(beginning)

    def _structure_of(self, family: ToolFamily | None) -> Structure | None:
        """How this model writes calls with JSON; None if it does not."""
        structures = family.structures if family is not None else ()
        fitting = (s for s in structures if not s.needs or s.needs in self.special_texts)
        return next(fitting, None)


def _node(own: Grammar) -> Node:
    """A client's grammar as a part of a larger one.

    Raises:
        InvalidRequest: a schema that is none.
    """
    match own.kind:
        case "json_object":
            return {"type": "json_schema", "json_schema": {"type": "object"}}
        case "regex":
            return {"type": "regex", "pattern": own.text}
        case "ebnf":
            return {"type": "grammar", "grammar": own.text}
    name = own.param or own.kind
    try:
        return {"type": "json_schema", "json_schema": json.loads(own.text)}
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{name}: is no JSON Schema", param=name) from None


def _closed(function: dict[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments; nothing is allowed there that it does not mention."""
    schema: dict[str, Any] = function["parameters"]
    if "properties" in schema and "$ref" not in schema:
        return {"additionalProperties": False, **schema}
    return schema
