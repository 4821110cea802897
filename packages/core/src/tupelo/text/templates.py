"""Renders chat templates: the only place that does.

A template is untrusted (it comes with a checkpoint, or from a client), so it runs in a worker
process of its own (``template_worker``), which is killed when it takes too long. Rendering blocks;
a server calls it from a thread.
"""

import json
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tupelo.errors import TemplateError
from tupelo.process import AskedProcess

_WORKER = Path(__file__).with_name("template_worker.py")
_START_LIMIT_S = 30.0
_PATIENCE = 9
"""Times the limit that a worker may wait for a processor besides, where others keep it from one."""
_MAX_TEMPLATE_CHARS = 1 << 20
_RESERVED = frozenset(
    {
        "messages",
        "tools",
        "tokenize",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "template",
        "raise_exception",
        "strftime_now",
    }
)
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
_MESSAGES = {
    "syntax": "the chat template has a syntax error: {}",
    "unsafe": "the chat template does something that the sandbox forbids: {}",
    "failed": "the chat template cannot render this conversation: {}",
    "size": "the chat template's output is larger than {max_output_bytes} bytes",
    "memory": "the chat template needs more memory than it may have",
    "depth": "the chat template, or the conversation, is nested too deeply",
}


class TemplateRenderer:
    """Renders chat templates in a small pool of worker processes, started as they are needed.

    Safe to use from several threads. ``close`` ends the workers; so does the end of this process.
    """

    def __init__(
        self,
        *,
        time_limit_s: float = 2.0,
        max_output_bytes: int = 8 << 20,
        max_workers: int = 2,
        memory_limit_bytes: int = 512 << 20,
        clock: Callable[[], datetime] = datetime.now,
    ) -> None:
        """Set the limits; no process is started yet.

        Args:
            time_limit_s: for one rendering, from the moment a worker takes it; on a busy machine
                what it has had of a processor counts.
            max_output_bytes: of one rendering, in UTF-8.
            max_workers: renderings at a time; more wait their turn.
            memory_limit_bytes: address space of a worker.
            clock: what ``strftime_now`` in a template reads, in local time.
        """
        self._time_limit_s = time_limit_s
        self._max_output_bytes = max_output_bytes
        self._memory_limit_bytes = memory_limit_bytes
        self._clock = clock
        self._turns = threading.BoundedSemaphore(max_workers)
        self._lock = threading.Lock()
        self._idle: list[AskedProcess] = []
        self._closed = False
        weakref.finalize(self, _end, self._idle)

    def render(
        self,
        template: str,
        *,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt that ``template`` makes of a conversation.

        Args:
            template: Jinja2 source.
            messages: the conversation. A content given as a list of text parts, or as a string,
                is handed over in whichever form the template takes.
            tools: descriptions of the tools, None without any.
            add_generation_prompt: end with the opening of the assistant's turn.
            continue_final_message: leave the last message open, so that the model goes on with
                it; excludes ``add_generation_prompt``.
            template_kwargs: further variables that a client chose, such as ``enable_thinking``.
            variables: further variables that the caller chose, such as ``bos_token``.

        Raises:
            TemplateError: the template fails, refuses the conversation (then with the template's
                own message), breaks the sandbox, or exceeds a limit; or a variable has a
                reserved name.
        """
        if continue_final_message and add_generation_prompt:
            raise TemplateError(
                "add_generation_prompt and continue_final_message exclude each other; "
                "set add_generation_prompt to false to continue the last message"
            )
        values = {"documents": None, **variables, **(template_kwargs or {})}
        for name in values:
            if name in _RESERVED:
                raise TemplateError(f"chat template arguments may not set {name!r}")
        mark = f"continue{secrets.token_hex(12)}" if continue_final_message else ""
        values["messages"] = _with_mark(messages, mark) if mark else messages
        values["tools"] = tools
        values["add_generation_prompt"] = add_generation_prompt
        text = self._run(template, values)
        return _cut_at_mark(text, mark) if mark else text

    def close(self) -> None:
        """End all idle workers; those at work end when they are done. Rendering is over."""
        with self._lock:
            self._closed = True
            _end(self._idle)

    def _run(self, template: str, variables: Mapping[str, Any]) -> str:
        if len(template) > _MAX_TEMPLATE_CHARS:
            raise TemplateError(
                f"the chat template is longer than {_MAX_TEMPLATE_CHARS} characters"
            )
        request = {
            "template": template,
            "variables": variables,
            "now": self._clock().isoformat(),
            "time_limit_s": self._time_limit_s,
            "max_output_bytes": self._max_output_bytes,
        }
        try:
            data = json.dumps(request, default=_plain).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise TemplateError(f"the conversation is no plain data: {error}") from error
        with self._turns:
            reply = self._exchange(data)
        if "text" in reply:
            return str(reply["text"])
        if reply["error"] == "raised":
            raise TemplateError(reply["message"])
        raise TemplateError(
            _MESSAGES[reply["error"]].format(
                reply["message"], max_output_bytes=self._max_output_bytes
            )
        )

    def _exchange(self, data: bytes) -> dict[str, str]:
        """Send one request to a worker; put the worker back only if it answered.

        A worker that dies is replaced once: something else may have killed it.
        """
        for last in (False, True):
            worker = self._take()
            try:
                limit_s = self._time_limit_s
                reply = worker.ask(data, time.monotonic() + limit_s, patience_s=_PATIENCE * limit_s)
            except TimeoutError as error:
                worker.kill()
                raise TemplateError(
                    f"the chat template took longer than {self._time_limit_s:g} s and was stopped"
                ) from error
            except (EOFError, OSError) as error:
                worker.kill()
                if last:
                    raise TemplateError(
                        "the chat template brought its process down (memory or nesting); it was "
                        "stopped"
                    ) from error
                continue
            except BaseException:
                worker.kill()
                raise
            break
        with self._lock:
            kept = not self._closed
            if kept:
                self._idle.append(worker)
        if not kept:
            worker.kill()
        answer: dict[str, str] = json.loads(reply)
        return answer

    def _take(self) -> AskedProcess:
        with self._lock:
            if self._closed:
                raise TemplateError("the template renderer is closed")
            while self._idle:
                worker = self._idle.pop()
                if worker.alive():
                    return worker
                worker.kill()
        return _start(self._memory_limit_bytes)


def _start(memory_limit_bytes: int) -> AskedProcess:
    """A process that is ready to render.

    Raises:
        TemplateError: there is none.
    """
    environment = {k: os.environ[k] for k in _KEPT_ENVIRONMENT if k in os.environ}
    command = [sys.executable, "-P", str(_WORKER), str(memory_limit_bytes)]
    try:
        worker = AskedProcess(command, environment)
    except OSError as error:
        raise TemplateError(f"no process for chat templates: {error.strerror}") from error
    try:
        worker.reply(time.monotonic() + _START_LIMIT_S)
    except (TimeoutError, EOFError, OSError) as error:
        worker.kill()
        raise TemplateError("the process that renders chat templates did not start") from error
    return worker


def _end(workers: list[AskedProcess]) -> None:
    while workers:
        workers.pop().kill()


def _plain(value: Any) -> Any:
    """Mappings and sequences that JSON does not know, as those that it does."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return list(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _with_mark(messages: Sequence[Mapping[str, Any]], mark: str) -> list[Mapping[str, Any]]:
    """Messages with ``mark`` at the end of the last one's text."""
    if not messages:
        raise TemplateError("there is no final message to continue")
    last = dict(messages[-1])
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + mark
    elif isinstance(content, Sequence) and content and isinstance(content[-1], Mapping):
        part = dict(content[-1])
        if not isinstance(part.get("text"), str):
            raise TemplateError("the final message ends in a part that is no text")
        part["text"] += mark
        last["content"] = [*content[:-1], part]
    else:
        raise TemplateError("the final message has no text that could be continued")
    return [*messages[:-1], last]


def _cut_at_mark(text: str, mark: str) -> str:
    place = text.rfind(mark)
    if place < 0:
        raise TemplateError("the chat template does not show the final message, so it cannot go on")
    return text[:place].replace(mark, "")
