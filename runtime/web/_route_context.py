"""What the routes share: the runtime, the site's settings, and how a request is authenticated."""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import structlog
import trio
from quart import g, request

from dalsegno.actors.domains.members import ADMINS
from dalsegno.protocol import OverloadedError, Reject

from ._auth import check_csrf
from ._client_address import client_address
from ._credentials import credentials_of
from ._envelope import held, request_id
from ._host_auth import is_of_host
from ._identity import Person

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime

    from dalsegno.actors.domains.accounts import User
    from dalsegno.protocol import Rate
    from dalsegno.runtime import Runtime

    from ._auth import SessionCookie
    from ._client_address import Network
    from ._clients import Clients
    from ._credentials import Gate
    from ._guesses import Guesses
    from ._hosts import Hosts
    from ._identity import Identity
    from ._passwords import Passwords
    from ._polls import Polls
    from ._rates import Rates

_security = structlog.get_logger("dalsegno.security")

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing (RFC 9110 §9.2.1)."""


@dataclass(frozen=True, slots=True)
class RouteContext:
    """The context of the routes of one application on one runtime."""

    rt: Runtime
    gate: Gate
    hosts: Hosts
    """Whose pages may talk to it."""
    setup_token: str | None
    """The token that setup asks for, if other machines can reach it."""
    proxies: Collection[Network]
    """The proxies that are believed about the address of a client."""
    passwords: Passwords
    logins: Guesses
    """Wrong passwords, by account and address."""
    setups: Guesses
    """Wrong setup tokens, by address."""
    polls: Polls
    clients: Clients
    """Sockets and event streams, counted together."""
    streaming: Callable[[], AbstractContextManager[None]]
    """Is entered for as long as an answer streams, which is no request to be bounded with others.
    """
    rates: Rates
    """How often clients asked."""
    _repairs: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(1))
    """A repair reads a whole log, so there is at most one at a time."""

    @property
    def cookie(self) -> SessionCookie:
        """How the session's cookie is named and marked."""
        return self.gate.cookie

    @property
    def address(self) -> str:
        """The address of the client that makes the request."""
        forwarded = request.headers.getlist("x-forwarded-for")
        return client_address(request.remote_addr, forwarded, self.proxies)

    async def authenticate(self) -> Identity:
        """Authenticate the request, a page's with the CSRF token too if it changes something.

        Raises:
            Reject: as `Gate.identify`; ``CSRF_INVALID``.

        """
        given = credentials_of(request.headers)
        if self.gate.host is not None:
            sent = request.headers
            headers = {name.lower(): ", ".join(sent.getlist(name)) for name, _ in sent.items()}
            given = given._replace(headers=headers, peer=self.address)
        asking = g.asking = held().enter_context(self.rt.revocation.asking())
        identity = await self.gate.identify(given)
        asking.identified(identity.user_id, identity.session_hash)
        g.known_as = identity.user_id
        if isinstance(identity, Person):
            if request.method not in _SAFE:
                check_csrf(identity, request.headers.get("x-csrf-token"))
            if identity.renewed:
                self.set_cookie(self.cookie.token(given.cookies) or "", identity.expires_at)
        elif is_of_host(identity) and not given.authorization and request.method not in _SAFE:
            self.refuse_foreign_pages()  # it may be a cookie of the host's, which any page sends
        return msgspec.structs.replace(identity, address=self.address)

    def refuse_foreign_pages(self) -> None:
        """Refuse requests of other sites' pages where there is no session, hence no token, yet.

        Browsers declare them (W3C Fetch Metadata); other clients do not send the header.  A page
        that the settings name is none of them.

        Raises:
            Reject: ``CSRF_INVALID``.

        """
        if request.headers.get("sec-fetch-site", "none") in {"none", "same-origin"}:
            return
        if not self.hosts.is_named(request.headers.getlist("origin")):
            raise Reject("CSRF_INVALID", "not allowed from another site's page")

    async def person(self) -> Person:
        """Authenticate a request that only people make: about accounts, and who owns what.

        Raises:
            Reject: as `authenticate`; ``ROLE_FORBIDDEN`` for a program.

        """
        identity = await self.authenticate()
        if not isinstance(identity, Person):
            raise Reject("ROLE_FORBIDDEN", "this takes a person who has logged in, not a key")
        return identity

    def check_rate(self, rate: Rate, identity: Identity) -> None:
        """Count a request of a route that has a rate.

        Raises:
            RateLimitedError: too often; with the time that is left.

        """
        self.rates.check_user(rate, identity.user_id)

    @contextmanager
    def repairing(self) -> Iterator[None]:
        """Hold the right to repair for the length of a block.

        Raises:
            OverloadedError: another repair is running.

        """
        try:
            self._repairs.acquire_nowait()
        except trio.WouldBlock:
            raise OverloadedError("another repair is running", retry_after_s=5.0) from None
        try:
            yield
        finally:
            self._repairs.release()

    def set_cookie(self, token: str, expires_at: datetime) -> None:
        """Set the session's cookie with the response."""
        left_s = math.ceil((expires_at - self.rt.world.now()).total_seconds())
        g.cookie = self.cookie.given(token, timedelta(seconds=left_s))

    @contextmanager
    def waiting(self, identity: Identity, wait_s: float) -> Iterator[None]:
        """Wait in a block for what happens next, no longer than the request's access lasts.

        Raises:
            OverloadedError: too many wait, of this user or in all.
            Reject: ``SESSION_REVOKED``: its access has ended.

        """
        with self.polls.waiting(identity.user_id, wait_s) as scope, g.asking.waiting(scope):
            yield
        g.asking.check()

    async def end_session(self, session_hash: bytes) -> None:
        """End what rests on a session that was revoked; once this returns, nothing more is sent.

        A socket that was admitted meanwhile asks for its session once more before it is served.
        """
        await self.rt.revocation.end_session(session_hash)
        self.tell_everywhere(self.rt.revocation.everywhere_within_ms)

    async def end_sessions(self, user_id: str, *, keep: bytes | None = None) -> None:
        """Revoke a user's sessions but one, and end what rests on them; as above."""
        await self.rt.accounts.revoke_sessions_of(user_id, keep=keep)
        await self.rt.revocation.end_user(user_id, keep=keep)
        self.tell_everywhere(self.rt.revocation.everywhere_within_ms)

    @staticmethod
    def tell_everywhere(within_ms: int) -> None:
        """Say with the answer how long the other nodes may take to apply a revocation."""
        g.everywhere_within_ms = within_ms

    def note(self, event: str, **fields: str | None) -> None:
        """Write a line of the security log, which never has what somebody typed in."""
        _security.info(event, request_id=request_id(), address=self.address, **fields)


def check_global_admin(user: User) -> None:
    """Raise `Reject` ``ROLE_FORBIDDEN`` unless the user is a global owner or admin."""
    if user.role not in ADMINS:
        raise Reject("ROLE_FORBIDDEN", "only for global owners and admins", role=user.role)


def idempotency_key(in_body: str | None = None) -> str | None:
    """Return the request's idempotency key: the body's, else the header's."""
    return in_body if in_body is not None else request.headers.get("idempotency-key")


def needed_key(rt: Runtime, in_body: str | None = None) -> str:
    """Return the idempotency key of a change, a new one if the request has none (KJ-IDEM-4)."""
    key = idempotency_key(in_body)
    return rt.world.new_id() if key is None else key
