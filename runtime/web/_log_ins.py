"""Log-ins with a password: who may guess, and what a new session does to the others.

A session begins with one, in a cookie or in tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from quart import g

from dalsegno.actors.domains.accounts import users
from dalsegno.actors.domains.claims import claims, email_claim
from dalsegno.protocol import Reject

if TYPE_CHECKING:
    from ._route_context import RouteContext


class LoginBody(msgspec.Struct, frozen=True, kw_only=True):
    """The request of a login."""

    email: str
    password: str

    def __repr__(self) -> str:
        return "<LoginBody>"


class Proven(NamedTuple):
    """Who logs in."""

    user_id: str
    password_hash: str
    """What was logged in with: had it been changed since, the change would not end the session."""


async def check_log_in(context: RouteContext, body: LoginBody) -> Proven:
    """Return whom an address and a password prove.

    Raises:
        Reject: ``INVALID_CREDENTIALS``.
        RateLimitedError: after too many wrong ones.

    """
    rt = context.rt
    # The claim and not the account: one that does not exist is guarded as well.
    claim_id = email_claim(body.email)
    guess = claim_id, context.address
    context.logins.check(*guess)
    claim = await rt.system.get(claims, claim_id)
    user_id = "" if claim is None else claim.by
    password_hash = await rt.accounts.find_credential(user_id)
    is_right = await context.passwords.verify(
        password_hash,
        body.password,
        address=context.address,
        begin=lambda: context.logins.begin(*guess),
    )
    user = await rt.system.get(users, user_id) if is_right else None
    if user is None or user.role is None or password_hash is None:
        context.note("login_refused", user_id=user_id or None)
        g.known_as = user_id or None
        raise invalid_credentials()
    context.logins.forget(*guess)
    return Proven(user_id, password_hash)


async def settle_log_in(
    context: RouteContext, user_id: str, session_hash: bytes, *, password_hash: str | None
) -> None:
    """Have a session take the place of the oldest ones where the user has too many.

    Raises:
        Reject: ``INVALID_CREDENTIALS``: the password was changed meanwhile, and the session ended.

    """
    rt = context.rt
    if password_hash is not None and await rt.accounts.find_credential(user_id) != password_hash:
        await rt.accounts.revoke_session(session_hash)
        raise invalid_credentials()
    context.note("logged_in", user_id=user_id)
    if rt.limits.sessions_per_user_max:
        evicted = await rt.accounts.evict_sessions(user_id, keep=rt.limits.sessions_per_user_max)
        for each in evicted:
            await context.rt.revocation.end_session(each)
            context.note("session_evicted", user_id=user_id)


def invalid_credentials() -> Reject:
    """Return the refusal of a log-in, the same whatever was wrong."""
    return Reject("INVALID_CREDENTIALS", "unknown e-mail address or wrong password")
