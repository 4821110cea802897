"""The sessions of a server: whose they are, how much they may hold, and how requests join them.

A session keeps token ids, nothing else: a request that goes on from an earlier one is an ordinary
request for all the ids together, and finds their K/V in the prefix cache, or computes them again.
Sessions belong to the caller that opened them; to others their ids are free.
"""

import asyncio
import secrets
import time
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from tupelo.errors import InvalidRequest
from tupelo.text.tokenizer import Tokenizer
from tupelo_server.generation import Job, Prompt
from tupelo_server.protocol.sessions import SessionParams, sessions_of
from tupelo_server.session_tree import RECORD_TOKENS, Node, Session

_INLINE_TOKENS = 2000
"""Up to here the text of ids is made on the event loop: it takes less time than a change of
threads."""

_END_LIMIT_S = 5.0
"""For the end of a request that was aborted."""

Abort = Callable[[Iterable[str]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """What the sessions of one caller may take.

    Attributes:
        count: sessions open at a time. num_tokens: tokens of all of them, and ``RECORD_TOKENS`` a
            request. idle_s: seconds without a request after which one is closed.
    """

    count: int = 1024
    num_tokens: int = 16 << 20
    idle_s: float = 3600.0


@dataclass(eq=False, slots=True)
class Turn:
    """A request that joins a session.

    Attributes:
        prompt: all that it reads. parent, kept: see ``Node``.
        replaced: what it takes the place of.
    """

    sessions: "Sessions"
    owner: str
    session: Session
    prompt: Prompt
    parent: Node | None = None
    kept: int = 0
    replaced: Sequence[Node] = ()
    node: Node | None = None

    async def begin(self, rid: str, live: str) -> None:
        """It begins, under its client's id ``rid`` and the engine's ``live``.

        Raises:
            InvalidRequest: the session has changed since, or has a request of this id; or the
                caller's sessions hold too much.
        """
        session, parent = self.session, self.parent
        if not session.open or not (parent is None or session.holds(parent)):
            raise InvalidRequest(
                "session_params: the session was closed, or the earlier request replaced, just now",
                param="session_params",
            )
        own = array("i", self.prompt.ids[self.kept :])
        running = session.remove([node for node in self.replaced if session.holds(node)])
        self.sessions.check_room(self.owner, len(own))
        node = Node(rid, parent, self.kept, own, len(own), live)
        session.add(node)
        self.node = node
        if running:
            await self.sessions.abort(running)

    def add(self, ids: Sequence[int]) -> None:
        """Output that was handed out."""
        assert self.node is not None, "a turn begins before it has output"
        self.session.extend(self.node, ids)

    def end(self, *, keep: bool) -> None:
        """It ended, whether it began or not; without ``keep`` the session forgets it."""
        if self.node is not None:
            self.session.end(self.node, keep=keep)


@dataclass(eq=False, slots=True)
class _Owned:
    """The sessions of one caller, by the names that it gave them."""

    sessions: dict[str, Session] = field(default_factory=dict)

    def num_tokens(self) -> int:
        return sum(session.num_tokens for session in self.sessions.values())


class Sessions:
    """All sessions. Used by the event loop alone."""

    def __init__(self, tokenizer: Tokenizer, abort: Abort, limits: SessionLimits) -> None:
        """None yet. ``abort`` ends requests by the engine's ids."""
        self._tokenizer = tokenizer
        self.abort = abort
        self._limits = limits
        self._owned: dict[str, _Owned] = {}

    @property
    def count(self) -> int:
        """Sessions that are open."""
        return sum(len(owned.sessions) for owned in self._owned.values())

    @property
    def num_tokens(self) -> int:
        """Tokens that they hold; see ``SessionLimits``."""
        return sum(owned.num_tokens() for owned in self._owned.values())

    def open(
        self, owner: str, name: str | None, *, capacity_chars: int, timeout_s: float | None
    ) -> str:
        """Open a session, closed after ``timeout_s`` without a request; returns its id.

        Raises:
            InvalidRequest: the caller has one of this id, or too many, or asks for too long.
        """
        owned = self._owned.get(owner) or _Owned()
        if name in owned.sessions:
            raise InvalidRequest(
                "session_id: a session of this id is open; close it, or give another",
                param="session_id",
            )
        if len(owned.sessions) >= self._limits.count:
            raise InvalidRequest(
                f"{len(owned.sessions)} sessions are open, as many as one key may have "
                "(--max-sessions); close one first",
                code="too_many_sessions",
            )
        limit_s = self._limits.idle_s
        if timeout_s is not None and not 0 < timeout_s <= limit_s:
            raise InvalidRequest(
                f"timeout: got {timeout_s:g}; must be above 0 and at most {limit_s:g} s, the "
                "server's --session-timeout-s",
                param="timeout",
            )
        name = name or secrets.token_hex(16)
        session = Session(capacity_chars, timeout_s or limit_s)
        owned.sessions[name] = session
        self._owned[owner] = owned
        self._watch(owner, name, session)
        return name

    def check_room(self, owner: str, num_tokens: int) -> None:
        """Refuse a request that adds so many tokens, where the caller's sessions hold too much.

        Raises:
            InvalidRequest: they do.
        """
        held, added = self._owned[owner].num_tokens(), num_tokens + RECORD_TOKENS
        if held + added > self._limits.num_tokens:
            raise InvalidRequest(
                f"session_params: the open sessions hold {held} of {self._limits.num_tokens} "
                f"tokens (--max-session-tokens), too many for {added} more; close one first",
                param="session_params",
                code="sessions_full",
            )

    def close(self, owner: str, name: str) -> None:
        """Forget a session of this caller; none is no error. Its running requests go on, and
        nothing of them is kept."""
        owned = self._owned.get(owner)
        session = owned.sessions.pop(name, None) if owned else None
        if owned is not None and not owned.sessions:
            del self._owned[owner]
        if session is not None:
            session.open = False
            if session.timer is not None:
                session.timer.cancel()
            session.remove(session.roots())

    def clear(self) -> None:
        """Close all of them."""
        for owner, owned in list(self._owned.items()):
            for name in list(owned.sessions):
                self.close(owner, name)

    async def turn(self, owner: str, place: SessionParams, prompt: Prompt) -> Turn:
        """What a request reads that joins a session with ``prompt``.

        Replacing a running request ends it first: its output so far stays.

        Raises:
            InvalidRequest: no such session or request, one that still runs, an offset beyond it, or
                more text than the session may have.
        """
        session = self._find(owner, place.id)
        parent, kept, replaced, ids = None, 0, list[Node](), prompt.ids
        if place.rid:
            parent = session.find(place.rid)
            await self._ended(parent, replaced=place.replace)
            replaced = list(parent.children) if place.replace else []
            kept = _kept(parent, place)
            if ids[:1] == (self._tokenizer.bos_token_id,):
                ids = ids[1:]
            prompt = Prompt(parent.ids(kept) + ids)
        elif place.offset or place.drop_previous_output:
            raise InvalidRequest(
                "session_params: offset and drop_previous_output say what is kept of an earlier "
                "request, and rid names none",
                param="session_params",
            )
        elif place.replace:
            replaced = session.roots()
        await self._check_capacity(session, prompt.ids)
        return Turn(self, owner, session, prompt, parent, kept, replaced)

    async def turns(
        self,
        params: dict[str, Any] | list[dict[str, Any]] | None,
        owner: str,
        prompts: Sequence[Prompt],
    ) -> list[Turn | None]:
        """A turn for each prompt whose ``session_params`` name a session.

        Raises:
            InvalidRequest: see ``turn``; or ``params`` are wrong.
        """
        places = sessions_of(params, len(prompts))
        return [
            None if place is None else await self.turn(owner, place, prompt)
            for place, prompt in zip(places, prompts, strict=True)
        ]

    async def seat(self, job: Job, owner: str, params: dict[str, Any] | None) -> Job:
        """``job`` as it joins the session that its ``session_params`` name, if they do.

        Raises:
            InvalidRequest: see ``turns``; or it asks for several samples.
        """
        (turn,) = await self.turns(params, owner, [job.prompt])
        return job if turn is None else seated(replace(job, prompt=turn.prompt), turn)

    def _find(self, owner: str, name: str) -> Session:
        owned = self._owned.get(owner)
        session = owned.sessions.get(name) if owned else None
        if session is None:
            raise InvalidRequest(
                "session_params.id: no such session is open; see /open_session",
                param="session_params",
            )
        return session

    async def _ended(self, node: Node, *, replaced: bool) -> None:
        """Make sure that a request does not run. One whose reply nobody reads ends when somebody
        does: what was handed out until then is its output.

        Raises:
            InvalidRequest: it does, and is not to be replaced.
        """
        if node.live and not replaced:
            raise InvalidRequest(
                "session_params.rid: the request still runs; wait for its end, or set replace",
                param="session_params",
            )
        if node.live and node.ended is not None:
            await self.abort([node.live])
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_LIMIT_S):
                    await node.ended.wait()

    async def _check_capacity(self, session: Session, ids: Sequence[int]) -> None:
        """Refuse a prompt of more characters than the session may have."""
        tokenizer, capacity = self._tokenizer, session.capacity_chars
        if len(ids) * (tokenizer.longest_token + 1) <= capacity:
            return
        known = [token for token in ids if 0 <= token < tokenizer.vocab_size]

        def text() -> str:
            return tokenizer.decode_unchecked(known, skip_special_tokens=False)

        short = len(known) <= _INLINE_TOKENS
        found = len(text() if short else await asyncio.to_thread(text))
        if found > capacity:
            raise InvalidRequest(
                f"session_params: with this the session's text would have {found} characters; its "
                f"capacity_of_str_len is {capacity}",
                param="session_params",
            )

    def _watch(self, owner: str, name: str, session: Session) -> None:
        """Close a session that nothing was asked of for its ``timeout_s``."""
        idle_s = 0.0 if session.num_running else time.monotonic() - session.used_s
        if idle_s >= session.timeout_s:
            self.close(owner, name)
        else:
            left_s = session.timeout_s - idle_s
            loop = asyncio.get_running_loop()
            session.timer = loop.call_later(left_s, self._watch, owner, name, session)


def seated(job: Job, turn: Turn | None) -> Job:
    """``job`` with its place in a session.

    Raises:
        InvalidRequest: it asks for several samples.
    """
    if turn is not None and job.params.n != 1:
        raise InvalidRequest("n: in a session a request has one sample", param="n")
    return replace(job, turn=turn)


def _kept(node: Node, place: SessionParams) -> int:
    """Tokens of an earlier request that a later one goes on from.

    Raises:
        InvalidRequest: the offset lies beyond them.
    """
    total = node.num_prompt if place.drop_previous_output else node.num_tokens
    if not -total <= place.offset <= total:
        raise InvalidRequest(
            f"session_params.offset: got {place.offset}; what it counts in has {total} tokens",
            param="session_params",
        )
    return place.offset if place.offset > 0 else total + place.offset
