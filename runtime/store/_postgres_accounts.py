"""Sessions, credentials and keys on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from dalsegno.runtime._account_store import KeyRow, SessionRow, TicketRow

from ._sql import array
from ._statements import fetch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from ._pools import Pools
    from ._rows import Row

RowT = TypeVar("RowT", bound=msgspec.Struct)


class PostgresAccounts:
    """An `AccountStore` on the connections of a store."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    async def put_session(
        self,
        id_hash: bytes,
        user_id: str,
        csrf_token: str,
        expires_at: datetime,
        *,
        refresh_key: bytes | None = None,
    ) -> None:
        """Begin a session; see `AccountStore.put_session`."""
        await fetch(
            self._pools.writing,
            "put_session",
            id_hash.hex(),
            user_id,
            csrf_token,
            expires_at.isoformat(),
            None if refresh_key is None else refresh_key.hex(),
        )

    async def find_session(self, id_hash: bytes) -> SessionRow | None:
        """Read a session; see `AccountStore.find_session`."""
        rows = await fetch(self._pools.reading, "find_session", id_hash.hex())
        return _read(SessionRow, rows[0]) if rows else None

    async def touch_session(
        self, id_hash: bytes, last_seen_at: datetime, expires_at: datetime
    ) -> None:
        """Record that a session was used; see `AccountStore.touch_session`."""
        await fetch(
            self._pools.writing,
            "touch_session",
            id_hash.hex(),
            last_seen_at.isoformat(),
            expires_at.isoformat(),
        )

    async def rotate_session(
        self, id_hash: bytes, generation: int, rotated_at: datetime, expires_at: datetime
    ) -> bool:
        """Move a refresh token on; see `AccountStore.rotate_session`."""
        moved = await fetch(
            self._pools.writing,
            "rotate_session",
            id_hash.hex(),
            str(generation),
            rotated_at.isoformat(),
            expires_at.isoformat(),
        )
        return bool(moved)

    async def revoke_session(self, id_hash: bytes) -> None:
        """Revoke a session; see `AccountStore.revoke_session`."""
        await fetch(self._pools.writing, "revoke_session", id_hash.hex())

    async def revoke_sessions_of(self, user_id: str, *, keep: bytes | None = None) -> None:
        """Revoke a user's sessions; see `AccountStore.revoke_sessions_of`."""
        await fetch(self._pools.writing, "revoke_sessions_of", user_id, (keep or b"").hex())

    async def evict_sessions(self, user_id: str, *, keep: int) -> list[bytes]:
        """Revoke a user's oldest sessions; see `AccountStore.evict_sessions`."""
        rows = await fetch(self._pools.writing, "evict_sessions", user_id, str(keep))
        return [bytes(row[0]) for row in rows]

    async def find_ended(self, id_hashes: Sequence[bytes]) -> list[bytes]:
        """Return which sessions have ended; see `AccountStore.find_ended`."""
        asked = array([id_hash.hex() for id_hash in id_hashes])
        rows = await fetch(self._pools.reading, "find_ended_sessions", asked)
        return [bytes(row[0]) for row in rows]

    async def find_revoked(self, within_s: float) -> list[bytes]:
        """Return what was revoked of late; see `AccountStore.find_revoked`."""
        rows = await fetch(self._pools.reading, "find_revoked", str(within_s))
        return [bytes(row[0]) for row in rows]

    async def sweep_sessions(self, *, limit: int) -> int:
        """Delete sessions that expired long ago; see `AccountStore.sweep_sessions`."""
        return len(await fetch(self._pools.maintenance, "sweep_sessions", str(limit)))

    async def put_credential(self, user_id: str, password_hash: str) -> None:
        """Set a user's password hash; see `AccountStore.put_credential`."""
        await fetch(self._pools.writing, "put_credential", user_id, password_hash)

    async def find_credential(self, user_id: str) -> str | None:
        """Read a user's password hash; see `AccountStore.find_credential`."""
        rows = await fetch(self._pools.reading, "find_credential", user_id)
        return str(rows[0][0]) if rows else None

    async def delete_credential(self, user_id: str) -> None:
        """Delete a user's password hash; see `AccountStore.delete_credential`."""
        await fetch(self._pools.writing, "delete_credential", user_id)

    async def put_key(self, row: KeyRow, *, keys_max: int) -> bool:
        """Record a key; see `AccountStore.put_key`."""
        put = await fetch(
            self._pools.writing,
            "put_api_key",
            row.key_id,
            row.workspace_id,
            row.name,
            row.created_by,
            None if row.expires_at is None else row.expires_at.isoformat(),
            row.digest.hex(),
            row.connection.hex(),
            str(keys_max),
        )
        return bool(put) or await self.find_key(row.key_id) is not None

    async def find_key(self, key_id: str) -> KeyRow | None:
        """Read a key; see `AccountStore.find_key`."""
        rows = await fetch(self._pools.reading, "find_api_key", key_id)
        return _read(KeyRow, rows[0]) if rows else None

    async def list_keys(self, workspace_id: str, *, after: str, limit: int) -> list[KeyRow]:
        """Read a workspace's keys; see `AccountStore.list_keys`."""
        rows = await fetch(self._pools.reading, "list_api_keys", workspace_id, after, str(limit))
        return [_read(KeyRow, row) for row in rows]

    async def touch_key(self, key_id: str, last_used_at: datetime) -> None:
        """Record that a key was used; see `AccountStore.touch_key`."""
        await fetch(self._pools.writing, "touch_api_key", key_id, last_used_at.isoformat())

    async def rotate_key(self, key_id: str, digest: bytes, *, keep: bool) -> bool:
        """Give a key another secret; see `AccountStore.rotate_key`."""
        kept = "true" if keep else "false"
        return bool(await fetch(self._pools.writing, "rotate_api_key", key_id, digest.hex(), kept))

    async def drop_previous_key(self, key_id: str) -> None:
        """End the previous secret; see `AccountStore.drop_previous_key`."""
        await fetch(self._pools.writing, "drop_previous_api_key", key_id)

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; see `AccountStore.revoke_key`."""
        await fetch(self._pools.writing, "revoke_api_key", key_id)

    async def put_ticket(self, row: TicketRow, *, tickets_max: int) -> bool:
        """Record a ticket; see `AccountStore.put_ticket`."""
        put = await fetch(
            self._pools.writing,
            "put_ticket",
            row.digest.hex(),
            row.path,
            row.user_id,
            row.session_hash.hex(),
            None if row.session_expires_at is None else row.session_expires_at.isoformat(),
            "true" if row.is_renewable else "false",
            row.expires_at.isoformat(),
            str(tickets_max),
        )
        return bool(put)

    async def take_ticket(self, digest: bytes) -> TicketRow | None:
        """Take a ticket out; see `AccountStore.take_ticket`."""
        rows = await fetch(self._pools.writing, "take_ticket", digest.hex())
        return _read(TicketRow, rows[0]) if rows else None

    async def sweep_tickets(self, *, limit: int) -> int:
        """Delete tickets that expired; see `AccountStore.sweep_tickets`."""
        return len(await fetch(self._pools.maintenance, "sweep_tickets", str(limit)))


def _read(type_: type[RowT], row: Row) -> RowT:
    """Return a row whose columns are the struct's fields, in their order."""
    return type_(**dict(zip(type_.__struct_fields__, row, strict=True)))
