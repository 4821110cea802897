"""API keys: kept as digests, compared in constant time, and what a key allows."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

from tupelo_server.access import Access


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Attributes:
        owner: digest of the key, or "" for everybody without one.
        access: the highest level that the caller may use; PUBLIC where a key is missing.
        known: whether a key that the server knows was sent.
    """

    owner: str
    access: Access
    known: bool


class KeyRing:
    """The server's keys."""

    def __init__(
        self, user_keys: Sequence[str], admin_keys: Sequence[str], *, open_admin: bool = False
    ) -> None:
        """Keep digests of the keys. Without user keys everybody is a user.

        Args:
            open_admin: users are administrators too; for a server that only this machine reaches.
        """
        self._levels: list[tuple[bytes, Access]] = []
        self._has_users = bool(user_keys)
        self.has_admin = bool(admin_keys) or open_admin
        self._user = Access.USER if admin_keys else Access.OPERATOR
        if open_admin:
            self._user = Access.ADMIN
        self._levels += [(_digest(key.encode()), self._user) for key in user_keys]
        self._levels += [(_digest(key.encode()), Access.ADMIN) for key in admin_keys]

    @property
    def num_keys(self) -> int:
        """How many keys open the server."""
        return len(self._levels)

    def caller(self, key: bytes) -> Caller:
        """Who has this key; takes equally long whichever it is."""
        given = _digest(key)
        owner, access = "", Access.PUBLIC if self._has_users else self._user
        for digest, level in self._levels:  # all of them, so that time tells nothing
            if hmac.compare_digest(digest, given):
                owner, access = digest.hex(), level
        return Caller(owner, access, bool(owner))


def bearer(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The key of an ``Authorization: Bearer`` header, else of ``X-API-Key``, which Anthropic's
    clients send; or nothing."""
    named = b""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            named = value.strip()
    return named


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
