"""What a backend is: something with a model that goes on with a prompt."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tupelo.errors import TupeloError, UnsupportedOperation
from tupelo.lang.choices import ChoiceScores
from tupelo.lang.content import Message, Prompt
from tupelo.lang.ir import Seen, Step
from tupelo.lang.options import Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Completion:
    """What a model said, or a piece of it.

    Attributes:
        text: of a piece what is new, else all.
        meta: what the backend tells of it; of a stream's last piece.
        reasoning: thoughts that the backend itself keeps apart.
    """

    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    reasoning: str = ""


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool: ``arguments`` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Turn:
    """What a model says where it may call tools: text, or calls."""

    text: str
    calls: tuple[ToolCall, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Place:
    """Where in a program a step stands.

    Attributes:
        chat: the program uses roles. role: of the open message, None if none is.
        begun: the open message holds something already.
    """

    chat: bool
    role: str | None
    begun: bool


class Backend(ABC):
    """A model, reached somehow. Safe to use from several threads.

    Attributes:
        name: for messages.
        traced: programs are traced before they run, for there is much that it cannot do.
        caches: prefixes that were computed are found again, by ``prefill`` too.
        marks_thoughts: thoughts come in the text between the model's markers, not apart from it.
    """

    name: str = "backend"
    traced: bool = False
    caches: bool = False
    marks_thoughts: bool = False

    def check(self, step: Step, place: Place) -> None:
        """Refuse a step that this backend cannot do, before anything runs.

        Raises:
            UnsupportedOperation: names the backend, the step and what to do instead.
        """
        if isinstance(step, Seen):
            raise self.cannot(f"{step.media.kind}()", "it reads text only")

    def cannot(self, what: str, why: str) -> UnsupportedOperation:
        """The error that says so."""
        return UnsupportedOperation(f"{self.name} cannot do {what}: {why}")

    @abstractmethod
    def complete(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """Go on with a prompt; one completion for each of ``n`` samples."""

    @abstractmethod
    def complete_stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Completion]:
        """Go on with a prompt; pieces of one completion as they come."""

    def score(
        self, prompt: Prompt, choices: Sequence[str], *, unconditional: bool
    ) -> list[ChoiceScores]:
        """Log-probabilities of each choice behind a prompt; see ``ChoiceScores``."""
        raise self.cannot("select()", "it tells no log-probabilities of given texts")

    def converse(
        self, prompt: Prompt, tools: Sequence[dict[str, Any]], choice: str, sampling: Sampling
    ) -> Turn:
        """The assistant's next turn in a conversation with tools, described as OpenAI does.

        Args:
            choice: "auto", "required", or the name of the one to call.
        """
        raise self.cannot("gen(tools=…)", "it knows no tools")

    def prefill(self, prompt: Prompt) -> None:
        """Have a prompt computed that others will begin with; nothing where that cannot be had."""
        return

    def warm(self, prompt: Prompt) -> None:
        """``prefill`` where that only saves time: what hinders it hinders no program.

        A chat template may refuse the beginning of a conversation that it takes as a whole.
        """
        try:
            self.prefill(prompt)
        except TupeloError as error:
            logger.info("a common prefix was not computed ahead: %s", error)

    def render(self, prompt: Prompt) -> str:
        """A prompt as the text that the model reads."""
        if not prompt.chat:
            return prompt.text
        return "".join(f"{m['role']}: {_text_of(m)}\n" for m in prompt.all_messages)

    def flush_cache(self) -> bool:
        """Empty the prefix cache; whether it was."""
        raise self.cannot("flush_cache()", "its cache is its own business")

    def server_info(self) -> dict[str, Any]:
        """What is known of the server and its options."""
        raise self.cannot("get_server_info()", "it does not tell")

    def close(self) -> None:
        """Let go of connections; the backend is over."""
        return


def _text_of(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content or ())
