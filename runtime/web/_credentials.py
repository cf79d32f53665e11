"""What a request shows of who makes it, and whom that proves: the one gate of HTTP and sockets.

A request has one credential.  A program shows its API key, an access token of ours, or a token of
the issuer whose tokens are believed, as ``Authorization: Bearer`` (a key also as ``X-API-Key``),
and a cookie beside it is not looked at.  A page has a cookie alone, which the browser adds by
itself, so that only there a request which changes something has to repeat a token of the session.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.protocol import Reject

from ._api_keys import authenticate_key
from ._auth import authenticate_person
from ._host_auth import identify_by_host
from ._key_text import KEY_MARK
from ._own_tokens import authenticate_access
from ._token_text import is_own

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from werkzeug.datastructures import Headers

    from dalsegno.protocol import Authenticator
    from dalsegno.runtime import Runtime

    from ._auth import SessionCookie
    from ._identity import Identity
    from ._tokens import TokenIssuer


OFFERS = "sec-websocket-protocol"
"""The header in which a client offers subprotocols."""
TICKET = "ticket"
"""The field of a query that opens a socket."""
_BEARER = "dalsegno.bearer."
"""What one begins with that is a key or a token."""
_AUTH = "dalsegno.auth"
"""Offered by a client whose first message says who it is; never chosen."""


_SHOWING = frozenset({"authorization", "cookie", "x-api-key", OFFERS})
"""The headers that may show somebody."""


class Credentials(NamedTuple):
    """A request's headers that say who makes it, each as often as it was sent."""

    cookies: str | None = None
    """The ``Cookie`` headers, joined by ``; ``."""
    authorization: Sequence[str] = ()
    api_key: Sequence[str] = ()
    ticket: Sequence[str] = ()
    """Of an upgrade's query; nowhere else is one looked at."""
    headers: Mapping[str, str] = MappingProxyType({})
    """All of them, by lower-case name, where a host's own authenticator wants them …"""
    peer: str = ""
    """… and the client's address."""

    def __repr__(self) -> str:
        return f"<Credentials of {self.peer}>"

    @property
    def token(self) -> str | None:
        """The token of a single ``Authorization: Bearer``, whoever made it."""
        if len(self.authorization) != 1:
            return None
        scheme, _, token = self.authorization[0].partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    def instead(self, token: str) -> Credentials:
        """Return what a message shows that came with a token, on the socket of this upgrade."""
        left = {name: text for name, text in self.headers.items() if name not in _SHOWING}
        return Credentials(authorization=[f"Bearer {token}"], headers=left, peer=self.peer)

    def bearer(self) -> str | None:
        """Return the key or token; None where there is a ticket, or a cookie at most.

        Raises:
            Reject: ``BAD_REQUEST`` for more than one; ``AUTH_REQUIRED`` for another scheme than
                ``Bearer`` (RFC 6750 §2.1).

        """
        given = [*self.authorization, *self.api_key, *self.ticket]
        if len(given) > 1:
            raise Reject(
                "BAD_REQUEST", "one credential is enough: a header with a key or token, or a ticket"
            )
        if not given or self.ticket:
            return None
        if self.api_key:
            return self.api_key[0]
        if self.token is None:
            raise Reject("AUTH_REQUIRED", "the scheme of authorization is Bearer")
        return self.token


def is_deferred(given: Credentials, protocols: Sequence[str]) -> bool:
    """Return whether the first message of a socket says who it is, which shows a cookie at most."""
    shows_more = given.authorization or given.api_key or given.ticket
    return not shows_more and _AUTH in _split(protocols)


def _split(protocols: Sequence[str]) -> list[str]:
    return [each.strip() for line in protocols for each in line.split(",")]


def offered_in(protocols: Sequence[str]) -> list[str]:
    """Return what a page shows of who asks, as ``Authorization`` would have it.

    A page cannot set a header of its socket, but name subprotocols: ``dalsegno.bearer.`` and the
    key or token in base64url.  It is never chosen, so that no answer and no log has it.
    """
    named = _split(protocols)
    tokens = [each.removeprefix(_BEARER) for each in named if each.startswith(_BEARER)]
    return [f"Bearer {_decoded(token)}" for token in tokens]


def _decoded(token: str) -> str:
    """Return a text of base64url; what is none of it is no token either."""
    try:
        return urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii")
    except ValueError:
        return ""


def credentials_of(headers: Headers) -> Credentials:
    """Return what the headers of a request say."""
    return Credentials(
        "; ".join(headers.getlist("cookie")),
        [*headers.getlist("authorization"), *offered_in(headers.getlist(OFFERS))],
        headers.getlist("x-api-key"),
    )


@dataclass(frozen=True, slots=True)
class Gate:
    """What decides whom a credential proves."""

    rt: Runtime
    cookie: SessionCookie
    """How the session's cookie is named and marked."""
    tokens: TokenIssuer | None = None
    """Whose tokens are believed besides; None: nobody's."""

    @property
    def host(self) -> Authenticator | None:
        """The host's own authenticator, which is asked first; None: it has none."""
        return self.rt.app.authenticate

    async def identify(self, given: Credentials) -> Identity:
        """Return whom a request's credential proves.

        Raises:
            Reject: ``AUTH_REQUIRED``, ``SESSION_REVOKED``, ``SESSION_EXPIRED``, ``TOKEN_INVALID``,
                ``TOKEN_EXPIRED``; ``BAD_REQUEST`` for several.
            UnavailableError: it cannot be decided now.
            InternalError: the host's own authenticator failed.

        """
        if self.host is not None:
            caller = await identify_by_host(
                self.host, self.rt, headers=given.headers, peer=given.peer, token=given.token
            )
            if caller is not None:
                return caller
        shown = given.bearer()
        if shown is None:
            return await authenticate_person(self.rt, given.cookies, self.cookie)
        if not given.api_key and is_own(shown):
            return await authenticate_access(self.rt, shown)
        if self.tokens is None or given.api_key or shown.startswith(KEY_MARK):
            return await authenticate_key(self.rt, shown)
        return await self.tokens.identify(shown, self.rt.world)
