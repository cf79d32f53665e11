"""What a runtime shows to whoever accepts its connections: one application and its sockets.

A port of our own serves it, or a program's ASGI server.  Both end it in the same way: no more are
let in; each client is told when to come back; what was asked is answered; the connections close.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._background import in_background
from ._shutdown import Shutdown
from ._sockets import Sockets
from .seams import new_secret
from .web import AsgiApplication, Clients, Door, Gate, Polls, create_admission, create_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from dalsegno.actors import Connection

    from ._exposure import Exposure
    from ._runtime import Runtime


class Front:
    """An application, its sockets, and their common end."""

    def __init__(self, rt: Runtime, exposure: Exposure) -> None:
        limits, setup_token = rt.limits, exposure.setup_token
        if setup_token is None and not exposure.is_private:
            setup_token = new_secret()
        self.setup_token = setup_token
        """The token that setup asks for; None: none."""
        admission = create_admission(limits, rt.world)
        clients = Clients(limits, rt.world, admission.websockets_max)
        gate = Gate(rt, exposure.cookie, exposure.tokens)
        self.sockets = Sockets(rt, gate, exposure.proxies, clients)
        self._rt = rt
        self._polls = Polls(limits)
        self._ended = False
        http = create_app(
            rt,
            cookie=exposure.cookie,
            hosts=exposure.hosts,
            setup_token=setup_token,
            proxies=exposure.proxies,
            polls=self._polls,
            clients=clients,
            tokens=exposure.tokens,
        )
        door = Door(
            self.sockets.accept,
            self.sockets.handle,
            self.sockets.release,
            admission=admission,
            limits=limits,
        )
        self.app = AsgiApplication(
            http,
            door,
            owns=self.sockets.owns,
            hosts=exposure.hosts,
            limits=limits,
            world=rt.world,
        )
        """All of it, for an ASGI server."""

    def __repr__(self) -> str:
        return f"<Front {self.sockets!r}>"

    async def end(
        self, settle: Callable[[Callable[[], list[Connection]]], Awaitable[None]]
    ) -> None:
        """Let no more in, and close the connections, each with the time to come back; once.

        Args:
            settle: waits until what the connections have asked for is answered; it is called with
                what returns them, and given ``limits.drain_deadline_s``.

        """
        if self._ended:
            return
        self._ended = True
        self._polls.end()
        self.sockets.end_unknown()
        shutdown = Shutdown(self._rt.service, self.sockets.connections)
        await shutdown.announce()
        with trio.move_on_after(self._rt.limits.drain_deadline_s):
            await settle(self.sockets.connections)
        await shutdown.close()


@asynccontextmanager
async def open_front(rt: Runtime, exposure: Exposure) -> AsyncIterator[Front]:
    """Show a runtime for the length of a block, and look meanwhile for what changes elsewhere:
    whose access has ended, which keys an issuer has, which certificate is there.
    """
    front, tokens, tls = Front(rt, exposure), exposure.tokens, exposure.tls
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(in_background(rt.revocation.watch))
        if tokens is not None and tokens.keys is not None:
            await stack.enter_async_context(in_background(tokens.keys.run))
        if tls is not None:
            looking = partial(tls.run, rt.world.now, rt.limits.tls_check_s)
            await stack.enter_async_context(in_background(looking))
        yield front
