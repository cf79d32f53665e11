"""Following a domain's entities: a list as of one moment, then its changes, and a list anew.

A list comes in pages, and each page shows a moment of its own.  So what changed between the first
moment and the last is read once more, at the version that it had at the last one: the events in
between say which entities those are.  The whole is then as of the last moment, whatever was written
meanwhile, and no event of the domain has to be understood for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import msgspec
import trio

from dalsegno.protocol import DalsegnoError, Listed, Reject

from ._values import RemoteChange, RemoteSnapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from dalsegno.protocol import Domain

    from ._policy import Attempts, ClientLimits
    from ._stream import Place, Stream
    from ._wire import RemoteEvent

StateT = TypeVar("StateT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)
T = TypeVar("T")

_LOST = {"CURSOR_AHEAD", "CURSOR_DIVERGED", "STALE_CURSOR"}
"""Why a stream cannot go on from where it was: what the program has is not of this log."""


class Following(Protocol):
    """What following needs of the client."""

    limits: ClientLimits

    @property
    def has_ended(self) -> bool:
        """Whether there will be no further answers."""

    def attach(self, stream_id: str, *, cursor: int) -> tuple[Stream, Place]:
        """Join a stream, or follow it; see `Client.attach`."""

    def is_following(self, stream_id: str) -> bool:
        """Return whether there is a stream to join."""

    def attempts(self) -> Attempts:
        """Return a count of failures in a row."""


class Reading(Protocol):
    """What following needs of the workspace."""

    id: str

    async def snapshot(
        self, domain: Domain[StateT, Any, Any], *, after: str | None = None
    ) -> RemoteSnapshot[StateT]:
        """Read a page; see `RemoteWorkspace.snapshot`."""

    async def at(
        self, domain: Domain[StateT, Any, Any], entity_id: str, version: int
    ) -> StateT | None:
        """Read a state as it was; see `RemoteWorkspace.at`."""


class _Pages(Generic[StateT]):
    """All entities, each page's as of its own moment."""

    def __init__(self) -> None:
        self.items: dict[str, Listed[StateT]] = {}
        self.lowest = self.highest = 0
        """The first moment, and the last."""

    def add(self, page: RemoteSnapshot[StateT]) -> None:
        is_first = not self.items
        self.items.update((item.entity_id, item) for item in page.items)
        self.lowest = page.event_seq if is_first else min(self.lowest, page.event_seq)
        self.highest = max(self.highest, page.event_seq)


class Follow(Generic[StateT, EventT]):
    """An async iterator of a list and its changes; see `RemoteWorkspace.follow`."""

    def __init__(
        self, client: Following, workspace: Reading, domain: Domain[StateT, Any, EventT]
    ) -> None:
        self._client = client
        self._workspace = workspace
        self._domain = domain
        self._stream_id = f"workspace:{workspace.id}"
        self._attempts = client.attempts()
        self._joined: tuple[Stream, Place] | None = None
        """The subscription, from a snapshot on until it cannot go on."""
        self._since = 0.0
        self._is_open = False

    def __repr__(self) -> str:
        state = "live" if self._joined else "reading"
        return f"<Follow {self._domain.name} of {self._stream_id} {state}>"

    async def __aenter__(self) -> Self:
        """Begin; the first snapshot is read with the first iteration."""
        self._is_open = True
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop following."""
        self._is_open = False
        self._leave()
        await trio.lowlevel.cancel_shielded_checkpoint()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RemoteSnapshot[StateT] | RemoteChange[EventT]:
        """Wait for the next change, or read the list; cancelled, neither is lost.

        Raises:
            Reject: as from `Events`, but for what a new snapshot is an answer to; and
                ``LIST_TOO_LONG`` for more entities than ``limits.follow_entities_max``.
            UnavailableError: not within the attempts that are allowed.
            UnreachableError: likewise.
            DisconnectedError: as from `Events`.
            WorkspaceHaltedError: the workspace needs a repair first.

        """
        while self._is_open:
            try:
                if self._joined is None:
                    return await self._read()
                stream, place = self._joined
                event = await stream.next(place)
            except DalsegnoError as error:
                if error.code not in _LOST:
                    raise
                self._leave()
                await trio.sleep(self._attempts.after(error))
                continue
            self._attempts.reset()
            if self._is_ours(event):
                return self._change_of(event)
        raise StopAsyncIteration

    def _leave(self) -> None:
        if self._joined is None:
            return
        stream, place = self._joined
        stream.leave(place)
        self._joined = None
        if trio.current_time() - self._since >= self._client.limits.backoff_max_s:
            self._attempts.reset()  # it did go on meanwhile, though nothing happened

    async def _read(self) -> RemoteSnapshot[StateT]:
        """Read the list, and join the stream where it ends."""
        joined = None
        if self._client.is_following(self._stream_id):
            joined = self._client.attach(self._stream_id, cursor=0)
        try:
            pages = await self._read_pages()
            if joined is None:
                joined = self._client.attach(self._stream_id, cursor=pages.lowest)
            stream, place = joined
            await stream.wait_began()
            if stream.begins_after(place) > pages.lowest:  # another task followed it meanwhile
                pages = await self._read_pages()
            await self._bring_up(pages, stream, place)
        except BaseException:
            if joined is not None:
                joined[0].leave(joined[1])
            raise
        self._joined = joined
        self._since = trio.current_time()
        in_order = sorted(pages.items.values(), key=lambda item: item.entity_id)
        return RemoteSnapshot(event_seq=pages.highest, items=in_order, next=None)

    async def _read_pages(self) -> _Pages[StateT]:
        """Read all entities."""
        most = self._client.limits.follow_entities_max
        pages: _Pages[StateT] = _Pages()
        after = None
        while True:
            page = await self._patiently(
                lambda: self._workspace.snapshot(self._domain, after=after)  # noqa: B023 - at once
            )
            pages.add(page)
            if len(pages.items) > most:
                raise Reject("LIST_TOO_LONG", "too many to be followed as a list", limit=most)
            if page.next is None:
                return pages
            after = page.next

    async def _bring_up(self, pages: _Pages[StateT], stream: Stream, place: Place) -> None:
        """Show every entity as it was at the last moment of any page.

        Raises:
            Reject: ``CURSOR_AHEAD`` where the events are of another history than the list.

        """
        at = stream.begins_after(place)
        if at > pages.lowest:
            raise Reject("CURSOR_AHEAD", "the list is older than the events", event_seq=at)
        changed: dict[str, RemoteEvent] = {}
        while at < pages.highest:
            event = await stream.next(place)
            at = event.seq
            if at > pages.lowest and self._is_ours(event):
                changed[event.entity_id] = event
        for event in changed.values():
            await self._read_again(pages.items, event)

    async def _read_again(self, items: dict[str, Listed[StateT]], event: RemoteEvent) -> None:
        """Show an entity as it was after an event."""
        state = await self._patiently(
            lambda: self._workspace.at(self._domain, event.entity_id, event.version)
        )
        if state is None:
            items.pop(event.entity_id, None)
            return
        index = self._domain.indexed(state)
        items[event.entity_id] = Listed(
            entity_id=event.entity_id,
            version=event.version,
            state=state,
            keys=index.keys,
            sort=index.sort,
            title=index.title,
            updated_at=event.recorded_at,
        )

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask over HTTP, again where that may help."""
        while True:
            try:
                return await ask()
            except DalsegnoError as error:
                if not error.retryable or self._client.has_ended:
                    raise
                delay_s = self._attempts.after(error)
            await trio.sleep(delay_s)

    def _is_ours(self, event: RemoteEvent) -> bool:
        return event.entity.partition(":")[0] == self._domain.name

    def _change_of(self, event: RemoteEvent) -> RemoteChange[EventT]:
        return RemoteChange(
            entity_id=event.entity_id,
            version=event.version,
            event_seq=event.event_seq,
            event=self._decoded(event),
            record=event,
        )

    def _decoded(self, event: RemoteEvent) -> EventT | None:
        """Return the domain's event; None if that is not what is shown, or it is another's."""
        domain = self._domain
        if domain.has_view or event.event_type not in domain.events:
            return None
        version = domain.type_version(event.event_type)
        try:
            return domain.decode(event.event_type, version, bytes(event.payload).decode())
        except DalsegnoError:
            return None  # written by another release, whose form it has
