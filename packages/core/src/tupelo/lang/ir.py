"""What programs are made of: expressions, which a program appends to its state, and the flat steps
that an interpreter works off.

``gen("x")`` and its like make expressions; ``+`` joins them; ``flatten`` takes them apart. Nothing
here calls a model.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tupelo.errors import ProgramError
from tupelo.lang.media import Media
from tupelo.lang.options import Sampling

ROLES = ("system", "user", "assistant")


class Expr:
    """Anything that can be appended to a state; ``+`` joins expressions and texts."""

    def __add__(self, other: object) -> "Expr":
        return Joined((self, as_expr(other)))

    def __radd__(self, other: object) -> "Expr":
        return Joined((as_expr(other), self))


@dataclass(frozen=True)
class Joined(Expr):
    """Several expressions, one after the other."""

    parts: tuple[Expr, ...]


@dataclass(frozen=True)
class InRole(Expr):
    """An expression as one message of a conversation."""

    role: str
    content: Expr


@dataclass(frozen=True)
class Text(Expr):
    """A text as it stands."""

    text: str


@dataclass(frozen=True)
class Gen(Expr):
    """A call of the model.

    Attributes:
        name: the variable that takes the result; None for none.
        sampling: only what the program set.
        parse: makes the variable's value of the text; None leaves the text.
        visible: makes what joins the state's text of what was generated; None joins all of it.
        tools: Python functions that the model may call. max_tool_rounds: at most so many times.
        tool_choice: "auto", "required" (in the first round), or a function's name.
        reasoning: name of the format of thoughts to split off; None leaves them in the text.
    """

    name: str | None = None
    sampling: Sampling = field(default_factory=dict)
    parse: Callable[[str], Any] | None = None
    visible: Callable[[str], str] | None = None
    tools: tuple[Callable[..., Any], ...] = ()
    max_tool_rounds: int = 8
    tool_choice: str = "auto"
    reasoning: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that it sets."""
        if self.name is None:
            return ()
        if self.reasoning is None:
            return (self.name,)
        return self.name, f"{self.name}_reasoning_content"


@dataclass(frozen=True)
class Select(Expr):
    """A choice among texts, by what the model thinks of each.

    Attributes:
        method: see ``tupelo.lang.choices``.
    """

    name: str | None
    choices: tuple[str, ...]
    method: Any

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that it sets."""
        return () if self.name is None else (self.name,)


@dataclass(frozen=True)
class Seen(Expr):
    """An image or a video."""

    media: Media


@dataclass(frozen=True)
class RoleBegin(Expr):
    """A message begins."""

    role: str


@dataclass(frozen=True)
class RoleEnd(Expr):
    """The message of this role ends."""

    role: str


@dataclass(frozen=True)
class ScopeBegin(Expr):
    """From here on text also goes into a variable."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        """The variables that it sets."""
        return (self.name,)


@dataclass(frozen=True)
class ScopeEnd(Expr):
    """The innermost scope ends."""


Step = Text | Gen | Select | Seen | RoleBegin | RoleEnd | ScopeBegin | ScopeEnd


class Unknown(Expr):
    """A value that is not known while a program is traced: an argument, or a variable's value.

    It can be appended and joined. Python code that needs the value itself ends the trace.

    Attributes:
        name: of the argument or variable.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"Unknown({self.name!r})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks what an object can do: nothing
            raise AttributeError(name)
        raise TraceEnd(self.name)

    def _needed(self, *_: object) -> Any:
        raise TraceEnd(self.name)

    __str__ = __format__ = __bool__ = __int__ = __float__ = __index__ = _needed
    __len__ = __iter__ = __getitem__ = __contains__ = __call__ = _needed
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _needed
    __sub__ = __mul__ = __truediv__ = __mod__ = __rsub__ = __rmul__ = __rtruediv__ = _needed


class TraceEnd(BaseException):
    """A trace can go no further, for the program needs a value. No error, so no ``Exception``."""


def as_expr(value: object) -> Expr:
    """An expression, or a text or number as one.

    Raises:
        ProgramError: anything else.
    """
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, int | float):
        return Text(str(value))
    raise ProgramError(
        f"a program's state takes texts, numbers and expressions such as gen(), not a "
        f"{type(value).__name__}"
    )


def flatten(expr: Expr) -> Iterator[Step | Unknown]:
    """The steps of an expression in their order."""
    match expr:
        case Joined(parts):
            for part in parts:
                yield from flatten(part)
        case InRole(role, content):
            yield RoleBegin(role)
            yield from flatten(content)
            yield RoleEnd(role)
        case (
            Text()
            | Gen()
            | Select()
            | Seen()
            | RoleBegin()
            | RoleEnd()
            | ScopeBegin()
            | ScopeEnd()
            | Unknown()
        ):
            yield expr
        case _:
            raise ProgramError(f"{type(expr).__name__} is no expression of this language")


def with_reasoning(expr: Expr, family: str) -> Expr:
    """The expression with thoughts split off in each of its calls."""
    match expr:
        case Joined(parts):
            return Joined(tuple(with_reasoning(part, family) for part in parts))
        case InRole(role, content):
            return InRole(role, with_reasoning(content, family))
        case Gen():
            return replace(expr, reasoning=family)
    return expr


def names_of(step: Step | Unknown) -> tuple[str, ...]:
    """The variables that a step sets."""
    return step.names if isinstance(step, Gen | Select | ScopeBegin) else ()


def with_defaults(step: Step, sampling: Mapping[str, Any]) -> Step:
    """A call with what holds where it does not say otherwise; any other step as it is."""
    if isinstance(step, Gen):
        return replace(step, sampling={**sampling, **step.sampling})
    return step
