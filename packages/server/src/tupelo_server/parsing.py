"""How the served model's outputs are taken apart: its formats, and what a request wants of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tupelo.errors import InvalidRequest
from tupelo.request import Grammar, SamplingParams
from tupelo.text.detect import (
    detected_reasoning,
    detected_tools,
    named_reasoning,
    named_tools,
)
from tupelo.text.output import TextDelta, TextStream
from tupelo.text.output_parser import OutputParser
from tupelo.text.reasoning.families import ReasoningFamily
from tupelo.text.reasoning.split import ThinkFormat
from tupelo.text.tokenizer import Tokenizer
from tupelo.text.tools.channels import ChannelFormat
from tupelo.text.tools.events import CallStart, Event
from tupelo.text.tools.families import HARMONY
from tupelo.text.tools.family import ToolFamily
from tupelo.thinking import ThinkingBudget
from tupelo_server.structured import LISTED, ReplyForm, Thinking
from tupelo_server.tools import ToolUse

AUTO, NONE = "auto", "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsing:
    """What is to be found in the outputs of one request.

    Attributes:
        tools, reasoning, in_reasoning, max_calls, json_reply: see ``OutputParser``.
        descriptions: the tools of the request.
        shown_ids: special tokens that are markers, which the parser must see.
    """

    tools: ToolFamily | None = None
    reasoning: ReasoningFamily | None = None
    descriptions: Sequence[Mapping[str, Any]] = ()
    in_reasoning: bool | None = None
    max_calls: int | None = None
    json_reply: bool = False
    shown_ids: frozenset[int] = frozenset()

    @property
    def finds_anything(self) -> bool:
        """Whether outputs are more than text."""
        return self.tools is not None or self.reasoning is not None

    def parser(self) -> OutputParser:
        """A parser for one output."""
        return OutputParser(
            tools=self.tools,
            reasoning=self.reasoning,
            descriptions=self.descriptions,
            in_reasoning=self.in_reasoning,
            max_calls=self.max_calls,
            json_reply=self.json_reply,
        )


class Formats:
    """The formats of the model being served.

    Attributes:
        tools: how it writes calls; None if nobody knows.
        reasoning: how it marks its thoughts; None if it has none.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: Sequence[str],
        tool_call_parser: str = AUTO,
        reasoning_parser: str = AUTO,
    ) -> None:
        """Find them.

        Args:
            templates: sources of chat templates, the one for conversations with tools first.
            tool_call_parser, reasoning_parser: "auto" (what the templates tell), "none", or names.

        Raises:
            ConfigError: a name that is unknown.
        """
        self._tokenizer = tokenizer
        texts = {i: tokenizer.token_text(i) for i in tokenizer.special_ids}
        self._special = {i: text for i, text in texts.items() if len(text) > 1}
        self._special_texts = frozenset(self._special.values())
        self._shown: dict[tuple[str, ...], frozenset[int]] = {}
        self.tools: ToolFamily | None = None
        self.reasoning: ReasoningFamily | None = None
        if tool_call_parser == AUTO:
            found = filter(None, map(detected_tools, templates))
            self.tools = next(found, None)
        elif tool_call_parser != NONE:
            self.tools = named_tools(tool_call_parser)
        if reasoning_parser == AUTO:
            thinkers = filter(None, map(detected_reasoning, templates))
            self.reasoning = next(thinkers, None)
        elif reasoning_parser != NONE:
            self.reasoning = named_reasoning(reasoning_parser)

    def __str__(self) -> str:
        tools = self.tools.name if self.tools is not None else "none known"
        reasoning = self.reasoning.name if self.reasoning is not None else "none"
        return f"tool calls {tools}, reasoning {reasoning}"

    def thinking_at_end(self, prompt: str | None) -> bool | None:
        """Whether the prompt ends inside the thoughts; None if nobody knows, or nobody thinks."""
        form = self.reasoning.form if self.reasoning is not None else None
        if prompt is None or not isinstance(form, ThinkFormat):
            return None
        ends = tuple(marker.rstrip() for marker in form.opens)
        labelled = tuple(f"{marker}{form.label}" for marker in form.opens) if form.label else ()
        return prompt.rstrip().endswith((*ends, *labelled))

    def budget(self, limit: int | None, prompt: str | None) -> ThinkingBudget | None:
        """What bounds thoughts to ``limit`` tokens; None for no limit.

        Raises:
            InvalidRequest: the model does not think, or not between markers of one token each.
        """
        if limit is None:
            return None
        form = self.reasoning.form if self.reasoning is not None else None
        if isinstance(form, ThinkFormat):
            opens, closes = self._tokens_of(form.opens), self._tokens_of((form.close,))
            if len(opens) == len(form.opens) and closes:
                return ThinkingBudget(
                    max_tokens=limit,
                    close_id=closes[0],
                    inside=bool(self.thinking_at_end(prompt)),
                    open_ids=opens,
                    also_close_ids=self._tokens_of(form.interrupts),
                )
        raise InvalidRequest(
            "max_thinking_tokens cannot be served: this model does not mark its thoughts by one "
            "token at each end",
            param="max_thinking_tokens",
        )

    def _tokens_of(self, markers: Sequence[str]) -> tuple[int, ...]:
        """The tokens of those markers that are one token."""
        encoded = (self._tokenizer.encode(m, add_special_tokens=False) for m in markers)
        return tuple(ids[0] for ids in encoded if len(ids) == 1)

    def reply_form(self, use: ToolUse, own: Grammar | None, prompt: str | None) -> ReplyForm:
        """What a request asks of its reply; ``own`` is its grammar of the text.

        Raises:
            InvalidRequest: calls are wanted, but nobody knows how this model writes them.
        """
        form = self.reasoning.form if self.reasoning is not None else None
        thinking = Thinking()
        if isinstance(form, ThinkFormat) and not form.shown:
            thinking = Thinking(
                form=form,
                inside=bool(self.thinking_at_end(prompt)),
                over=prompt is not None and prompt.rstrip().endswith(form.close),
                close_ids=tuple(self._tokenizer.encode(form.close, add_special_tokens=False)),
            )
        found = ReplyForm(
            use=use,
            own=own,
            native=self.tools,
            special_texts=self._special_texts,
            channels=self.tools is not None and self.tools.form is HARMONY,
            thinking=thinking,
        )
        if use.tools and found.family is None:
            raise InvalidRequest(
                "tools: the chat template does not tell how this model writes tool calls; start "
                "the server with --tool-call-parser, or force a call with tool_choice",
                param="tools",
            )
        return found

    def parsing(self, form: ReplyForm, prompt: str | None, *, separate_reasoning: bool) -> Parsing:
        """What to find in the outputs of a request."""
        tools = form.family if form.use.tools else None
        reasoning = self.reasoning
        channels = reasoning is not None and isinstance(reasoning.form, ChannelFormat)
        if (channels and tools is LISTED) or not (separate_reasoning or channels):
            reasoning = None
        return Parsing(
            tools=tools,
            reasoning=reasoning,
            descriptions=form.use.tools,
            in_reasoning=self.thinking_at_end(prompt),
            max_calls=form.use.max_calls,
            json_reply=form.wants_json,
            shown_ids=self._shown_ids(tools, reasoning),
        )

    def _shown_ids(
        self, tools: ToolFamily | None, reasoning: ReasoningFamily | None
    ) -> frozenset[int]:
        """Special tokens that are a part of a marker."""
        forms = [family.form for family in (tools, reasoning) if family is not None]
        markers = tuple(marker for form in forms for marker in form.markers)
        found = self._shown.get(markers)
        if found is None:
            found = frozenset(
                token_id
                for token_id, text in self._special.items()
                if any(text in marker for marker in markers)
            )
            self._shown[markers] = found
        return found


class ParsedStream:
    """A ``TextStream`` whose text is parsed, token by token.

    So the result, and the number of tokens that were thoughts, do not depend on how many tokens the
    engine sends at a time.

    Attributes:
        reasoning_tokens: tokens of the thoughts, markers included.
        over: whether all calls that are wanted are complete; what follows does not count.
    """

    def __init__(self, stream: TextStream, parsing: Parsing) -> None:
        self._stream = stream
        self._parser = parsing.parser()
        self._events: list[Event] = []
        self._ids: set[str] = set()
        self.reasoning_tokens = 0
        self.over = False

    @property
    def matched_stop(self) -> str | None:
        """What ended the text."""
        return self._stream.matched_stop

    def push(self, ids: Sequence[int]) -> TextDelta:
        """Take the next ids, up to the end of the output."""
        texts: list[str] = []
        for count, token_id in enumerate(ids, start=1):
            thinking = self._parser.thinking
            found = self._stream.push((token_id,))
            texts.append(found.text)
            self._events += self._parser.push(found.text)
            self.reasoning_tokens += thinking or self._parser.thinking
            self.over = self._parser.over
            if found.matched_stop is not None or self.over:
                return TextDelta("".join(texts), count, found.matched_stop)
        return TextDelta("".join(texts), len(ids))

    def finish(self) -> str:
        """Give out what was held back, at the end of the output."""
        text = self._stream.finish()
        self._events += self._parser.push(text)
        return text

    def events(self, *, last: bool) -> list[Event]:
        """What was found since the last time; with ``last`` all that is left.

        An id that the model gives to a second call is not kept there.
        """
        if last:
            self._events += self._parser.finish()
        events, self._events = self._events, []
        return [self._with_own_id(event) for event in events]

    def _with_own_id(self, event: Event) -> Event:
        if not isinstance(event, CallStart) or event.id is None:
            return event
        if event.id in self._ids:
            return replace(event, id=None)
        self._ids.add(event.id)
        return event


def stops_early(params: SamplingParams, parsing: Parsing | None) -> bool:
    """Whether the server may end an output before the engine does, and so must see each token."""
    return params.stops_on_text or (parsing is not None and parsing.max_calls is not None)
