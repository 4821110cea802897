"""Requests in the log, with no more of their content than the level asks for.

Level 0 has ids, counts and times; 1 also the sampling parameters; 2 also the beginnings of prompt
and output, and stop strings; 3 all of both. The client's own text is in no line below level 2.
"""

import dataclasses
import logging
from typing import Any

from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Delta, Job

logger = logging.getLogger(__name__)

MAX_LEVEL = 3
_BEGINNING = 2048
"""Characters of a text at level 2."""


class RequestLog:
    """Writes a line as a sample begins and one as it ends.

    Attributes:
        enabled, level: may be changed at any time; they hold for samples that begin afterwards.
    """

    def __init__(self, *, enabled: bool = False, level: int = 0) -> None:
        self.enabled = enabled
        self.level = level

    def begin(self, job: Job, rid: str, tokenizer: Tokenizer) -> "SampleLog | None":
        """A sample begins; None where nothing is logged."""
        wanted = self.enabled and job.logged
        return SampleLog(job, rid, tokenizer, self.level) if wanted else None


class SampleLog:
    """The lines of one sample."""

    def __init__(self, job: Job, rid: str, tokenizer: Tokenizer, level: int) -> None:
        """Write the first line."""
        self._level = level
        self._ids = {"request": rid, "rid": job.rid}
        self._text = ""
        self._last: Delta | None = None
        self._written = False
        fields: dict[str, Any] = {
            **self._ids,
            "stream": job.stream,
            "prompt_tokens": len(job.prompt.ids),
        }
        if level >= 1:
            fields["params"] = _params(job, texts=level >= 2)
        if level >= 2:
            prompt = job.prompt.text
            if prompt is None:
                prompt = tokenizer.decode(list(job.prompt.ids), skip_special_tokens=False)
            fields["prompt"] = self._shown(prompt)
        logger.info("request begins", extra={"fields": fields})

    def add(self, delta: Delta) -> None:
        """Take note of a delta; the last one writes the last line."""
        if self._level >= 2:
            self._text += delta.text
        self._last = delta
        if delta.end is not None:
            self._write(delta, delta.end.reason.value)

    def close(self) -> None:
        """Nothing more comes: the sample ended, or failed, or nobody wants it any more."""
        if not self._written:
            self._write(self._last, "none")

    def _write(self, delta: Delta | None, reason: str) -> None:
        self._written = True
        fields: dict[str, Any] = {**self._ids, "finish_reason": reason}
        if delta is not None:
            fields["completion_tokens"] = delta.completion_tokens
            fields["cached_tokens"] = delta.cached_tokens
            spent = delta.spent or {}
            fields |= {name: round(seconds, 6) for name, seconds in spent.items()}
        if self._level >= 2:
            fields["output"] = self._shown(self._text)
        logger.info("request ends", extra={"fields": fields})

    def _shown(self, text: str) -> str:
        if self._level >= MAX_LEVEL or len(text) <= _BEGINNING:
            return text
        return f"{text[:_BEGINNING]}... ({len(text)} characters)"


def _params(job: Job, *, texts: bool) -> dict[str, Any]:
    """The sampling parameters; of a client's own texts only whether there are any, without
    ``texts``."""
    params = dataclasses.asdict(job.params)
    params["priority"] = job.priority
    params["grammar"] = None if job.grammar is None else str(job.grammar)
    return params if texts else {name: _counted(value) for name, value in params.items()}


def _counted(value: Any) -> Any:
    """A value without text: of a text whether it is there, of a list of texts how many."""
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, list | tuple) and any(isinstance(item, str) for item in value):
        return len(value)
    return value
