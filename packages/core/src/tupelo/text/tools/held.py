"""Text that is held back until it is known whether it is a part of the reply.

Both filters are fed the text in order, give out what is sure, and give out or drop the rest where
a call begins or the output ends. What they give out does not depend on how the text was cut.
"""

from tupelo.text.tools.source import SPACE

_ENDS = ".!?…。！？"
_CLOSERS = "\"'”’)]*_"
_MAX_LEAD_IN = 240
_FENCES = ("```json\n", "```\n")
_FENCE_END = "```"


class LeadIn:
    """Drops the sentence that introduces a call.

    That is the one before the call, if it is not finished (``The result is: {…}``) or stands on a
    line before it. So text waits until its sentence is over and the next one begins; a sentence of
    more than 240 characters introduces nothing.
    """

    def __init__(self) -> None:
        self._held = ""
        self._long = self._ended = self._space = self._line = False

    def push(self, text: str) -> str:
        """Take more text; what is sure to be a part of the reply."""
        begin = -1
        for at, char in enumerate(text):
            if char in SPACE:
                self._space = True
                self._line = self._line or char == "\n"
                continue
            if self._line or (self._space and self._ended):
                begin = at
            self._space = self._line = False
            self._ended = char in _ENDS or (self._ended and char in _CLOSERS)
        if begin >= 0:
            sure, self._held = self._held + text[:begin], text[begin:]
            self._long = False
        else:
            sure, self._held = "", self._held + text
        if self._long or len(self._held) > _MAX_LEAD_IN:
            sure, self._held, self._long = sure + self._held, "", True
        return sure

    def end(self, *, call: bool) -> str:
        """A call begins, or the output ends: what was held back, if it is a part of the reply."""
        introduces = call and (self._line or not self._ended)
        held, self._held = self._held, ""
        return "" if introduces else held


class Fence:
    """Takes a code fence off a reply that is nothing but JSON in one."""

    def __init__(self) -> None:
        self._space: list[str] = []
        self._ahead = ""
        self._fenced: bool | None = None
        self._tail: list[str] = []
        self._ticks = 0

    def push(self, text: str) -> str:
        """Take more text; what is sure to be a part of the reply."""
        if self._fenced is None:
            begun = text if self._ahead else text.lstrip(SPACE)
            self._space.append(text[: len(text) - len(begun)])
            self._ahead += begun
            if any(fence.startswith(self._ahead) for fence in _FENCES if fence != self._ahead):
                return ""
            text = self._open()
        return self._inside(text) if self._fenced else text

    def end(self, *, call: bool) -> str:
        """A call begins, or the output ends: what was held back, without the fence."""
        if self._fenced is None:
            if self._ahead:
                return self._open()
            space = "".join(self._space)
            self._space.clear()
            return space
        held, is_end = "".join(self._tail), self._ticks == len(_FENCE_END)
        self._tail.clear()
        self._ticks = 0
        return "" if is_end else held

    def _open(self) -> str:
        """Decide whether the reply begins with a fence; what came behind it."""
        fence = next(filter(self._ahead.startswith, _FENCES), "")
        self._fenced = bool(fence)
        return self._ahead[len(fence) :] if fence else "".join(self._space) + self._ahead

    def _inside(self, text: str) -> str:
        """Hold back what may be the closing fence, and white space around it."""
        sure: list[str] = []
        for char in text:
            if char in SPACE:
                closes = self._ticks in (0, len(_FENCE_END))
            else:
                closes = char == "`" and self._ticks < len(_FENCE_END)
                closes = closes and not (self._ticks and self._tail[-1] != "`")
            if not closes:
                sure += self._tail
                self._tail.clear()
                self._ticks = 0
            if char in SPACE or char == "`":
                self._tail.append(char)
                self._ticks += char == "`"
            else:
                sure.append(char)
        return "".join(sure)


Held = LeadIn | Fence
"""What may stand between the machines and the events."""
