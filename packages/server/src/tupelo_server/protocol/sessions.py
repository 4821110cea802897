"""Bodies of ``/open_session`` and ``/close_session``, and what other bodies say of a session."""

from typing import Annotated, Any, ClassVar

from pydantic import Field

from tupelo.request import check_int
from tupelo_server.protocol.fields import Body, Tolerated, each

MAX_CAPACITY = 1 << 53
MAX_NAME_CHARS = 256

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]


class OpenSessionBody(Body):
    """``/open_session``. Streaming sessions, which keep K/V in a slot of the device and can only
    be appended to, are refused."""

    unsupported: ClassVar[Tolerated] = {"streaming": ()}

    capacity_of_str_len: int
    session_id: Name | None = None
    timeout: float | int | None = Field(default=None, description="idle seconds until it is closed")

    @property
    def capacity_chars(self) -> int:
        """Characters that a request may have with all before it.

        Raises:
            InvalidRequest: none, or too many.
        """
        return check_int("capacity_of_str_len", self.capacity_of_str_len, 1, MAX_CAPACITY)


class CloseSessionBody(Body):
    """``/close_session``."""

    unsupported: ClassVar[Tolerated] = {}

    session_id: Name


class SessionParams(Body):
    """Where a request stands in a session: behind the request ``rid``, or at a beginning.

    Attributes:
        offset: of the earlier request's tokens so many are kept; negative counts from the end, 0
            keeps all.
        replace: what went on from ``rid`` is forgotten, without ``rid`` all of the session; what
            of it still runs is aborted.
        drop_previous_output: of the earlier request only the prompt is kept.
    """

    unsupported: ClassVar[Tolerated] = {}

    id: Name
    rid: Name | None = None
    offset: int = 0
    replace: bool = False
    drop_previous_output: bool = False


def session_of(value: dict[str, Any] | None) -> SessionParams | None:
    """``session_params``, checked; null and empty ask for no session.

    Raises:
        SchemaError: a field of it is missing, unknown, or of a wrong type.
    """
    return SessionParams.parse(value) if value else None


def sessions_of(
    value: dict[str, Any] | list[dict[str, Any]] | None, count: int
) -> list[SessionParams | None]:
    """``session_params`` of each of ``count`` prompts.

    Raises:
        SchemaError: see ``session_of``.
        InvalidRequest: a list of another length.
    """
    return [session_of(item) for item in each("session_params", value, count)]
