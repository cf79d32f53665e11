"""The WebSockets of a server: whom an upgrade admits, and the connection that each becomes.

A client that offers ``dalsegno.auth`` is admitted unknown, and says by its first message who it is.
Anybody can be that, so there are few of those at a time, each for a few seconds, and nothing else
of theirs is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from dalsegno.actors import Connection, Proof, check_may_follow
from dalsegno.protocol import (
    Authenticate,
    Close,
    DalsegnoError,
    DrainingError,
    OverloadedError,
    Reject,
    StoreUnavailableError,
    check_id,
    http_status,
)
from dalsegno.protocol.dialects import Conversation, Opening
from dalsegno.protocol.routes import as_it_is

from .web import (
    SOCKET,
    Place,
    check_lasts,
    check_tab,
    client_address,
    overloaded,
    redeem_ticket,
    workspace_meant,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from dalsegno.protocol.dialects import Language

    from ._runtime import Runtime
    from .web import (
        Clients,
        Credentials,
        Gate,
        Identity,
        Network,
        SocketTransport,
        UpgradeRequest,
    )


_OF_WHO_ASKS = frozenset({401, 403, 404})
"""Refusals of who asks, and not of what is asked."""


@dataclass(slots=True)
class Accepted:
    """An upgrade that was admitted."""

    path: str
    query: dict[str, str]
    client_id: str
    address: str
    credentials: Credentials
    naming: Mapping[str, str] = field(default_factory=dict)
    """The header that names the workspace of its path, by its name, if it was sent."""
    identity: Identity | None = None
    """None while the client is unknown."""
    language: Language | None = None
    """What is said on its path; None on ``/ws``."""
    place: Place | None = None
    """Its place among those that stay; None while the client is unknown."""
    refused: DalsegnoError | None = None
    """Why it is closed as soon as it is open."""


class Sockets:
    """Makes connections of WebSockets."""

    def __init__(
        self, rt: Runtime, gate: Gate, proxies: Collection[Network], clients: Clients
    ) -> None:
        self._rt = rt
        self._gate = gate
        self._proxies = proxies
        self._clients = clients
        self._unknown = 0
        """Sockets that are admitted, and whose client is unknown."""
        self._introducing: set[trio.CancelScope] = set()
        """Around the first messages that are waited for."""

    def __repr__(self) -> str:
        return f"<Sockets of {self._clients!r}, {self._unknown} unknown>"

    # -------------------------------------------------------------------------- the upgrade

    async def accept(self, request: UpgradeRequest) -> Accepted:
        """Admit a client; `release` has to follow, whatever becomes of it."""
        found = self._rt.app.socket_at(request.path)
        shows = as_it_is if found is None else found[0].shows_error
        try:
            return await self._accept(request)
        except DalsegnoError as error:
            shown = shows(error)
            if found is not None and found[0].accepts_first and http_status(shown) in _OF_WHO_ASKS:
                return self._accepted_to_close(request, shown)
            if shown is error:
                raise
            raise shown from error  # no name keeps it: that would be a cycle

    def _accepted_to_close(self, request: UpgradeRequest, refused: DalsegnoError) -> Accepted:
        self._count_unknown()
        nobody = request.credentials
        return Accepted(request.path, {}, "", "", nobody, refused=refused.with_traceback(None))

    async def _accept(self, request: UpgradeRequest) -> Accepted:
        self._check_not_draining()
        query = {name: values[0] for name, values in request.query.items()}
        client_id = query.get("client_id", "default")
        forwarded = [request.headers.get("x-forwarded-for") or ""]
        address = client_address(request.peer, forwarded, self._proxies)
        credentials = request.credentials
        if self._gate.host is not None:  # else they are not kept
            credentials = credentials._replace(headers=request.headers, peer=address)
        accepted = Accepted(request.path, query, client_id, address, credentials)
        found = self._rt.app.socket_at(request.path)
        at = None if found is None else found[0].at
        if at is not None and at.header in request.headers:
            accepted.naming = {at.header: request.headers[at.header]}
        if request.is_deferred:
            self._check_client_id(client_id)
            self._count_unknown()
        else:
            identity = await self._identify(credentials, request.path)
            self._check_client_id(client_id)
            accepted.language = await self._language(accepted, identity)
            self._take(accepted, identity)
            accepted.identity = identity
        return accepted

    async def _language(self, accepted: Accepted, identity: Identity) -> Language | None:
        """Return the language of a path of the app's own; that it is refused is put on record.

        Raises:
            DalsegnoError: as `_language_of`.

        """
        try:
            return await self._language_of(accepted, identity)
        except DalsegnoError as error:
            principal = identity.acting(self._rt.system).principal
            found = self._rt.app.socket_at(accepted.path)
            path = SOCKET if found is None else found[0].path
            self._rt.service.audit.note_refused(error, principal, path, None)
            raise

    def _count_unknown(self) -> None:
        if self._unknown >= self._rt.limits.unknown_sockets_max:
            raise overloaded("too many sockets of unknown clients", self._rt.world.random)
        self._unknown += 1

    def _take(self, accepted: Accepted, identity: Identity) -> None:
        """Take a place for a client that is known now.

        Raises:
            Reject: ``BAD_REQUEST``: what is said of its tab.
            OverloadedError: there is none.

        """
        project_id, found = None, self._rt.app.socket_at(accepted.path)
        if found is not None and found[0].project is not None:
            project_id = found[1][found[0].project]
        place = Place(
            identity.user_id,
            project_id=project_id,
            client_id=accepted.client_id,
            tab=check_tab(accepted.query.get("tab")),
        )
        self._clients.take(place)
        accepted.place = place

    async def _identify(self, given: Credentials, path: str) -> Identity:
        if not given.ticket:
            return await self._gate.identify(given)
        given.bearer()  # a ticket is shown alone
        return await redeem_ticket(self._rt, given.ticket[0], path)

    def owns(self, path: str) -> bool:
        """Return whether sockets are served at a path."""
        return path == SOCKET or self._rt.app.socket_at(path) is not None

    async def _language_of(self, accepted: Accepted, identity: Identity) -> Language | None:
        """Return the language of a path of the app's own, if who connects may follow its streams.

        Raises:
            Reject: what the path's beginning refuses; ``…_NOT_FOUND``, ``ROLE_FORBIDDEN``.

        """
        rt = self._rt
        found = rt.app.socket_at(accepted.path)
        if found is None:
            return None
        socket, named = found
        principal = identity.acting(rt.system).principal
        workspace_id = ""
        if socket.at is not None:
            workspace_id = await workspace_meant(
                rt, socket.at, identity.user_id, headers=accepted.naming, query=accepted.query
            )
        opening = Opening(
            principal=principal, path=named, query=accepted.query, workspace_id=workspace_id
        )
        language = Conversation(socket, opening)
        for asked in language.beginning.follows:
            await check_may_follow(rt.service.sessions, asked, principal)
        return language

    def _check_not_draining(self) -> None:
        if self._clients.is_ending or self._rt.service.is_draining:
            raise DrainingError("the server shuts down")

    def _check_client_id(self, client_id: str) -> None:
        check_id(client_id, chars_max=self._rt.limits.id_chars_max, what="client id")

    def release(self, accepted: Accepted) -> None:
        """Count a socket no more that was admitted: it has ended, or never began."""
        if accepted.identity is None:
            self._unknown -= 1
            return
        assert accepted.place is not None, "taken when it was known"
        self._clients.leave(accepted.place)

    # ----------------------------------------------------------------------------- its life

    async def handle(self, transport: SocketTransport, accepted: Accepted) -> None:
        """Serve a client that was admitted until its connection ends."""
        greeting = b""
        if accepted.refused is not None:
            phrase = HTTPStatus(http_status(accepted.refused)).phrase
            await transport.aclose(_code_of(accepted.refused), phrase)
            return
        if accepted.identity is None:
            try:
                greeting = await self._introduce(transport, accepted)
            except DalsegnoError as error:
                await transport.aclose(_code_of(error), error.code)
                return
            transport.lift_bound(self._rt.limits)
        identity = accepted.identity
        assert identity is not None, "introduced"
        assert accepted.place is not None, "taken when it was known"
        connection = Connection(
            transport,
            self._rt.service.sessions,
            user_id=identity.user_id,
            session_id=identity.session_hash,
            client_id=accepted.client_id,
            tab=accepted.place.tab,
            address=accepted.address,
            expires_at=identity.expires_at,
            renew=partial(self._renew, accepted.credentials) if identity.is_renewable else None,
            language=accepted.language,
        )

        async def check() -> None:
            if accepted.credentials.ticket:
                await check_lasts(self._rt, identity)
            else:
                await self._gate.identify(accepted.credentials)

        with self._clients.serving(connection, accepted.place):
            await connection.run(check, greeting=greeting)

    async def _introduce(self, transport: SocketTransport, accepted: Accepted) -> bytes:
        """Read who an unknown client is; return the answer.

        Raises:
            DalsegnoError: it says nothing in time, something else, or what proves nothing; the
                server is shutting down, or cannot tell now.

        """
        with trio.CancelScope() as ending:
            self._introducing.add(ending)
            try:
                self._check_not_draining()
                asked = await self._first_message(transport)
                shown = accepted.credentials.instead(asked.token)
                identity = await self._identify_in_time(shown)
                accepted.language = await self._language(accepted, identity)
            finally:
                self._introducing.discard(ending)
            self._take(accepted, identity)
            self._unknown -= 1
            accepted.identity, accepted.credentials = identity, shown
            expires_in_ms = _proof_of(identity).expires_in_ms(self._rt.world.now())
            said = self._rt.service.sessions.language.default.authenticated(asked, expires_in_ms)
            return said or b""
        raise DrainingError("the server shuts down")

    async def _first_message(self, transport: SocketTransport) -> Authenticate:
        limits = self._rt.limits
        with trio.move_on_after(limits.authenticate_deadline_s) as waiting:
            received = await transport.receive()
        if waiting.cancelled_caught:
            raise Reject("AUTH_REQUIRED", "no token came in time")
        if isinstance(received, bytes):
            raise Reject("BAD_REQUEST", "binary payloads are unsupported")
        asked = self._rt.service.sessions.language.decode(received, limits)
        if not isinstance(asked, Authenticate):
            raise Reject("AUTH_REQUIRED", "the first message is authenticate")
        return asked

    async def _identify_in_time(self, shown: Credentials) -> Identity:
        try:
            with trio.fail_after(self._rt.limits.command_deadline_s):
                return await self._gate.identify(shown)
        except trio.TooSlowError:
            raise StoreUnavailableError("authentication takes too long") from None

    def end_unknown(self) -> None:
        """Close the sockets whose client is unknown, and admit no more."""
        self._clients.is_ending = True
        for scope in self._introducing:
            scope.cancel(reason="the server shuts down")

    async def _renew(self, given: Credentials, token: str) -> Proof:
        """Check the token with which a client wants to stay."""
        return _proof_of(await self._identify_in_time(given.instead(token)))

    def connections(self) -> list[Connection]:
        """Return this port's connections that are not ending, in the order they came: those of
        event streams, too.
        """
        return [each for each in self._rt.service.connections if each in self._clients]


def _proof_of(identity: Identity) -> Proof:
    return Proof(identity.user_id, identity.session_hash, identity.expires_at)


def _code_of(error: DalsegnoError) -> Close:
    """Return the code that closes the socket of a client that stays unknown."""
    match error:
        case DrainingError():
            return Close.GOING_AWAY
        case OverloadedError():
            return Close.TRY_AGAIN
        case Reject() if error.code == "ROLE_FORBIDDEN":
            return Close.FORBIDDEN
        case Reject() if error.code.endswith("_NOT_FOUND"):
            return Close.NOT_FOUND
        case Reject():
            return Close.UNAUTHORIZED
    return Close.INTERNAL  # a database that is away says nothing about the token
