"""What an engine in this process and a server of Tupelo share: tokens, scores, prefixes."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from tupelo.lang.backends.base import Backend, Completion
from tupelo.lang.choices import ChoiceScores
from tupelo.lang.content import Message, Prompt
from tupelo.lang.options import Sampling, split
from tupelo.lang.seams import seam

Reply = dict[str, Any]

_ONLY_COMPUTE: Sampling = {"max_new_tokens": 0, "temperature": 0.0}


class NativeBackend(Backend):
    """A backend that takes ids and tells log-probabilities, as ``/generate`` does.

    A conversation is rendered by the model's own chat template, whole, each time: templates may
    look at all of it.
    """

    caches = True
    marks_thoughts = True

    @abstractmethod
    def encode_texts(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids of texts; ``special``: with what the model wants around a text."""

    @abstractmethod
    def decode_ids(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens included."""

    @abstractmethod
    def render_ids(self, messages: Sequence[Message], *, opens: bool, continues: bool) -> list[int]:
        """Ids of a conversation.

        Args:
            opens: end with the opening of the assistant's turn.
            continues: leave the last message open.
        """

    @abstractmethod
    def call(self, **body: Any) -> list[Reply]:
        """Replies to a body of ``/generate``, a list also of one."""

    @abstractmethod
    def call_stream(self, **body: Any) -> Iterator[Reply]:
        """Cumulative replies to a body of ``/generate`` with one prompt."""

    def complete(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """Go on with a prompt; one completion for each of ``n`` samples."""
        params, beside = split(sampling)
        replies = self.call(**self._input(prompt), sampling_params=params, **beside)
        return [Completion(reply["text"], reply["meta_info"]) for reply in replies]

    def complete_stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Completion]:
        """Go on with a prompt; pieces of one completion as they come."""
        params, beside = split(sampling)
        body = {**self._input(prompt), "sampling_params": params, **beside}
        length = 0
        for reply in self.call_stream(**body):
            text = reply["text"]
            yield Completion(text[length:], reply["meta_info"])
            length = len(text)

    def score(
        self, prompt: Prompt, choices: Sequence[str], *, unconditional: bool
    ) -> list[ChoiceScores]:
        """Log-probabilities of each choice behind a prompt; see ``ChoiceScores``."""
        text, special = prompt.text, True
        if prompt.chat:
            text, special = self.decode_ids(self._ids(prompt)), False
        before, *lists = self.encode_texts([text, *(text + c for c in choices)], special=special)
        begin = seam(before, lists)
        given = self._logprobs(lists, begin)
        alone: list[tuple[float, ...]] = [()] * len(lists)
        if unconditional:
            (framing,) = self.encode_texts([""], special=True)
            alone = self._logprobs([framing + ids[begin:] for ids in lists], len(framing))
        return [
            ChoiceScores(tuple(ids[begin:]), logprobs, by_itself)
            for ids, logprobs, by_itself in zip(lists, given, alone, strict=True)
        ]

    def prefill(self, prompt: Prompt) -> None:
        """Have a prompt computed that others will begin with."""
        if prompt.chat and not prompt.all_messages:
            return
        if prompt.chat:
            self.call(input_ids=self._ids(prompt, opens=False), sampling_params=_ONLY_COMPUTE)
        elif prompt.text:
            self.call(text=prompt.text, sampling_params=_ONLY_COMPUTE)

    def render(self, prompt: Prompt) -> str:
        """A prompt as the text that the model reads."""
        return self.decode_ids(self._ids(prompt, opens=False)) if prompt.chat else prompt.text

    def _input(self, prompt: Prompt) -> dict[str, Any]:
        return {"input_ids": self._ids(prompt)} if prompt.chat else {"text": prompt.text}

    def _ids(self, prompt: Prompt, *, opens: bool = True) -> list[int]:
        """Ids of a conversation; ``opens``: so that the assistant can begin."""
        speaks = prompt.role == "assistant"
        begun = speaks and bool(prompt.begun)
        return self.render_ids(
            prompt.all_messages, opens=opens and speaks and not begun, continues=begun
        )

    def _logprobs(self, lists: Sequence[list[int]], begin: int) -> list[tuple[float, ...]]:
        """Log-probability of each id from ``begin`` on, given those before it."""
        replies = self.call(
            input_ids=list(lists),
            sampling_params=_ONLY_COMPUTE,
            return_logprob=True,
            logprob_start_len=begin,
        )
        rows = [reply["meta_info"]["input_token_logprobs"] for reply in replies]
        return [tuple(value or 0.0 for value, *_ in found) for found in rows]
