"""What a request shows of who makes it, and whom that proves: the one gate of HTTP and sockets.

A request has one credential.  A program shows its API key, as ``Authorization: Bearer`` or
``X-API-Key``, and a cookie beside it is not looked at; a page has a cookie alone, which the browser
adds by itself, so that only there a request which changes something has to repeat a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dalsegno.protocol import Reject

from ._api_keys import authenticate_key
from ._auth import authenticate_person

if TYPE_CHECKING:
    from collections.abc import Sequence

    from werkzeug.datastructures import Headers

    from dalsegno.runtime import Runtime

    from ._auth import SessionCookie
    from ._identity import Identity


class Credentials(NamedTuple):
    """A request's headers that say who makes it, each as often as it was sent."""

    cookies: str | None = None
    """The ``Cookie`` headers, joined by ``; ``."""
    authorization: Sequence[str] = ()
    api_key: Sequence[str] = ()

    def key(self) -> str | None:
        """Return the API key; None where there is a cookie at most.

        Raises:
            Reject: ``BAD_REQUEST`` for more than one; ``AUTH_REQUIRED`` for another scheme than
                ``Bearer`` (RFC 6750 §2.1).

        """
        given = [*self.authorization, *self.api_key]
        if not given:
            return None
        if len(given) > 1:
            raise Reject("BAD_REQUEST", "one authorization or x-api-key header is enough")
        if self.api_key:
            return self.api_key[0]
        scheme, _, token = self.authorization[0].partition(" ")
        if scheme.lower() != "bearer":
            raise Reject("AUTH_REQUIRED", "the scheme of authorization is Bearer")
        return token.strip()


def credentials_of(headers: Headers) -> Credentials:
    """Return what the headers of a request say."""
    return Credentials(
        "; ".join(headers.getlist("cookie")),
        headers.getlist("authorization"),
        headers.getlist("x-api-key"),
    )


async def authenticate(rt: Runtime, given: Credentials, cookie: SessionCookie) -> Identity:
    """Return whom a request's credential proves.

    Raises:
        Reject: ``AUTH_REQUIRED``, ``SESSION_REVOKED``, ``SESSION_EXPIRED``, ``TOKEN_INVALID``,
            ``TOKEN_EXPIRED``; ``BAD_REQUEST`` for several.

    """
    key = given.key()
    if key is not None:
        return await authenticate_key(rt, key)
    return await authenticate_person(rt, given.cookies, cookie)
