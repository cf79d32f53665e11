"""Tickets: a URL that opens one socket, once, within half a minute.

For clients that can set neither a header nor a subprotocol.  A URL is written to logs on its way,
hence once and soon.  The store has a digest, and gives a ticket out to whoever asks first, at
whichever server.
"""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from dalsegno.protocol import RateLimitedError, Reject
from dalsegno.runtime.seams import new_secret
from dalsegno.runtime.store import TicketRow

from ._identity import Identity

if TYPE_CHECKING:
    from dalsegno.runtime import Runtime


async def make_ticket(rt: Runtime, identity: Identity, path: str) -> str:
    """Make a ticket for a path.

    Raises:
        RateLimitedError: as many of the user's as may be wait to be used.

    """
    ticket = new_secret()
    row = TicketRow(
        digest=_digest(ticket),
        path=path,
        user_id=identity.user_id,
        session_hash=identity.session_hash,
        session_expires_at=identity.expires_at,
        is_renewable=identity.is_renewable,
        expires_at=rt.world.now() + timedelta(seconds=rt.limits.ticket_s),
    )
    if not await rt.accounts.put_ticket(row, tickets_max=rt.limits.tickets_per_user_max):
        raise RateLimitedError("too many tickets that wait", retry_after_s=rt.limits.ticket_s)
    return ticket


async def redeem_ticket(rt: Runtime, ticket: str, path: str) -> Identity:
    """Use a ticket up; return who made it.

    Raises:
        Reject: ``TOKEN_INVALID`` for what is none, was used, is for another path, or whose maker's
            session has ended; ``TOKEN_EXPIRED``.

    """
    row = await rt.accounts.take_ticket(_digest(ticket))
    if row is None or row.path != path:
        raise Reject("TOKEN_INVALID", "this ticket is not valid, or no longer")
    if min(row.expires_at, row.session_expires_at or row.expires_at) <= rt.world.now():
        raise Reject("TOKEN_EXPIRED", "this ticket has expired, or what it belongs to has")
    identity = Identity(
        user_id=row.user_id,
        session_hash=row.session_hash,
        expires_at=row.session_expires_at,
        is_renewable=row.is_renewable,
    )
    await check_lasts(rt, identity)
    return identity


async def check_lasts(rt: Runtime, identity: Identity) -> None:
    """Raise `Reject` ``TOKEN_INVALID`` if what was shown for a ticket has ended."""
    shown = identity.session_hash
    if shown and await rt.accounts.find_ended([shown]):
        raise Reject("TOKEN_INVALID", "what this ticket belongs to was ended")


def _digest(ticket: str) -> bytes:
    return sha256(ticket.encode(errors="replace")).digest()
