"""The port to accounts: sessions and credentials, which are rows and no events.

A session's id is known here by its hash only, so that who reads the store cannot become somebody.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec


class SessionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A session as stored; whether it still counts is for the reader to say."""

    id_hash: bytes
    """Digest of the id that the cookie carries."""
    user_id: str
    """Whose it is."""
    csrf_token: str
    """What a request that changes something must repeat."""
    created_at: datetime
    """When it began."""
    expires_at: datetime
    """From when on it does not count."""
    last_seen_at: datetime
    """When it was used last, roughly."""
    revoked_at: datetime | None
    """When it was ended before its time."""


class AccountStore(Protocol):
    """Sessions and credentials.

    Every write may be repeated.  `StoreUnavailableError` means: do so; it may have happened.
    """

    async def put_session(
        self, id_hash: bytes, user_id: str, csrf_token: str, expires_at: datetime
    ) -> None:
        """Begin a session; one that is there already stays as it is."""

    async def find_session(self, id_hash: bytes) -> SessionRow | None:
        """Read a session, expired and revoked ones too."""

    async def touch_session(
        self, id_hash: bytes, last_seen_at: datetime, expires_at: datetime
    ) -> None:
        """Note that a session was used, and until when it counts now; a revoked one stays."""

    async def revoke_session(self, id_hash: bytes) -> None:
        """End a session; one that was revoked keeps its time."""

    async def revoke_sessions_of(self, user_id: str) -> None:
        """End every session of a user."""

    async def sweep_sessions(self, *, limit: int) -> int:
        """Forget sessions that expired over a week ago, at most ``limit``; tell how many went.

        Until then an expired one is still told from one that never was.
        """

    async def put_credential(self, user_id: str, password_hash: str) -> None:
        """Set a user's password hash."""

    async def find_credential(self, user_id: str) -> str | None:
        """Read a user's password hash."""

    async def delete_credential(self, user_id: str) -> None:
        """Forget a user's password hash."""
