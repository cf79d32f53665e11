"""API keys: programs that are members of a workspace, with a secret instead of a session.

A key's id in the workspace's log is ``key:<id>``, so that its role, and the end of it, are the
log's like everybody's.  The rows hold digests of its secrets, one, or two while it is replaced.
"""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING

from dalsegno.actors.domains.members import KEY_PREFIX
from dalsegno.protocol import Reject

from ._identity import Identity
from ._key_text import read_key_text

if TYPE_CHECKING:
    from datetime import datetime

    from dalsegno.runtime import Runtime
    from dalsegno.runtime.store import KeyRow

_TOUCH_AFTER = timedelta(hours=1)


def member_id(key_id: str) -> str:
    """Return the id under which a key is a member."""
    return f"{KEY_PREFIX}{key_id}"


def connection_of(key_id: str) -> bytes:
    """Return the digest by which a key's connections are closed."""
    return sha256(member_id(key_id).encode()).digest()


async def authenticate_key(rt: Runtime, text: str) -> Identity:
    """Return the identity that an API key proves.

    Raises:
        Reject: ``TOKEN_INVALID`` for none of ours, one with another secret, or one that was
            revoked; ``TOKEN_EXPIRED``.

    """
    key = read_key_text(text)
    row = await rt.accounts.find_key(key.key_id)
    if row is None or row.revoked_at is not None or not _is_of(row, key.digest):
        raise Reject("TOKEN_INVALID", "this API key is not valid, or no longer")
    now = rt.world.now()
    if is_over(row, now):
        raise Reject("TOKEN_EXPIRED", "this API key has expired")
    if row.last_used_at is None or now - row.last_used_at >= _TOUCH_AFTER:
        await rt.accounts.touch_key(key.key_id, now)
    return Identity(
        user_id=member_id(key.key_id), session_hash=row.connection, expires_at=row.expires_at
    )


def is_over(row: KeyRow, now: datetime) -> bool:
    """Return whether a key has expired."""
    return row.expires_at is not None and row.expires_at <= now


def _is_of(row: KeyRow, digest: bytes) -> bool:
    """Return whether a digest is of one of a key's secrets, compared in constant time."""
    is_present = compare_digest(row.digest, digest)
    return compare_digest(row.previous or row.digest, digest) or is_present
