"""What a program's function is given: the state that it appends to and reads from."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tupelo.errors import ProgramError
from tupelo.lang.content import Message
from tupelo.lang.ir import (
    Expr,
    InRole,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    as_expr,
)
from tupelo.lang.stream import Stream
from tupelo.lang.values import Feed, Variable


class Roles:
    """The forms of role blocks that a state has: ``s.user("…")`` and ``with s.user():``."""

    def append(self, value: object) -> None:
        """Append a text, a number or an expression."""
        raise NotImplementedError

    def __iadd__(self, value: object) -> "Roles":
        self.append(value)
        return self

    def system(self, content: object = None) -> Any:
        """A system message; without content a block for ``with``."""
        return self._in_role("system", content)

    def user(self, content: object = None) -> Any:
        """A user's message; without content a block for ``with``."""
        return self._in_role("user", content)

    def assistant(self, content: object = None) -> Any:
        """The assistant's message; without content a block for ``with``."""
        return self._in_role("assistant", content)

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """A block whose whole text becomes a variable."""
        self.append(ScopeBegin(name))
        yield
        self.append(ScopeEnd())

    def _in_role(self, role: str, content: object) -> Any:
        if content is None:
            return self._role_block(role)
        self.append(InRole(role, as_expr(content)))
        return None

    @contextmanager
    def _role_block(self, role: str) -> Iterator[None]:
        self.append(RoleBegin(role))
        yield
        self.append(RoleEnd(role))


class ProgramState(Roles):
    """The state of a program while it runs, and its result afterwards.

    ``s += expr`` returns at once; reading a variable waits until the model has made it.

    Attributes:
        ret_value: what the function returned.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.ret_value: Any = None

    def append(self, value: object) -> None:
        """Append a text, a number or an expression.

        Raises:
            ProgramError: it cannot stand here, or the backend cannot do it.
        """
        self.stream.append(as_expr(value))

    def __iadd__(self, value: object) -> "ProgramState":
        self.append(value)
        return self

    def fork(
        self, size: int = 1, position_ids_offset: Sequence[int] | None = None
    ) -> "ProgramStateGroup":
        """Branches that go on from here at the same time; what they share is computed once.

        Raises:
            ProgramError: no branches, or offsets of positions, which the servers know nothing of.
        """
        if position_ids_offset is not None:
            raise ProgramError("fork(position_ids_offset=…): positions always count on; leave it")
        if size < 1:
            raise ProgramError(f"fork({size}): there must be at least one branch")
        return ProgramStateGroup([ProgramState(one) for one in self.stream.fork(size)], self)

    @contextmanager
    def copy(self, size: int = 1) -> Iterator["ProgramState"]:
        """A branch for a block; its variables are lists here afterwards."""
        group = self.fork(size)
        yield group[0]
        group.join()

    # Reading

    def __getitem__(self, name: str) -> Any:
        """The value of a variable; waits for it.

        Raises:
            KeyError: nothing sets it. BaseException: why the model did not.
        """
        return self._variable(name).get()

    def __setitem__(self, name: str, value: Any) -> None:
        self.stream.declare(name).set(value)

    def __contains__(self, name: object) -> bool:
        return name in self.stream.variables

    def get_var(self, name: str) -> Any:
        """``s[name]``."""
        return self[name]

    def set_var(self, name: str, value: Any) -> None:
        """``s[name] = value``."""
        self[name] = value

    def variables(self) -> dict[str, Any]:
        """All variables; waits for them."""
        return {name: variable.get() for name, variable in self.stream.variables.items()}

    def get_meta_info(self, name: str) -> Any:
        """What the backend tells of the call that set a variable; a list where it had samples.

        Raises:
            KeyError: nothing sets it. BaseException: why the model did not.
        """
        variable = self._variable(name)
        variable.get()
        return variable.meta

    def text(self) -> str:
        """All text so far; of a conversation, as the model reads it. Waits for it.

        Raises:
            BaseException: why it did not come so far.
        """
        return self.stream.family.backend.render(self._settled().content.prompt())

    def messages(self) -> list[Message]:
        """The conversation so far, as OpenAI's API has it. Waits for it.

        Raises:
            BaseException: why it did not come so far.
        """
        return self._settled().content.prompt().all_messages

    def text_iter(self, var_name: str | None = None) -> Iterator[str]:
        """Pieces of a variable's text, or of all text, as they come (``run(stream=True)``).

        Raises:
            KeyError: the program does not set it. BaseException: why it did not go on.
        """
        return iter(self._feed(var_name))

    async def text_async_iter(
        self, var_name: str | None = None, return_meta_data: bool = False
    ) -> AsyncIterator[Any]:
        """``text_iter`` for an event loop.

        Args:
            return_meta_data: give pairs of piece and what the backend tells, which is known at the
                end: the last pair has an empty piece.
        """
        import asyncio

        feed = await asyncio.to_thread(self._feed, var_name)
        async for piece in feed:
            yield (piece, None) if return_meta_data else piece
        if return_meta_data and var_name is not None:
            yield "", self._variable(var_name).meta

    def sync(self) -> None:
        """Wait until the model has done all that was appended."""
        self.stream.sync()

    def error(self) -> BaseException | None:
        """Why the model did not do all, in this state or a branch; None if it did. Waits for it."""
        self.stream.sync_all()
        if self.stream.error is not None:
            return self.stream.error
        found = (child.error for child in _descendants(self.stream) if child.error is not None)
        return next(found, None)

    def _settled(self) -> Stream:
        self.stream.sync()
        if self.stream.error is not None:
            raise self.stream.error
        return self.stream

    def _variable(self, name: str) -> Variable:
        variables = self.stream.variables
        if name not in variables:
            self.stream.await_declaration(name)
        if name not in variables:
            known = ", ".join(variables) or "none"
            raise KeyError(f"{name!r}: no expression sets it; variables are {known}")
        return variables[name]

    def _feed(self, name: str | None) -> Feed:
        return self.stream.feed if name is None else self._variable(name).feed


class ProgramStateGroup:
    """The branches of a fork."""

    def __init__(self, states: list[ProgramState], source: ProgramState) -> None:
        self.states = states
        self._source = source

    def join(self, mode: str = "gather_variable") -> None:
        """Bring the branches back into the state that was forked.

        Args:
            mode: ``gather_variable``: what they set becomes lists there. ``concate_and_append``:
                what they said is appended there, one after the other.

        Raises:
            ProgramError: there is no such mode.
        """
        streams = [state.stream for state in self.states]
        if mode == "gather_variable":
            self._source.stream.gather(streams)
        elif mode == "concate_and_append":
            self._source.stream.append_from(streams)
        else:
            raise ProgramError(
                f"join(mode={mode!r}): must be gather_variable or concate_and_append"
            )

    def append(self, value: object) -> None:
        """Append to every branch: the same, or of a list one each, or what a function of the
        branch's number makes.

        Raises:
            ProgramError: a list of another length.
        """
        if callable(value) and not isinstance(value, Expr):
            values = [value(index) for index in range(len(self))]
        elif isinstance(value, list | tuple):
            values = list(value)
        else:
            values = [value] * len(self)
        if len(values) != len(self):
            raise ProgramError(f"{len(values)} values for {len(self)} branches")
        for state, one in zip(self.states, values, strict=True):
            state.append(one)

    def __iadd__(self, value: object) -> "ProgramStateGroup":
        self.append(value)
        return self

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[ProgramState]:
        return iter(self.states)

    def __getitem__(self, index: int) -> ProgramState:
        return self.states[index]

    def __setitem__(self, index: int, state: ProgramState) -> None:
        """Makes ``branches[i] += …`` work, which puts back the state that it appended to."""
        if state is not self.states[index]:
            raise ProgramError("a branch cannot be replaced by another state")


def _descendants(stream: Stream) -> Iterator[Stream]:
    for child in stream.children:
        yield child
        yield from _descendants(child)
