"""Sessions in a cookie, for HTTP and for the WebSocket upgrade alike.

A session's id is a secret of 256 bits.  The cookie holds it, the store its digest; a plain SHA-256
is enough, since such a secret cannot be guessed.  Every request reads the session's row, so a
revoked session is refused at its next request, and extends it at most once a minute, though never
beyond the time that it may last at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from hmac import compare_digest
from typing import TYPE_CHECKING

from werkzeug.http import dump_cookie, parse_cookie

from dalsegno.actors.domains.accounts import users
from dalsegno.protocol import Reject
from dalsegno.runtime.seams import new_secret

from ._identity import Person

if TYPE_CHECKING:
    from dalsegno.actors.domains.accounts import User
    from dalsegno.runtime import Runtime

COOKIE = "dalsegno_session"
"""The name of the session's cookie; see `SessionCookie`."""
TOUCH_AFTER = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """How a site names and marks the cookie that holds a session's id."""

    secure: bool = False
    """Whether browsers send it over TLS only; not where the site is reached without."""
    is_prefixed: bool = False
    """Whether it is named ``__Host-…``, so that no other site of the domain can set it."""

    @property
    def name(self) -> str:
        """The cookie's name."""
        return f"__Host-{COOKIE}" if self.is_prefixed else COOKIE

    def token(self, cookies: str | None) -> str | None:
        """Find the session's id in a ``Cookie`` header; the first counts."""
        # The parser raises on bytes that are not UTF-8, which other applications' cookies may hold.
        text = (cookies or "").encode("ascii", "replace").decode()
        return parse_cookie(text).get(self.name)

    def given(self, token: str, lifetime: timedelta) -> str:
        """Return the ``Set-Cookie`` header that begins or extends a session."""
        return self._header(token, lifetime)

    def taken(self) -> str:
        """Return the ``Set-Cookie`` header that ends a session."""
        return self._header("", timedelta())

    def _header(self, value: str, max_age: timedelta) -> str:
        return dump_cookie(
            self.name,
            value,
            max_age=max_age,
            sync_expires=False,  # Max-Age alone: a client's clock may be wrong
            secure=self.secure,
            httponly=True,
            samesite="Lax",
        )


def session_hash(token: str) -> bytes:
    """Return the digest under which a session is stored."""
    return sha256(token.encode()).digest()


async def authenticate_person(
    rt: Runtime, cookies: str | None, cookie: SessionCookie = SessionCookie()
) -> Person:
    """Return the user whose session the ``Cookie`` header proves.

    Raises:
        Reject: ``AUTH_REQUIRED``, ``SESSION_REVOKED`` (also for a disabled user),
            ``SESSION_EXPIRED``.

    """
    token = cookie.token(cookies)
    id_hash = b"" if token is None else session_hash(token)
    row = await rt.accounts.find_session(id_hash) if token else None
    if row is None:
        raise Reject("AUTH_REQUIRED", "log in first")
    now = rt.world.now()
    if row.revoked_at is not None:
        raise Reject("SESSION_REVOKED", "this session was revoked")
    ends_at = row.created_at + timedelta(seconds=rt.limits.session_s)
    if min(row.expires_at, ends_at) <= now:
        raise Reject("SESSION_EXPIRED", "this session has expired")
    user = await rt.system.get(users, row.user_id)
    if user is None or user.role is None:
        raise Reject("SESSION_REVOKED", "this account is closed")
    expires_at = min(row.expires_at, ends_at)
    renewed = now - row.last_seen_at >= TOUCH_AFTER
    if renewed:
        expires_at = min(now + timedelta(seconds=rt.limits.session_idle_s), ends_at)
        await rt.accounts.touch_session(id_hash, now, expires_at)
    return Person(
        user_id=row.user_id,
        user=user,
        session_hash=id_hash,
        csrf_token=row.csrf_token,
        expires_at=expires_at,
        renewed=renewed,
    )


async def open_session(rt: Runtime, user_id: str, user: User) -> tuple[str, Person]:
    """Begin a session; return the cookie's value and the person."""
    token, csrf_token = new_secret(), new_secret()
    limits = rt.limits
    lifetime = timedelta(seconds=min(limits.session_idle_s, limits.session_s))
    id_hash, expires_at = session_hash(token), rt.world.now() + lifetime
    await rt.accounts.put_session(id_hash, user_id, csrf_token, expires_at)
    person = Person(
        user_id=user_id,
        user=user,
        session_hash=id_hash,
        csrf_token=csrf_token,
        expires_at=expires_at,
    )
    return token, person


def check_csrf(person: Person, token: str | None) -> None:
    """Raise `Reject` ``CSRF_INVALID`` unless the token is the session's, if that is in a cookie."""
    if person.csrf_token is not None and not same_secret(person.csrf_token, token):
        raise Reject("CSRF_INVALID", "x-csrf-token is not this session's")


def same_secret(secret: str, given: str | None) -> bool:
    """Compare secrets in constant time."""
    return given is not None and compare_digest(secret.encode(), given.encode())
