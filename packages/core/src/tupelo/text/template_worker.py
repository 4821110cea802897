"""The process in which chat templates run. Started by ``templates``, by path; not to be imported.

A chat template is a program that somebody else wrote: the author of a checkpoint, or a client.
Here it gets Jinja2's immutable sandbox, tightened, in a process that has nothing to steal, may
not open files or start processes, and is killed when it takes too long.

Requests and replies are JSON behind a 4-byte length, on standard input and output. The process
ends when its input does. Needs Jinja2 and the standard library alone, not even Tupelo: it starts
in a fraction of a second.
"""

import contextlib
import json
import re
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from types import FunctionType
from typing import Any, BinaryIO, NoReturn

import jinja2
from jinja2 import nodes, sandbox
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, LoopContext, Macro
from jinja2.utils import Namespace

_MAX_MESSAGE_CHARS = 500
_LENGTH = struct.Struct(">I")
_DATA = (str, int, float, bool, list, tuple, dict, type(None))
_PROBE = "tupelo-probe-text"


class RaisedByTemplateError(Exception):
    """The template called ``raise_exception``."""


class OutputTooLargeError(Exception):
    """The rendering grew past its limit."""


# --- the sandbox --------------------------------------------------------------------------------


class _Generation(Extension):
    """``{% generation %}``: marks what the assistant wrote, for training; here only its content."""

    tags = {"generation"}  # noqa: RUF012  declared mutable by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Sandbox(sandbox.ImmutableSandboxedEnvironment):
    """Jinja2's immutable sandbox, tightened in two ways.

    A forbidden attribute is an error at once, where Jinja2 gives an undefined value that prints
    as nothing. Only macros, methods of plain data and a handful of named functions can be called.
    """

    def unsafe_undefined(self, obj: Any, attribute: str) -> NoReturn:
        raise SecurityError(
            f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe."
        )

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Pass the current error on; Jinja2 would load code to rewrite its traceback."""
        raise

    def is_safe_callable(self, obj: Any) -> bool:
        if not super().is_safe_callable(obj):
            return False
        if isinstance(obj, Macro | LoopContext | BlockReference) or obj in _CALLABLE:
            return True
        if isinstance(obj, FunctionType):  # strftime_now, and the sandbox's own str.format
            return obj.__globals__.get("__name__") in (__name__, "jinja2.sandbox")
        return isinstance(getattr(obj, "__self__", None), (*_DATA, LoopContext, datetime))


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """``tojson`` as model authors expect it: plain JSON, neither escaped for HTML nor sorted."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: Any) -> NoReturn:
    raise RaisedByTemplateError(str(message))


def _environment() -> _Sandbox:
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
        cache_size=0,
    )
    environment.globals.clear()
    environment.globals.update(
        range=sandbox.safe_range,
        dict=dict,
        namespace=Namespace,
        raise_exception=_raise_exception,
    )
    environment.filters["tojson"] = _to_json
    return environment


_CALLABLE = frozenset({sandbox.safe_range, dict, Namespace, _raise_exception})
_SANDBOX = _environment()


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    return _SANDBOX.from_string(source)


# --- rendering ----------------------------------------------------------------------------------


def _render(request: dict[str, Any], template: jinja2.Template) -> str:
    now = datetime.fromisoformat(request["now"])

    def strftime_now(pattern: str) -> str:
        return now.strftime(pattern)

    limit = int(request["max_output_bytes"])
    size = 0
    parts = []
    for part in template.generate({**request["variables"], "strftime_now": strftime_now}):
        size += len(part) if part.isascii() else len(part.encode("utf-8", "surrogatepass"))
        if size > limit:
            raise OutputTooLargeError
        parts.append(part)
    return "".join(parts)


@lru_cache(maxsize=32)
def _content_forms(source: str) -> tuple[bool, bool]:
    """Whether the template takes message contents as a string, and as a list of parts.

    Found by trying: a message is rendered in both forms, and each counts as understood if its
    text, and nothing of the list around it, comes out. A template that refuses to render the
    trial (it may want tools, or a system message) takes strings.
    """
    as_text = _trial(source, _PROBE)
    as_parts = _trial(source, [{"type": "text", "text": _PROBE}])
    parts = as_parts is not None and _PROBE in as_parts and not _shows_list(as_parts)
    text = as_text is None or _PROBE in as_text or not parts
    return text, parts


@lru_cache(maxsize=32)
def _takes_objects(source: str) -> bool:
    """Whether the template takes the arguments of a tool call as an object, not as JSON text.

    Found by trying, too: most write objects as JSON or as tags, some can only append text.
    """

    def trial(arguments: Any) -> str | None:
        function = {"name": "f", "arguments": arguments}
        call = {"id": "abcDEF123", "type": "function", "function": function}
        messages = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "x", "tool_call_id": "abcDEF123", "name": "f"},
        ]
        parameters = {"type": "object", "properties": {"a": {"type": "string"}}}
        tool = {"name": "f", "description": "x", "parameters": parameters}
        return _render_trial(source, messages, [{"type": "function", "function": tool}])

    as_object = trial({"a": _PROBE})
    if as_object is not None and _PROBE in as_object and f"'{_PROBE}'" not in as_object:
        return True
    as_text = trial(json.dumps({"a": _PROBE}))
    return as_text is None or _PROBE not in as_text


def _trial(source: str, content: Any) -> str | None:
    return _render_trial(source, [{"role": "user", "content": content}])


def _render_trial(source: str, messages: list[Any], tools: list[Any] | None = None) -> str | None:
    variables: dict[str, Any] = {
        "messages": messages,
        "tools": tools,
        "documents": None,
        "add_generation_prompt": False,
        "bos_token": "",
        "eos_token": "",
    }
    request = {"now": "2025-01-01T00:00:00", "max_output_bytes": 1 << 20, "variables": variables}
    try:
        return _render(request, _compiled(source))
    except Exception:  # any failure of somebody else's program means: not understood
        return None


def _shows_list(rendered: str) -> bool:
    return bool(re.search(rf"['\"]text['\"]\s*:\s*['\"]{_PROBE}", rendered))


def _fit_messages(source: str, messages: Any) -> Any:
    """Messages with each content, and each call's arguments, in a form that the template takes."""
    if not isinstance(messages, list):
        return messages
    takes_text, takes_parts = _content_forms(source)
    fitted = []
    for message in messages:
        if isinstance(message, dict) and isinstance(message.get("tool_calls"), list):
            message = {**message, "tool_calls": _fit_calls(source, message["tool_calls"])}
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and not takes_parts:
            message = {**message, "content": _joined(content)}
        elif isinstance(content, str) and not takes_text:
            message = {**message, "content": [{"type": "text", "text": content}]}
        fitted.append(message)
    return fitted


def _fit_calls(source: str, calls: list[Any]) -> list[Any]:
    """Tool calls whose arguments are text where the template does not take objects."""
    if _takes_objects(source):
        return calls
    fitted = []
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict):
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            call = {**call, "function": {**function, "arguments": arguments}}
        fitted.append(call)
    return fitted


def _joined(parts: list[Any]) -> str:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"the chat template takes text only, got a part of type {kind!r}")
    return "\n".join(texts)


def _answer(request: dict[str, Any]) -> dict[str, str]:
    """The rendering, or what went wrong: ``{"text": …}`` or ``{"error": …, "message": …}``."""
    try:
        template = _compiled(request["template"])
        variables = request["variables"]
        variables["messages"] = _fit_messages(request["template"], variables["messages"])
        return {"text": _render(request, template)}
    except RaisedByTemplateError as error:
        return {"error": "raised", "message": str(error)[:_MAX_MESSAGE_CHARS]}
    except jinja2.TemplateSyntaxError as error:
        return {"error": "syntax", "message": _clean(f"{error.message} (line {error.lineno})")}
    except SecurityError as error:
        return {"error": "unsafe", "message": _clean(str(error))}
    except OutputTooLargeError:
        return {"error": "size", "message": ""}
    except MemoryError:
        return {"error": "memory", "message": ""}
    except RecursionError:
        return {"error": "depth", "message": ""}
    except Exception as error:  # somebody else's program may raise anything
        return {"error": "failed", "message": _clean(f"{type(error).__name__}: {error}")}


def _clean(message: str) -> str:
    """No addresses, and no more than a few lines."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", message)[:_MAX_MESSAGE_CHARS]


# --- the process --------------------------------------------------------------------------------


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Die if this takes far more of a processor than the parent, who would kill us, allows."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _give_up_rights(memory_bytes: int) -> None:
    """No files to write or open, no processes, a bounded address space, no core dumps."""
    import resource

    limits = {
        "RLIMIT_AS": memory_bytes,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": 3,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
    }
    for name, value in limits.items():
        kind = getattr(resource, name, None)
        if kind is not None:
            with contextlib.suppress(OSError, ValueError):  # not every system has every limit
                resource.setrlimit(kind, (value, value))


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    def send(reply: dict[str, Any]) -> None:
        data = json.dumps(reply).encode()
        sink.write(_LENGTH.pack(len(data)) + data)
        sink.flush()

    send({"ready": True})
    while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
        request = json.loads(source.read(_LENGTH.unpack(head)[0]))
        with _alarm(2 * float(request["time_limit_s"]) + 1):
            reply = _answer(request)
        send(reply)


def _warm_up() -> None:
    """Load what the first rendering would, while files may still be opened."""
    warm: Callable[..., Any] = _compiled
    warm("{{ [1] | tojson }}{{ strftime_now('%d %b') }}{% for i in [1] %}{% endfor %}")
    _trial("{{ messages | tojson }}{{ strftime_now('%d %b %Y') }}", _PROBE)
    _compiled.cache_clear()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm_up()
    _give_up_rights(int(sys.argv[1]))
    _serve(sys.stdin.buffer, sys.stdout.buffer)
