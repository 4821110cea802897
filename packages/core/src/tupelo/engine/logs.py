"""How every process of ours logs: as lines of text or of JSON, without secrets and paths.

A record may carry ``extra={"fields": {...}}``: named values, which stand behind the message in text
and as members of the object in JSON. With ``extra={"private": True}`` the messages of its exception
are left out, for they may quote a request; the types and places stay.
"""

import json
import logging
import re
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

FORMATS = ("text", "json")
HIDDEN = "***"
_MIN_SECRET = 6
"""A shorter secret would hide half of the log."""

_PLACES = re.compile(r'File "[^"]*/(?:site-packages|src|lib/python[0-9.]+)/')
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9}
_CONTROLS[10] = "\\n"
_CONTROLS |= {c: f"\\u{c:04x}" for c in (0x2028, 0x2029, *range(0x202A, 0x202F))}
_CONTROLS |= {c: f"\\u{c:04x}" for c in range(0x2066, 0x206A)}
"""What terminals obey, what ends a line for some reader, what turns the direction of writing."""

_PLAIN = re.compile(r"[^\s=\"]*")
"""A text that stands in a line without quotes."""


def set_up_logging(
    level: str, form: str = "text", *, process: str, secrets: Sequence[str] = ()
) -> None:
    """Log to standard error.

    Args:
        level: "debug" to "error". form: one of ``FORMATS``. process: named in each line.
        secrets: texts that no line shows.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(form, process=process, secrets=secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class LineFormatter(logging.Formatter):
    """A record as one line; a traceback follows in text, and is a member in JSON."""

    def __init__(self, form: str, *, process: str, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._json = form == "json"
        self._process = process
        self._secrets = [secret for secret in secrets if len(secret) >= _MIN_SECRET]

    def format(self, record: logging.LogRecord) -> str:
        """The line. Control characters of a message are escaped, so that nothing forges a line."""
        fields: dict[str, Any] = getattr(record, "fields", {})
        trace = self._trace(record)
        if self._json:
            text = json.dumps(
                {
                    "time": self._time(record),
                    "level": record.levelname.lower(),
                    "process": self._process,
                    "logger": record.name,
                    "message": record.getMessage(),
                    **fields,
                    **({"trace": trace} if trace else {}),
                },
                ensure_ascii=False,
                default=str,
            ).translate({code: f"\\u{code:04x}" for code in _CONTROLS})
        else:
            message = record.getMessage()
            for name, value in fields.items():
                plain = isinstance(value, str) and _PLAIN.fullmatch(value)
                shown = value if plain else json.dumps(value, ensure_ascii=False, default=str)
                message += f" {name}={shown}"
            message = message.translate(_CONTROLS)
            head = f"{self._time(record)} {record.levelname} {self._process} {record.name}"
            text = f"{head}: {message}" + (f"\n{trace}" if trace else "")
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def _trace(self, record: logging.LogRecord) -> str:
        """The exception, with the files named from their packages on."""
        if not record.exc_info:
            return ""
        error = record.exc_info[1]
        if error is not None and getattr(record, "private", False):
            text = "\n".join(_places_of(error))
        else:
            text = self.formatException(record.exc_info)
        return _PLACES.sub('File "', text)

    def _time(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}.{int(record.msecs):03d}Z"


def _places_of(error: BaseException) -> Iterator[str]:
    """An exception and those before it: types and places."""
    before = error.__cause__ or error.__context__
    if before is not None:
        yield from _places_of(before)
        yield "which led to:"
    yield "".join(traceback.format_list(traceback.extract_tb(error.__traceback__))).rstrip()
    yield f"{type(error).__qualname__} (its message is shown with --log-level debug)"
