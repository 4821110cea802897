"""What may stand where in a program: checked when it is appended, before a model sees any of it."""

from dataclasses import dataclass, replace

from tupelo.errors import ProgramError
from tupelo.lang.backends.base import Place
from tupelo.lang.ir import ROLES, Gen, RoleBegin, RoleEnd, Seen, Select, Step, Text, Unknown


@dataclass(frozen=True)
class Shape:
    """Where a program is, as far as it was appended.

    Attributes:
        chat: it uses roles; None while nothing tells.
        role: of the open message. begun: that holds something.
    """

    chat: bool | None = None
    role: str | None = None
    begun: bool = False

    @property
    def place(self) -> Place:
        """Where the next step would stand."""
        return Place(chat=bool(self.chat), role=self.role, begun=self.begun)

    def skips(self, step: Step | Unknown) -> bool:
        """Whether a step adds nothing: white space between messages."""
        return isinstance(step, Text) and bool(self.chat) and not self.role and step.text.isspace()

    def after(self, step: Step | Unknown) -> "Shape":
        """Where the program is behind a step.

        Raises:
            ProgramError: the step cannot stand here.
        """
        match step:
            case RoleBegin(role):
                return self._opened(role)
            case RoleEnd(role):
                if role != self.role:
                    raise ProgramError(f"{role}_end() closes no message of that role")
                return replace(self, role=None, begun=False)
            case Text(""):
                return self
            case Text() | Gen() | Select() | Seen() | Unknown():
                return self._filled(step)
        return self

    def _opened(self, role: str) -> "Shape":
        if role not in ROLES:
            raise ProgramError(f"there is no role {role!r}; there are {', '.join(ROLES)}")
        if self.role is not None:
            raise ProgramError(f"a message of {role} begins inside one of {self.role}: end that")
        if self.chat is False:
            raise ProgramError(
                f"a message of {role} comes after text without a role; put all text into messages, "
                "or use no roles"
            )
        return Shape(chat=True, role=role)

    def _filled(self, step: Step | Unknown) -> "Shape":
        if self.chat and self.role is None:
            raise ProgramError(
                f"{_named(step)} stands between messages; put it into one, such as "
                f"assistant({_named(step)})"
            )
        if isinstance(step, Gen | Select) and self.role not in (None, "assistant"):
            raise ProgramError(f"{_named(step)} is for the assistant's messages: assistant(…)")
        if isinstance(step, Gen) and step.tools and (self.role != "assistant" or self.begun):
            raise ProgramError("gen(tools=…) must be the first thing in assistant(…)")
        if isinstance(step, Seen) and self.role is None:
            raise ProgramError(f"{step.media.kind}() belongs into a message, such as user(…)")
        return replace(self, chat=bool(self.chat), begun=self.role is not None)


def _named(step: Step | Unknown) -> str:
    match step:
        case Text(text):
            return repr(text if len(text) <= 40 else text[:37] + "...")
        case Gen():
            return "gen(…)"
        case Select():
            return "select(…)"
    return "that"
