"""Who is present in a workspace, as a program sees it, and what it says of itself.

    asking ──(the list)──▶ told ──(a change that does not follow)──▶ asking
    told ──(the connection was lost, or the workspace moved)──▶ asking
    any ──(the server refuses, or it is left)──▶ ended

Only the newest view is kept: a loop that takes its time sees fewer of them.  While there is no
connection the last one stands, and is not settled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import trio

from dalsegno.protocol import DalsegnoError, Reject, WorkspaceMovedError
from dalsegno.protocol.dialects import Attend, ChangeState, Leave

from ._wire import UNTRACKED, RemoteUser, encode

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from ._link import Link
    from ._policy import Attempts, ClientLimits
    from ._wire import PresenceChanged, PresenceListed


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceView:
    """Who is present, at one moment."""

    users: Mapping[str, RemoteUser]
    """By id: of many the newest, of very many none."""
    total: int
    """How many users there are."""
    settled: bool
    """Whether whoever was present and is not here has left; else they may be on their way."""
    connection_id: str | None
    """Which of the connections is this program's."""


class PresenceClient(Protocol):
    """What presence needs of the client that has it."""

    def attend(self, presence: Presence) -> None:
        """Be present on this connection and those after it."""

    def absent(self, presence: Presence) -> None:
        """Be present no longer."""

    def new_request_id(self) -> str:
        """Return an id for a request."""


class Presence:
    """This program's presence in a workspace, and a loop over the others', in ``async with``."""

    def __init__(
        self,
        client: PresenceClient,
        workspace_id: str,
        state: Any,  # noqa: ANN401 - JSON
        attempts: Attempts,
        limits: ClientLimits,
    ) -> None:
        self.workspace_id = workspace_id
        self.attempts = attempts
        self._client = client
        self._limits = limits
        self._state = self._encoded(state)
        self._link: Link | None = None
        self._request_id: str | None = None
        """Of the question that waits for the list; None: it is told."""
        self._place: tuple[str, int] | None = None
        """Epoch and revision of what it was told."""
        self._view = PresenceView(
            users=MappingProxyType({}), total=0, settled=False, connection_id=None
        )
        self._has_news = trio.Event()
        self._was_told = False
        self._error: DalsegnoError | None = None
        self._is_left = False

    def __repr__(self) -> str:
        state = "ended" if self._error else "asking" if self._request_id else "told"
        return f"<Presence in {self.workspace_id} {state}, {self._view.total} users>"

    # -------------------------------------------------------------------------- the program's side

    @property
    def view(self) -> PresenceView:
        """Who is present, as far as is known."""
        return self._view

    def say(self, state: Any) -> None:  # noqa: ANN401 - JSON
        """Say something else of oneself; only the newest is sent.

        Raises:
            Reject: ``BAD_REQUEST``: it is too long; the one before stays.
            trio.ClosedResourceError: this was left.

        """
        if self._is_left:
            raise trio.ClosedResourceError("this presence was left")
        self._state = self._encoded(state)
        if self._link is not None:
            said = ChangeState(
                workspace_id=self.workspace_id, state=self._state, request_id=UNTRACKED
            )
            self._link.replace(self._key, encode(said))

    def _encoded(self, state: Any) -> msgspec.Raw:  # noqa: ANN401 - JSON
        encoded = msgspec.json.encode(state)
        if len(encoded) > self._limits.state_bytes_max:
            bytes_max = self._limits.state_bytes_max
            raise Reject("BAD_REQUEST", "the state is too long", bytes_max=bytes_max)
        return msgspec.Raw(encoded)

    async def __aenter__(self) -> Self:
        """Be present, waiting for a server that cannot be reached.

        Raises:
            trio.BusyResourceError: this client is present there already.
            Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``BAD_REQUEST``.
            WorkspaceHaltedError: the workspace needs a repair first.
            UnavailableError: not within the attempts that are allowed.
            UnreachableError: no connection within the attempts that are allowed.
            DisconnectedError: the server refuses further connections.

        """
        if self._is_left:
            raise trio.ClosedResourceError("be present anew: this was left")
        self._client.attend(self)
        try:
            while not self._was_told:
                await self._next_news()
        except BaseException:
            self._leave()
            raise
        self._has_news.set()  # for the loop
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Be present no longer."""
        self._leave()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> PresenceView:
        """Wait until something has changed since it was last returned; return how it is now.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` for who was removed; ``STATE_CONFLICT`` where another
                connection of the same tab is present in its place.
            UnavailableError: as from ``__aenter__``; so are the others.

        """
        await self._next_news()
        return self._view

    async def _next_news(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._is_left:
            raise StopAsyncIteration
        if self._error is None:
            await self._has_news.wait()
        if self._error is not None:
            raise self._error
        self._has_news = trio.Event()

    def _leave(self) -> None:
        if not self._is_left:
            self._is_left = True
            self._client.absent(self)
            if self._link is not None and self._error is None:
                self._link.forget(self._key)
                said = Leave(workspace_id=self.workspace_id, request_id=UNTRACKED)
                self._link.say(encode(said))  # in order: the program may be present again at once

    # ------------------------------------------------------------------------ the server's side

    @property
    def _key(self) -> str:
        return f"presence {self.workspace_id}"

    def connected(self, link: Link) -> None:
        """Be present on a new connection."""
        self._link = link
        self.ask()

    def disconnected(self) -> None:
        """Wait for the next connection; what is known may be wrong by then."""
        self._link = self._request_id = self._place = None
        self._show(replace(self._view, settled=False))

    def ask(self) -> None:
        """Ask for the list, unless there is no connection, or it has ended."""
        if self._link is None or self._error is not None:
            return
        self._place = None
        self._request_id = self._client.new_request_id()
        said = Attend(
            workspace_id=self.workspace_id, state=self._state, request_id=self._request_id
        )
        self._link.say(encode(said))

    def is_asking(self, request_id: str) -> bool:
        """Return whether that request is the one that waits for its answer."""
        return self._error is None and self._request_id == request_id

    def listed(self, said: PresenceListed) -> None:
        """Take the whole list."""
        self._request_id = None
        self._place = said.epoch, said.rev
        self._was_told = True
        self.attempts.reset()
        known = self._view.connection_id
        self._show(
            PresenceView(
                users=MappingProxyType({user.user_id: user for user in said.users}),
                total=said.total,
                settled=said.settled,
                connection_id=known if said.connection_id is None else said.connection_id,
            )
        )

    def changed(self, said: PresenceChanged) -> None:
        """Take a change; where it does not follow, ask for the list."""
        if self._place is None:
            return  # the list comes
        epoch, rev = self._place
        if (said.epoch, said.rev) != (epoch, rev + 1):
            self.ask()
            return
        self._place = epoch, said.rev
        gone = {*said.left}
        users = {id_: user for id_, user in self._view.users.items() if id_ not in gone}
        users |= {user.user_id: user for user in (*said.joined, *said.changed)}
        self._show(
            replace(
                self._view,
                users=MappingProxyType(users),
                total=said.total,
                settled=said.settled,
            )
        )

    def refused(self, error: DalsegnoError) -> float | None:
        """Note that the server refuses it, or has ended it.

        Returns:
            After how many seconds to ask again; None: not on this connection, or never.

        """
        self._request_id = self._place = None
        self._show(replace(self._view, settled=False))
        if isinstance(error, WorkspaceMovedError):
            return None  # a new connection asks
        if not error.retryable:
            self.fail(error)
            return None
        try:
            return self.attempts.after(error)
        except DalsegnoError as last:
            self.fail(last)
            return None

    def fail(self, error: DalsegnoError) -> None:
        """End."""
        self._error = self._error or error
        self._has_news.set()

    def _show(self, view: PresenceView) -> None:
        if view != self._view:
            self._view = view
            self._has_news.set()
