"""The executor of one state: works steps off in their order, while the program runs ahead.

Each state has a queue. While there is something in it a thread works it off; a state with nothing
to do has none, so that nothing is to be stopped. A fork is a task in its parent's queue that hands
the children their content: they may be filled before, and wait without a thread.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tupelo.errors import ProgramError
from tupelo.lang.backends.base import Backend
from tupelo.lang.calls import Call, call_model, choose
from tupelo.lang.content import Begin, Content, End
from tupelo.lang.ir import (
    Expr,
    Gen,
    RoleBegin,
    RoleEnd,
    ScopeBegin,
    ScopeEnd,
    Seen,
    Select,
    Step,
    Text,
    Unknown,
    flatten,
    names_of,
    with_defaults,
)
from tupelo.lang.options import Sampling
from tupelo.lang.shape import Shape
from tupelo.lang.values import Feed, Variable

logger = logging.getLogger(__name__)

_WORTH_PREFILLING = 64
"""Characters of new prefix below which a fork's branches compute it each for themselves."""


@dataclass(frozen=True)
class Task:
    """Something to do in turn, and what becomes of it where the state has failed."""

    run: Callable[[], None]
    fail: Callable[[BaseException], None]


@dataclass
class Family:
    """What a run's states share.

    Attributes:
        backend: where the model is. sampling: what holds for calls that say nothing else.
        streaming: outputs are wanted as they come. threaded: states have threads of their own.
        errors: what failed in any of them, in its order.
        program: the thread that runs the program's function. over: that has returned.
    """

    backend: Backend
    sampling: Sampling
    streaming: bool = False
    threaded: bool = True
    errors: list[BaseException] = field(default_factory=list)
    program: int = field(default_factory=threading.get_ident)
    over: bool = False


class Stream:
    """The executor of one state.

    Attributes:
        variables: by name, declared when they are appended; a child begins with its parent's.
        feed: the text of the state as it comes.
    """

    def __init__(self, family: Family, parent: "Stream | None" = None) -> None:
        self.family = family
        self.variables: dict[str, Variable] = dict(parent.variables) if parent else {}
        self.feed = Feed()
        self.children: list[Stream] = []
        self.content = Content()
        self.begin_at = 0
        self._shape: Shape = parent._shape if parent else Shape()
        self._scopes: list[tuple[Variable, int]] = []
        self._fresh_chars = 0
        self._error: BaseException | None = None
        self._queue: deque[Task] = deque()
        self._ready = parent is None
        self._working = False
        self._changed = threading.Condition()

    # What the program's thread calls

    def append(self, expr: Expr) -> None:
        """Check an expression, declare its variables, and have it worked off in its turn.

        Raises:
            ProgramError: it cannot stand here, or the backend cannot do it; nothing was appended.
        """
        steps: list[Step] = []
        shape = self._shape
        for step in flatten(expr):
            if isinstance(step, Unknown):
                raise ProgramError(f"{step.name!r} has no value outside of a trace")
            if shape.skips(step):
                continue
            step = with_defaults(step, self.family.sampling)
            self.family.backend.check(step, shape.place)
            shape = shape.after(step)
            steps.append(step)
        self._shape = shape
        for step in steps:
            made = [self.declare(name) for name in names_of(step)]
            self._put(Task(partial(self._do, step, made), partial(_fail_all, made)))

    def declare(self, name: str) -> Variable:
        """A variable that will be set; an older one of that name is no longer seen."""
        made = Variable()
        with self._changed:
            self.variables[name] = made
            self._changed.notify_all()
        return made

    def await_declaration(self, name: str) -> None:
        """Wait until a variable is declared, or none will be any more.

        Only a reader beside a program that runs need wait: the program itself knows its variables.
        """
        if threading.get_ident() != self.family.program:
            with self._changed:
                self._changed.wait_for(lambda: name in self.variables or self.family.over)

    def fork(self, size: int) -> list["Stream"]:
        """Streams that go on from here, each on its own."""
        made = [Stream(self.family, self) for _ in range(size)]
        self.children += made
        self._put(Task(partial(self._hand_over, made), partial(_fail_children, made)))
        return made

    def gather(self, streams: Sequence["Stream"]) -> None:
        """Have each variable that branches set as a list here, in the order of the branches."""
        names = dict.fromkeys(
            name
            for stream in streams
            for name, variable in stream.variables.items()
            if self.variables.get(name) is not variable
        )
        for name in names:
            sources = [s.variables[name] for s in streams if name in s.variables]
            made = self.declare(name)
            self._put(Task(partial(_gather, made, sources), partial(_fail_all, [made])))

    def append_from(self, streams: Sequence["Stream"]) -> None:
        """Append what branches added, one after the other."""
        self._shape = streams[-1]._shape
        self._put(Task(partial(self._take_tails, streams), lambda error: None))

    def sync(self) -> None:
        """Wait until all that was appended is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready and not self._queue and not self._working)

    def finish(self) -> None:
        """The program is over: close the feeds behind what is still to be done."""
        self.family.over = True
        for child in self.children:
            child.finish()
        self._put(Task(self.feed.close, self.feed.close))

    def sync_all(self) -> None:
        """``sync``, and that of all branches."""
        self.sync()
        for child in self.children:
            child.sync_all()

    def fail(self, error: BaseException) -> None:
        """Give up: what is left in the queue is not done."""
        if self._error is None:
            self._error = error
            if error not in self.family.errors:
                self.family.errors.append(error)
            self.feed.close(error)
            for variable, _ in self._scopes:
                variable.fail(error)

    @property
    def error(self) -> BaseException | None:
        """What made this state give up, as far as is known."""
        return self._error

    # The queue

    def _put(self, task: Task) -> None:
        with self._changed:
            self._queue.append(task)
        self._go_on()

    def _begin(self, content: Content) -> None:
        """Take over what the parent has come to."""
        self.content, self.begin_at = content, len(content)
        with self._changed:
            self._ready = True
        self._go_on()

    def _go_on(self) -> None:
        """See to it that somebody works the queue off."""
        with self._changed:
            if self._working or not self._ready or not self._queue:
                self._changed.notify_all()
                return
            self._working = True
        if self.family.threaded:
            threading.Thread(target=self._work_off, name="tupelo-state", daemon=True).start()
        else:
            self._work_off()

    def _work_off(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._working = False
                    self._changed.notify_all()
                    return
                task = self._queue.popleft()
            self._attempt(task)

    def _attempt(self, task: Task) -> None:
        if self._error is None:
            try:
                task.run()
                return
            except Exception as error:  # whatever it is: the program's to see, not this thread's
                logger.debug("a step failed", exc_info=True)
                self.fail(error)
        assert self._error is not None
        task.fail(self._error)

    # What the worker calls

    def _do(self, step: Step, made: list[Variable]) -> None:
        match step:
            case Text(text):
                self._say(text)
            case RoleBegin(role):
                self.content.add(Begin(role))
            case RoleEnd():
                self.content.add(End())
            case Seen(media):
                self.content.add(media)
            case ScopeBegin():
                self._scopes.append((made[0], len(self.content)))
            case ScopeEnd():
                variable, begin = self._scopes.pop()
                variable.set(self.content.text_since(begin))
            case Gen():
                self._generate(step, made)
            case Select():
                self._choose(step, made)

    def _say(self, text: str) -> None:
        self.content.add(text)
        self.feed.put(text)
        self._fresh_chars += len(text)

    def _generate(self, gen: Gen, made: list[Variable]) -> None:
        feeds = (self.feed, *(variable.feed for variable in made))
        call = Call(self.family.backend, self.content.prompt(), gen)
        done = call_model(call, feeds if self.family.streaming else ())
        if done.turns:
            self.content.add(done.turns)
        self.content.add(done.text)
        if not done.streamed:
            self.feed.put(done.text)
        self._fresh_chars = 0
        for variable, value in zip(made, done.values, strict=False):
            variable.set(value, done.meta)

    def _choose(self, select: Select, made: list[Variable]) -> None:
        decision = choose(self.family.backend, self.content.prompt(), select)
        self.content.add(decision.choice)
        self.feed.put(decision.choice)
        self._fresh_chars = 0
        for variable in made:
            variable.set(decision.choice, decision.meta)

    def _hand_over(self, children: Sequence["Stream"]) -> None:
        """Let branches begin; what they share is computed once, before any of them asks."""
        if len(children) > 1 and self._fresh_chars >= _WORTH_PREFILLING:
            self.family.backend.warm(self.content.prompt())
            self._fresh_chars = 0
        for child in children:
            child._begin(self.content.copy())

    def _take_tails(self, streams: Sequence["Stream"]) -> None:
        for stream in streams:
            stream.sync()
            if stream.error is not None:
                raise stream.error
            for event in stream.content.tail(stream.begin_at):
                self.content.add(event)
                if isinstance(event, str):
                    self.feed.put(event)
                    self._fresh_chars += len(event)


def _gather(made: Variable, sources: Sequence[Variable]) -> None:
    values = [source.get() for source in sources]
    made.set(values, [source.meta for source in sources])


def _fail_all(made: Sequence[Variable], error: BaseException) -> None:
    for variable in made:
        variable.fail(error)


def _fail_children(children: Sequence[Stream], error: BaseException) -> None:
    for child in children:
        child.fail(error)
        child._begin(Content())
