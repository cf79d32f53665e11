"""How a stream is followed by server-sent events: the answer that begins, and goes on.

It is the same connection as a WebSocket's, so it is bounded, revoked and caught up in the same way,
and the same cursors are valid.  What is wrong with a request is known before the answer begins, as
any error is; what goes wrong later is a ``problem``, after which the stream ends.

EventSource takes any status but 200 for the end of everything.  So a server that shuts down or is
full answers 200, says when to come back, and hangs up; and 204 is the answer where there is nothing
more to come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from quart import Response, request

from dalsegno.actors import Connection, try_to_follow
from dalsegno.protocol import Close, OverloadedError, check_id, parse_cursor
from dalsegno.protocol.dialects import EventStreamLanguage
from dalsegno.protocol.routes import EVENT_STREAM_TYPE, FROM_NOW

from ._clients import Place, check_tab
from ._credentials import credentials_of
from ._envelope import held, nothing
from ._event_stream import EventStreamBody, EventStreamTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from dalsegno.protocol.dialects import SubscribeRequest
    from dalsegno.protocol.routes import Following

    from ._identity import Identity
    from ._route_context import RouteContext

_RETRY_MS, _RETRY_SPREAD_MS = 1_000, 2_000
"""When a client comes back that was cut off; drawn, so that not all come at once."""
_LATER_MS, _LATER_SPREAD_MS = 5_000, 10_000
"""… and one that a full server, or one that shuts down, sends away."""
_ROTATES_S, _ROTATES_SPREAD_S = 600.0, 1_200.0
"""How long a stream lasts: proxies and phones end long ones without a word."""
_NO_STORE = {
    "content-type": EVENT_STREAM_TYPE,  # UTF-8, always
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",
}


class EventStreams:
    """Answers requests for event streams."""

    def __init__(self, context: RouteContext) -> None:
        self._context = context
        self._rt = context.rt

    def __repr__(self) -> str:
        return "<EventStreams>"

    async def follow(
        self,
        identity: Identity,
        asking: Callable[[str | None], SubscribeRequest],
        params: Following,
        *,
        project_id: str | None = None,
        is_over: Callable[[int], Awaitable[bool]] | None = None,
    ) -> Response:
        """Return the stream, once it is known that it can begin.

        Args:
            identity: who asks.
            asking: returns what is followed, from a cursor as it was said.
            params: of the request.
            project_id: the project that it is, if it is one.
            is_over: returns whether nothing comes any more behind a number.

        Raises:
            Reject: who asks may not, there is none, or it does not begin there.
            UnavailableError: it cannot be told now.
            OverloadedError: the project has as many as may be.

        """
        context, rt = self._context, self._rt
        if context.clients.is_ending or context.clients.is_full or rt.service.is_draining:
            return self._sent_away()
        client_id = check_id(
            params.client_id or "default", chars_max=rt.limits.id_chars_max, what="client id"
        )
        place = Place(
            identity.user_id,
            project_id=project_id,
            client_id=client_id,
            tab=check_tab(params.tab),
            url=request.full_path,
        )
        asked = asking(_cursor(params))
        principal = identity.acting(rt.system).principal
        begins = await try_to_follow(rt.service.sessions, asked, principal, client_id=client_id)
        if is_over is not None and await is_over(begins):
            return nothing()
        comes_back = "last-event-id" in request.headers
        if comes_back and context.clients.was_evicted(identity.user_id, request.full_path):
            return nothing()
        try:
            context.clients.take(place)
        except OverloadedError:
            if project_id is not None:
                raise  # CF-6.2: nobody is to come back by itself
            return self._sent_away()
        held().callback(context.clients.leave, place)
        held().enter_context(context.streaming())
        body = self._stream(asked, identity, place)
        response = Response(body, headers=_NO_STORE)
        response.timeout = None
        return response

    def _stream(self, asked: SubscribeRequest, identity: Identity, place: Place) -> EventStreamBody:
        context, rt = self._context, self._rt
        retry = f"retry: {self._drawn(_RETRY_MS, _RETRY_SPREAD_MS)}\n\n".encode()
        transport = EventStreamTransport(retry)
        connection = Connection(
            transport,
            rt.service.sessions,
            user_id=identity.user_id,
            session_id=identity.session_hash,
            client_id=place.client_id,
            address=context.address,
            expires_at=identity.expires_at,
            language=EventStreamLanguage(asked),
        )
        given = credentials_of(request.headers)
        lasts_s = self._drawn(_ROTATES_S, _ROTATES_SPREAD_S)

        async def check() -> None:
            await context.gate.identify(given)

        async def serve() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_rotate, connection, lasts_s)
                with context.clients.serving(connection, place):
                    await connection.run(check)
                nursery.cancel_scope.cancel(reason="the stream has ended")

        return EventStreamBody(transport, serve)

    def _sent_away(self) -> Response:
        """Return the answer of a server that is full or shuts down: come back later."""
        later = self._drawn(_LATER_MS, _LATER_SPREAD_MS)
        return Response(f"retry: {later:g}\n\n", headers=_NO_STORE)

    def _drawn(self, least: float, spread: float) -> float:
        return round(least + spread * self._rt.world.random())


async def _rotate(connection: Connection, lasts_s: float) -> None:
    await trio.sleep(lasts_s)
    connection.close(Close.NORMAL, "the stream has lasted long enough: come back")


def _cursor(params: Following) -> str | None:
    """Return where a stream begins, as it was said.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    last = request.headers.get("last-event-id")
    said = params.cursor if last is None or not last.strip() else last.strip()
    if said is not None and said != FROM_NOW:
        parse_cursor(said)
    return said
