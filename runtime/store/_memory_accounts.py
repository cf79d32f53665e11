"""Sessions, credentials and keys in memory, for a runtime on a `MemoryStore`."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import trio

from dalsegno.runtime._account_store import KeyRow, SessionRow, TicketRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from dalsegno.actors import World

_EXPIRED_KEPT = timedelta(days=7)
_TICKETS_KEPT = timedelta(hours=1)


class MemoryAccounts:
    """An `AccountStore` in memory; a cancelled call has done nothing."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sessions: dict[bytes, SessionRow] = {}
        self._credentials: dict[str, str] = {}
        self._keys: dict[str, KeyRow] = {}
        self._tickets: dict[bytes, TicketRow] = {}

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
        await trio.lowlevel.checkpoint()
        now = self._world.now()
        row = SessionRow(
            id_hash=id_hash,
            user_id=user_id,
            csrf_token=csrf_token,
            created_at=now,
            expires_at=expires_at,
            last_seen_at=now,
            revoked_at=None,
            refresh_key=refresh_key,
        )
        self._sessions.setdefault(id_hash, row)

    async def find_session(self, id_hash: bytes) -> SessionRow | None:
        """Read a session; see `AccountStore.find_session`."""
        await trio.lowlevel.checkpoint()
        return self._sessions.get(id_hash)

    async def touch_session(
        self, id_hash: bytes, last_seen_at: datetime, expires_at: datetime
    ) -> None:
        """Record that a session was used; see `AccountStore.touch_session`."""
        await trio.lowlevel.checkpoint()
        row = self._sessions.get(id_hash)
        if row is not None and row.revoked_at is None:
            self._sessions[id_hash] = msgspec.structs.replace(
                row, last_seen_at=max(row.last_seen_at, last_seen_at), expires_at=expires_at
            )

    async def rotate_session(
        self, id_hash: bytes, generation: int, rotated_at: datetime, expires_at: datetime
    ) -> bool:
        """Move a refresh token on; see `AccountStore.rotate_session`."""
        await trio.lowlevel.checkpoint()
        row = self._sessions.get(id_hash)
        if row is None or row.revoked_at is not None or row.generation != generation:
            return False
        self._sessions[id_hash] = msgspec.structs.replace(
            row,
            generation=generation + 1,
            rotated_at=rotated_at,
            last_seen_at=max(row.last_seen_at, rotated_at),
            expires_at=expires_at,
        )
        return True

    async def revoke_session(self, id_hash: bytes) -> None:
        """Revoke a session; see `AccountStore.revoke_session`."""
        await trio.lowlevel.checkpoint()
        row = self._sessions.get(id_hash)
        if row is not None:
            self._revoke(row)

    async def revoke_sessions_of(self, user_id: str, *, keep: bytes | None = None) -> None:
        """Revoke a user's sessions; see `AccountStore.revoke_sessions_of`."""
        await trio.lowlevel.checkpoint()
        for row in self._of_user(user_id):
            if row.id_hash != keep:
                self._revoke(row)

    async def evict_sessions(self, user_id: str, *, keep: int) -> list[bytes]:
        """Revoke a user's oldest sessions; see `AccountStore.evict_sessions`."""
        await trio.lowlevel.checkpoint()
        now = self._world.now()
        valid = [r for r in self._of_user(user_id) if r.revoked_at is None and r.expires_at > now]
        valid.sort(key=lambda row: row.created_at)  # of one moment: in the order they were put
        evicted = valid[: max(len(valid) - keep, 0)]
        for row in evicted:
            self._revoke(row)
        return [row.id_hash for row in evicted]

    async def find_ended(self, id_hashes: Sequence[bytes]) -> list[bytes]:
        """Return which sessions have ended; see `AccountStore.find_ended`."""
        await trio.lowlevel.checkpoint()
        known = {row.id_hash: row.revoked_at for row in self._sessions.values()}
        known |= {row.connection: row.revoked_at for row in self._keys.values()}
        return [id_ for id_ in id_hashes if id_ not in known or known[id_] is not None]

    async def find_revoked(self, within_s: float) -> list[bytes]:
        """Return what was revoked of late; see `AccountStore.find_revoked`."""
        await trio.lowlevel.checkpoint()
        since = self._world.now() - timedelta(seconds=within_s)
        rows = [(row.id_hash, row.revoked_at) for row in self._sessions.values()]
        rows += [(row.connection, row.revoked_at) for row in self._keys.values()]
        return [id_ for id_, revoked_at in rows if revoked_at is not None and revoked_at > since]

    async def sweep_sessions(self, *, limit: int) -> int:
        """Delete sessions that expired long ago; see `AccountStore.sweep_sessions`."""
        await trio.lowlevel.checkpoint()
        expired = sorted(
            (row.expires_at, row.id_hash)
            for row in self._sessions.values()
            if row.expires_at <= self._world.now() - _EXPIRED_KEPT
        )
        for _, id_hash in expired[:limit]:
            del self._sessions[id_hash]
        return min(len(expired), limit)

    async def put_credential(self, user_id: str, password_hash: str) -> None:
        """Set a user's password hash; see `AccountStore.put_credential`."""
        await trio.lowlevel.checkpoint()
        self._credentials[user_id] = password_hash

    async def find_credential(self, user_id: str) -> str | None:
        """Read a user's password hash; see `AccountStore.find_credential`."""
        await trio.lowlevel.checkpoint()
        return self._credentials.get(user_id)

    async def delete_credential(self, user_id: str) -> None:
        """Delete a user's password hash; see `AccountStore.delete_credential`."""
        await trio.lowlevel.checkpoint()
        self._credentials.pop(user_id, None)

    async def put_key(self, row: KeyRow, *, keys_max: int) -> bool:
        """Record a key; see `AccountStore.put_key`."""
        await trio.lowlevel.checkpoint()
        if row.key_id not in self._keys:
            if len(self._keys_of(row.workspace_id)) >= keys_max:
                return False
            made = msgspec.structs.replace(
                row, created_at=self._world.now(), last_used_at=None, revoked_at=None, previous=None
            )
            self._keys[row.key_id] = made
        return True

    async def find_key(self, key_id: str) -> KeyRow | None:
        """Read a key; see `AccountStore.find_key`."""
        await trio.lowlevel.checkpoint()
        return self._keys.get(key_id)

    async def list_keys(self, workspace_id: str, *, after: str, limit: int) -> list[KeyRow]:
        """Read a workspace's keys; see `AccountStore.list_keys`."""
        await trio.lowlevel.checkpoint()
        found = sorted(self._keys_of(workspace_id), key=lambda row: row.key_id)
        return [row for row in found if row.key_id > after][:limit]

    async def touch_key(self, key_id: str, last_used_at: datetime) -> None:
        """Record that a key was used; see `AccountStore.touch_key`."""
        await trio.lowlevel.checkpoint()
        row = self._keys.get(key_id)
        if row is not None:
            latest = max(row.last_used_at or last_used_at, last_used_at)
            self._keys[key_id] = msgspec.structs.replace(row, last_used_at=latest)

    async def rotate_key(self, key_id: str, digest: bytes, *, keep: bool) -> bool:
        """Give a key another secret; see `AccountStore.rotate_key`."""
        await trio.lowlevel.checkpoint()
        row = self._keys.get(key_id)
        if row is None or row.revoked_at is not None:
            return False
        previous = row.digest if keep else None
        self._keys[key_id] = msgspec.structs.replace(row, digest=digest, previous=previous)
        return True

    async def drop_previous_key(self, key_id: str) -> None:
        """End the previous secret; see `AccountStore.drop_previous_key`."""
        await trio.lowlevel.checkpoint()
        row = self._keys.get(key_id)
        if row is not None:
            self._keys[key_id] = msgspec.structs.replace(row, previous=None)

    async def revoke_key(self, key_id: str) -> None:
        """Revoke a key; see `AccountStore.revoke_key`."""
        await trio.lowlevel.checkpoint()
        row = self._keys.get(key_id)
        if row is not None and row.revoked_at is None:
            self._keys[key_id] = msgspec.structs.replace(row, revoked_at=self._world.now())

    async def put_ticket(self, row: TicketRow, *, tickets_max: int) -> bool:
        """Record a ticket; see `AccountStore.put_ticket`."""
        await trio.lowlevel.checkpoint()
        now = self._world.now()
        others = [each for each in self._tickets.values() if each.digest != row.digest]
        waiting = [each for each in others if each.user_id == row.user_id and each.expires_at > now]
        if len(waiting) >= tickets_max:
            return False
        self._tickets.setdefault(row.digest, row)
        return True

    async def take_ticket(self, digest: bytes) -> TicketRow | None:
        """Take a ticket out; see `AccountStore.take_ticket`."""
        await trio.lowlevel.checkpoint()
        return self._tickets.pop(digest, None)

    async def sweep_tickets(self, *, limit: int) -> int:
        """Delete tickets that expired; see `AccountStore.sweep_tickets`."""
        await trio.lowlevel.checkpoint()
        before = self._world.now() - _TICKETS_KEPT
        expired = [row.digest for row in self._tickets.values() if row.expires_at <= before]
        for digest in expired[:limit]:
            del self._tickets[digest]
        return min(len(expired), limit)

    def _keys_of(self, workspace_id: str) -> list[KeyRow]:
        rows = self._keys.values()
        return [row for row in rows if row.workspace_id == workspace_id and row.revoked_at is None]

    def _of_user(self, user_id: str) -> list[SessionRow]:
        return [row for row in self._sessions.values() if row.user_id == user_id]

    def _revoke(self, row: SessionRow) -> None:
        if row.revoked_at is None:
            self._sessions[row.id_hash] = msgspec.structs.replace(row, revoked_at=self._world.now())
