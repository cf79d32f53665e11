"""Tokens of another issuer (JWT, RFC 7519): people and programs whom somebody else has logged in.

What proves a token is decided by this server's settings and never by the token: its algorithm is
that of the key, the key is one of the issuer's, and nothing else that its header names, such as a
key of its own or an address of keys, is looked at.  Whoever it names is ``jwt:`` and its ``sub``
here, so that no issuer can name an account or a key of this server.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import jwt

from dalsegno.protocol import Reject, check_id

from ._identity import Identity

if TYPE_CHECKING:
    from dalsegno.actors import World

    from ._token_keys import TokenKeys

TOKEN_PREFIX = "jwt:"  # noqa: S105 - no secret
"""What the ids begin with of those whom tokens name."""

_CHARS_MAX = 8 * 1024
_NAME_CHARS_MAX = 200
_LEEWAY = timedelta(seconds=30)
"""For clocks that do not agree."""
_TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
"""What a token for access is (RFC 9068 §2.1); one to refresh, or of an identity, is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIssuer:
    """An issuer whose tokens are believed: by a shared secret, or by its public keys."""

    issuer: str
    audience: str
    secret: bytes | None = None
    """For HS256; None: the keys."""
    keys: TokenKeys | None = None

    async def identify(self, token: str, world: World) -> Identity:
        """Return whom a token names.

        Raises:
            Reject: ``TOKEN_INVALID``, ``TOKEN_EXPIRED``.
            NotReadyError: the issuer's keys are not known.

        """
        if len(token) > _CHARS_MAX:
            raise _invalid("longer than a token")
        header = _header(token)
        algorithm, key = await self._key(header)
        if header.get("alg") != algorithm:
            raise _invalid("another algorithm than its key's")
        try:
            # Times are compared below, by the clock that everything here goes by.
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self.issuer,
                audience=self.audience,
                options={
                    "require": ["exp", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "enforce_minimum_key_length": True,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError):
            raise _invalid("not signed by its issuer for this server") from None
        expires_at = _checked_times(claims, world.now())
        subject = claims["sub"]
        if not isinstance(subject, str):
            raise _invalid("sub is a text")
        try:
            check_id(subject, chars_max=_NAME_CHARS_MAX - len(TOKEN_PREFIX), what="sub")
        except Reject as error:
            raise _invalid(error.message) from None
        return Identity(user_id=f"{TOKEN_PREFIX}{subject}", session_hash=b"", expires_at=expires_at)

    async def _key(self, header: dict[str, Any]) -> tuple[str, Any]:
        if self.secret is not None:
            return "HS256", self.secret
        name = header.get("kid")
        if name is not None and not (isinstance(name, str) and len(name) <= _NAME_CHARS_MAX):
            raise _invalid("kid is a short text")
        assert self.keys is not None, "one of the two"
        found = await self.keys.find(name)
        if found is None:
            raise _invalid("signed with an unknown key")
        return found


def _header(token: str) -> dict[str, Any]:
    """Return the header of a token, which proves nothing yet."""
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise _invalid("not a token") from None
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise _invalid("of a type that is not for access")
    if "crit" in header or "b64" in header:
        raise _invalid("it demands what is not understood here")
    return header


def _checked_times(claims: dict[str, Any], now: datetime) -> datetime:
    """Return when a token expires.

    Raises:
        Reject: ``TOKEN_EXPIRED``; ``TOKEN_INVALID`` for one that is not valid yet.

    """
    times = {name: _time(claims[name]) for name in ("exp", "nbf", "iat") if name in claims}
    if times["exp"] + _LEEWAY <= now:
        raise Reject("TOKEN_EXPIRED", "this token has expired")
    if any(times[name] - _LEEWAY > now for name in ("nbf", "iat") if name in times):
        raise _invalid("not valid yet")
    return times["exp"]


def _time(claim: object) -> datetime:
    if isinstance(claim, bool) or not isinstance(claim, (int, float)):
        raise _invalid("a time is a number of seconds")
    try:
        return datetime.fromtimestamp(claim, UTC)
    except (OverflowError, ValueError, OSError):
        raise _invalid("a time is a number of seconds") from None


def _invalid(why: str) -> Reject:
    return Reject("TOKEN_INVALID", f"this token is not valid: {why}")
