"""The port to accounts: sessions, credentials, keys and tickets, which are rows and no events.

Only digests of secrets are stored, so that nobody can use a session or a key by reading the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session as stored, whether it is still valid or not."""

    id_hash: bytes
    """The digest of the secret that the cookie, or each of its tokens, carries."""
    user_id: str
    """The user who logged in."""
    csrf_token: str
    """The token that every request with the cookie which changes something must repeat."""
    created_at: datetime
    """When the session began."""
    expires_at: datetime
    """When the session stops being valid."""
    last_seen_at: datetime
    """When the session was last used, to within a minute."""
    revoked_at: datetime | None
    """When the session was ended early; None if it was not."""
    refresh_key: bytes | None = None
    """What its tokens are made with; None where it is in a cookie."""
    generation: int = 1
    """Of the last refresh token that was given."""
    rotated_at: datetime | None = None
    """When it was; None for the first."""


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as stored, whether it is still valid or not."""

    key_id: str
    """What a key shows of itself: it is no secret."""
    workspace_id: str
    """Where it is a member, if it still is."""
    name: str
    created_by: str
    """The user who made it."""
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    last_used_at: datetime | None
    """When it was last used, to within an hour."""
    revoked_at: datetime | None
    digest: bytes
    """SHA-256 of its secret …"""
    previous: bytes | None
    """… and of the one before, while that is valid too."""
    connection: bytes
    """By which its sockets are closed, as by a session's ``id_hash``."""


class TicketRow(msgspec.Struct, frozen=True, kw_only=True):
    """A ticket that has not been used."""

    digest: bytes
    """SHA-256 of its text."""
    path: str
    """What it opens."""
    user_id: str
    """Who made it …"""
    session_hash: bytes
    """… the digest of what was shown for that, empty if nobody ends it before its time …"""
    session_expires_at: datetime | None
    """… and when that ends by itself; None: never."""
    is_renewable: bool
    """Whether its socket may go on with another token."""
    expires_at: datetime
    """Until when it may be used."""


class AccountStore(Protocol):
    """Sessions, credentials, the keys of programs, and tickets.

    Every write may be repeated.  After a `StoreUnavailableError` it may have happened: repeat it.
    """

    async def put_session(
        self,
        id_hash: bytes,
        user_id: str,
        csrf_token: str,
        expires_at: datetime,
        *,
        refresh_key: bytes | None = None,
    ) -> None:
        """Begin a session; one that exists already stays as it is."""

    async def find_session(self, id_hash: bytes) -> SessionRow | None:
        """Read a session, expired and revoked ones too."""

    async def touch_session(
        self, id_hash: bytes, last_seen_at: datetime, expires_at: datetime
    ) -> None:
        """Record that a session was used, and when it expires now, unless it was revoked."""

    async def rotate_session(
        self, id_hash: bytes, generation: int, rotated_at: datetime, expires_at: datetime
    ) -> bool:
        """Move a session's refresh token on from a generation, unless the session was revoked.

        Returns:
            False where it was, or where somebody else has moved it.

        """

    async def revoke_session(self, id_hash: bytes) -> None:
        """Revoke a session; one that was revoked before keeps its time."""

    async def revoke_sessions_of(self, user_id: str, *, keep: bytes | None = None) -> None:
        """Revoke every session of a user, but for the one to ``keep``."""

    async def evict_sessions(self, user_id: str, *, keep: int) -> list[bytes]:
        """Revoke a user's oldest sessions beyond so many that are valid; return which."""

    async def find_ended(self, id_hashes: Sequence[bytes]) -> list[bytes]:
        """Return which of some sessions, or connections of keys, were revoked, or are gone."""

    async def find_revoked(self, within_s: float) -> list[bytes]:
        """Return the sessions, and connections of keys, that were revoked in the last seconds.

        By the store's clock; in any order, some of them perhaps twice.
        """

    async def sweep_sessions(self, *, limit: int) -> int:
        """Delete at most ``limit`` sessions that expired over a week ago; return how many.

        Until then an expired session can still be told from one that never existed.
        """

    async def put_credential(self, user_id: str, password_hash: str) -> None:
        """Set a user's password hash."""

    async def find_credential(self, user_id: str) -> str | None:
        """Read a user's password hash."""

    async def delete_credential(self, user_id: str) -> None:
        """Delete a user's password hash."""

    async def put_key(self, row: KeyRow, *, keys_max: int) -> bool:
        """Record a key; one of this id stays as it is.

        Returns:
            Whether it is there now; not if its workspace has as many that are not revoked.

        """

    async def find_key(self, key_id: str) -> KeyRow | None:
        """Read a key, expired and revoked ones too."""

    async def list_keys(self, workspace_id: str, *, after: str, limit: int) -> list[KeyRow]:
        """Read a workspace's keys that were not revoked, in the order of their ids."""

    async def touch_key(self, key_id: str, last_used_at: datetime) -> None:
        """Record that a key was used."""

    async def rotate_key(self, key_id: str, digest: bytes, *, keep: bool) -> bool:
        """Give a key another secret; with ``keep`` the present one stays valid as the previous.

        Returns:
            False for a key that was revoked, or is none.

        """

    async def drop_previous_key(self, key_id: str) -> None:
        """End the previous secret of a key."""

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; one that was revoked before keeps its time."""

    async def put_ticket(self, row: TicketRow, *, tickets_max: int) -> bool:
        """Record a ticket; return False if its user has as many that have not expired."""

    async def take_ticket(self, digest: bytes) -> TicketRow | None:
        """Take a ticket out, expired or not: of all that ask, one gets it."""

    async def sweep_tickets(self, *, limit: int) -> int:
        """Delete at most ``limit`` tickets that expired over an hour ago; return how many."""
