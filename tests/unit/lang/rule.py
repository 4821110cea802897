"""A backend without a model: what it says follows from the prompt by a rule."""

import threading
from collections.abc import Iterator

from tupelo.errors import InvalidRequest
from tupelo.lang.backends.base import Backend, Completion
from tupelo.lang.content import Prompt
from tupelo.lang.options import Sampling


class CountingBackend(Backend):
    """Says how many characters it was given, in angle brackets.

    Attributes:
        gate: while it is clear, calls wait; it opens when ``opens_at`` of them do.
        prompts: what was asked, in the order of coming.
        prefixes: what was to be computed ahead. at_once: the most calls that waited together.
    """

    name = "the counter"
    caches = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.opens_at = 1 << 30
        self.prompts: list[Prompt] = []
        self.prefixes: list[Prompt] = []
        self.at_once = 0
        self._lock = threading.Lock()
        self._now = 0

    def complete(self, prompt: Prompt, sampling: Sampling) -> list[Completion]:
        """The number, once the gate is open."""
        with self._lock:
            self.prompts.append(prompt)
            self._now += 1
            self.at_once = max(self.at_once, self._now)
            if self._now >= self.opens_at:
                self.gate.set()
        try:
            assert self.gate.wait(10)
        finally:
            with self._lock:
                self._now -= 1
        if "poison" in self.render(prompt):
            raise InvalidRequest("poison is refused")
        text = f"<{len(self.render(prompt))}>"
        return [Completion(text, {"asked": dict(sampling)}) for _ in range(sampling.get("n", 1))]

    def complete_stream(self, prompt: Prompt, sampling: Sampling) -> Iterator[Completion]:
        """The same, a character at a time."""
        (whole,) = self.complete(prompt, sampling)
        for letter in whole.text:
            yield Completion(letter)
        yield Completion("", whole.meta)

    def prefill(self, prompt: Prompt) -> None:
        """Takes note."""
        self.prefixes.append(prompt)
