"""Our own access and refresh tokens: how a program stays logged in for a person.

A log-in by tokens is a session like one in a cookie, in the same table: it ends with the others of
its user, is evicted with them, and its sockets are closed as theirs are.  An access token is good
for minutes and is checked by that row at every request, so that it ends with it at once.

A refresh token is good once, and the server does not store its successor: whoever shows it again
gets the same one, because the answer was lost or two tabs asked at once.  That ends when the
successor is used, or after a minute; a token that is shown later has been in two hands, and
everything of the log-in ends.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.actors.domains.accounts import users
from dalsegno.protocol import Reject
from dalsegno.runtime.seams import new_bytes

from ._identity import Person
from ._token_text import access_text, id_hash_of, read_access, read_refresh, refresh_text

if TYPE_CHECKING:
    from dalsegno.actors.domains.accounts import User
    from dalsegno.runtime import Runtime
    from dalsegno.runtime.store import SessionRow

    from ._token_text import AccessText, RefreshText

_BYTES = 32


class Granted(NamedTuple):
    """A pair of tokens."""

    user_id: str
    session_hash: bytes
    access_token: str
    access_expires_at: datetime
    refresh_token: str
    refresh_expires_at: datetime


class TokenReusedError(Reject):
    """A refresh token was shown that had been replaced: its log-in is ended."""

    def __init__(self, row: SessionRow) -> None:
        super().__init__("TOKEN_REUSE_DETECTED", "this token was used before: log in again")
        self.user_id, self.session_hash = row.user_id, row.id_hash


async def begin_tokens(rt: Runtime, user_id: str) -> Granted:
    """Begin a log-in by tokens."""
    root, key = new_bytes(_BYTES), new_bytes(_BYTES)
    expires_at = rt.world.now() + timedelta(
        seconds=min(rt.limits.refresh_token_s, rt.limits.session_s)
    )
    await rt.accounts.put_session(id_hash_of(root), user_id, "", expires_at, refresh_key=key)
    return _granted(rt, user_id, root, key, 1, expires_at)


async def refresh_tokens(rt: Runtime, text: str) -> Granted:
    """Replace a refresh token, or give the one again that has replaced it.

    Raises:
        TokenReusedError: that has been used already, or for too long.  The log-in is ended; its
            sockets are the caller's to close.
        Reject: ``TOKEN_INVALID``, ``TOKEN_EXPIRED``.

    """
    shown = read_refresh(text)
    while True:
        row, key = await _find(rt, shown)
        if shown.generation > row.generation:
            raise Reject("TOKEN_INVALID", "this token was never given")  # the store was restored
        now = rt.world.now()
        if _is_reused(rt, row, shown.generation, now):
            await rt.accounts.revoke_session(row.id_hash)
            raise TokenReusedError(row)
        await _check_lasts(rt, row, now)
        if shown.generation < row.generation:
            return _granted(rt, row.user_id, shown.root, key, row.generation, row.expires_at)
        expires_at = min(now + timedelta(seconds=rt.limits.refresh_token_s), _ends_at(rt, row))
        if await rt.accounts.rotate_session(row.id_hash, shown.generation, now, expires_at):
            successor = shown.generation + 1
            return _granted(rt, row.user_id, shown.root, key, successor, expires_at)
        # Somebody else has, or it was revoked, in this moment: the row says so now.


async def session_of(rt: Runtime, text: str) -> SessionRow:
    """Return the log-in of a refresh token, of whatever generation, ended or not.

    Raises:
        Reject: ``TOKEN_INVALID``.

    """
    row, _ = await _find(rt, read_refresh(text))
    return row


async def authenticate_access(rt: Runtime, text: str) -> Person:
    """Return the user whom an access token proves.

    Raises:
        Reject: ``TOKEN_INVALID`` for what is none, a refresh token too, or whose log-in has ended;
            ``TOKEN_EXPIRED``.

    """
    shown = read_access(text)
    row, _ = await _find(rt, shown)
    now = rt.world.now()
    expires_at = datetime.fromtimestamp(shown.expires_ms / 1000, UTC)
    if expires_at <= now:
        raise Reject("TOKEN_EXPIRED", "this token has expired: refresh it")
    user = await _check_lasts(rt, row, now)
    return Person(
        user_id=row.user_id,
        user=user,
        session_hash=row.id_hash,
        csrf_token=None,
        expires_at=expires_at,
        is_renewable=True,
    )


async def _find(rt: Runtime, shown: AccessText | RefreshText) -> tuple[SessionRow, bytes]:
    """Return the log-in of a token, and what its tokens are made with."""
    row = await rt.accounts.find_session(shown.id_hash)
    if row is None or row.refresh_key is None or not shown.is_made_with(row.refresh_key):
        raise Reject("TOKEN_INVALID", "this token is not valid")
    return row, row.refresh_key


async def _check_lasts(rt: Runtime, row: SessionRow, now: datetime) -> User:
    """Return the user of a log-in that has not ended."""
    if row.revoked_at is not None:
        raise Reject("TOKEN_INVALID", "what this token belongs to was ended")
    if min(row.expires_at, _ends_at(rt, row)) <= now:
        raise Reject("TOKEN_EXPIRED", "this token has expired: log in again")
    user = await rt.system.get(users, row.user_id)
    if user is None or user.role is None:
        raise Reject("TOKEN_INVALID", "this account is closed")
    return user


def _ends_at(rt: Runtime, row: SessionRow) -> datetime:
    return row.created_at + timedelta(seconds=rt.limits.session_s)


def _is_reused(rt: Runtime, row: SessionRow, generation: int, now: datetime) -> bool:
    if generation == row.generation:
        return False
    if generation < row.generation - 1 or row.rotated_at is None:
        return True
    return now - row.rotated_at > timedelta(seconds=rt.limits.refresh_grace_s)


def _granted(
    rt: Runtime, user_id: str, root: bytes, key: bytes, generation: int, expires_at: datetime
) -> Granted:
    access_at = min(rt.world.now() + timedelta(seconds=rt.limits.access_token_s), expires_at)
    access_ms = int(access_at.timestamp() * 1000)
    return Granted(
        user_id,
        id_hash_of(root),
        access_text(root, key, access_ms),
        datetime.fromtimestamp(access_ms / 1000, UTC),
        refresh_text(root, key, generation),
        expires_at,
    )
