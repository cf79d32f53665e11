"""Opening a client: logged in, and connected for the length of a block."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from dalsegno.protocol import Reject, UnavailableError
from dalsegno.runtime._background import in_background
from dalsegno.runtime.seams import WORLD

from ._account import Account, checked_url
from ._client import Client
from ._policy import ClientLimits

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator

    from dalsegno.actors import World
    from dalsegno.protocol import App

    from ._account import GetToken


@asynccontextmanager
async def open_client(
    url: str,
    *,
    email: str | None = None,
    password: str | None = None,
    cookie: str | None = None,
    api_key: str | None = None,
    token: GetToken | None = None,
    app: App | None = None,
    client_id: str = "default",
    limits: ClientLimits | None = None,
    world: World = WORLD,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Client]:
    """Log in, and stay connected for the length of an ``async with``.

    Leaving it sends what is queued; no task of the client outlives it.

    Args:
        url: the server's address, ``http://…`` or ``https://…``.
        email: the account's e-mail address.
        password: the account's password; kept, to log in again when the session ends.
        cookie: instead of both, the ``Cookie`` header of an existing session …
        api_key: … or an API key of a workspace, or a token of an issuer that the server believes.
        token: … or an async function that returns a fresh token of such an issuer.  It is called
            before the first connection and whenever the server no longer takes the last one; once
            for everything that waits for it, for at most ``limits.token_timeout_s``.
        app: what the server serves, for `Client.workspace`: its commands by their types.
        client_id: the id under which acks are kept: each program that follows streams for the same
            user has its own.
        limits: every bound.
        world: randomness and ids.
        ssl_context: for ``https``; None trusts the system's certificates.

    Raises:
        ValueError: not exactly one of credentials, a cookie, a key and ``token`` is given.
        Reject: ``BAD_URL``; or the login is refused, ``INVALID_CREDENTIALS``.
        UnreachableError: the server does not answer; a `NoTokenError` where the first call of
            ``token`` gave none.

    """
    limits = limits or ClientLimits()
    account = Account(
        _checked(url),
        email=email,
        password=password,
        cookie=cookie,
        api_key=api_key,
        get_token=token,
        ssl_context=ssl_context,
        limits=limits,
    )
    if cookie is not None and api_key is not None:
        raise ValueError("a cookie or an API key, not both")
    if token is not None and (email, password, cookie, api_key) != (None, None, None, None):
        raise ValueError("token= goes with no other credentials")
    if account.needs_login:
        if not account.can_log_in:
            raise ValueError("email and password, a cookie, an API key or token= is needed")
        # If the server cannot log in anybody now, the client's own task tries again.
        with suppress(UnavailableError):
            await account.log_in()
    client = Client(
        account, client_id=client_id, limits=limits, world=world, ssl_context=ssl_context, app=app
    )
    async with in_background(client.run):
        try:
            yield client
        finally:
            with trio.move_on_after(limits.close_timeout_s, shield=True):
                await client.aclose()


def _checked(url: str) -> str:
    checked = checked_url(url)
    if checked is None:
        raise Reject("BAD_URL", f"{url!r} is not http://HOST:PORT or https://HOST")
    return checked
