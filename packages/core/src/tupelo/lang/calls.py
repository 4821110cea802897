"""One call of the model, from what the program asked to what its variables get."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tupelo.lang.backends.base import Backend, Completion
from tupelo.lang.choices import Decision
from tupelo.lang.content import Prompt, Turns
from tupelo.lang.ir import Gen, Select
from tupelo.lang.options import Sampling
from tupelo.lang.thoughts import ThoughtSplitter
from tupelo.lang.tools import answer_with_tools
from tupelo.lang.values import Feed


@dataclass(frozen=True)
class Call:
    """A call that is about to be made."""

    backend: Backend
    prompt: Prompt
    gen: Gen


@dataclass(frozen=True)
class Done:
    """What came of a call.

    Attributes:
        text: what joins the state's text.
        values: of the variables that the call sets, in their order.
        meta: what the backend tells; a list where there are several samples.
        turns: messages that come before the text. streamed: the text is in the feeds already.
    """

    text: str
    values: tuple[Any, ...]
    meta: Any
    turns: Turns | None = None
    streamed: bool = False


def call_model(call: Call, feeds: Sequence[Feed]) -> Done:
    """Make a call.

    Args:
        feeds: of the state, of the variable and of its thoughts: where pieces go as they come; none
            where nobody waits for pieces.
    """
    gen, sampling = call.gen, call.gen.sampling
    if gen.tools:
        answer = answer_with_tools(call.backend, call.prompt, gen)
        parsed = gen.parse(answer.text) if gen.parse else answer.text
        return Done(answer.text, (parsed,), answer.meta, answer.turns)
    if gen.reasoning is not None and call.backend.marks_thoughts:
        sampling = {**sampling, "skip_special_tokens": False}
    if feeds and sampling.get("n", 1) == 1 and gen.visible is None:
        return _stream(call, sampling, feeds)
    completions = call.backend.complete(call.prompt, sampling)
    found = [_taken_apart(gen, completion) for completion in completions]
    values = [gen.parse(text) if gen.parse else text for text, _ in found]
    first = found[0][0]
    shown = gen.visible(first) if gen.visible else first
    if sampling.get("n", 1) == 1:
        return Done(shown, (values[0], found[0][1]), completions[0].meta)
    thoughts = [thought for _, thought in found]
    return Done(shown, (values, thoughts), [completion.meta for completion in completions])


def choose(backend: Backend, prompt: Prompt, select: Select) -> Decision:
    """Pick one of the choices."""
    method = select.method
    scored = backend.score(prompt, select.choices, unconditional=method.needs_unconditional)
    decision: Decision = method(select.choices, scored)
    return decision


def _stream(call: Call, sampling: Sampling, feeds: Sequence[Feed]) -> Done:
    """A call whose pieces go into the feeds as they come."""
    gen = call.gen
    splitter = ThoughtSplitter(gen.reasoning)
    text, thoughts = "", ""
    meta: dict[str, Any] = {}
    for piece in call.backend.complete_stream(call.prompt, sampling):
        said, thought = splitter.push(piece.text)
        text, thoughts = text + said, thoughts + thought + piece.reasoning
        meta |= piece.meta
        _put(feeds, said, thought + piece.reasoning)
    said, thought = splitter.finish()
    text, thoughts = text + said, thoughts + thought
    _put(feeds, said, thought)
    value = gen.parse(text) if gen.parse else text
    return Done(text, (value, thoughts), meta, streamed=True)


def _put(feeds: Sequence[Feed], said: str, thought: str) -> None:
    for feed in feeds[:2]:
        feed.put(said)
    for feed in feeds[2:]:
        feed.put(thought)


def _taken_apart(gen: Gen, completion: Completion) -> tuple[str, str]:
    """Answer and thoughts of a whole output."""
    splitter = ThoughtSplitter(gen.reasoning)
    text, thoughts = splitter.push(completion.text)
    rest, more = splitter.finish()
    return text + rest, completion.reasoning + thoughts + more
