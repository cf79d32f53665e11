"""A workspace as a remote program uses it: typed by the domains of its app, as in the server's own.

What is asked once goes over HTTP, commands and events over the client's socket.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from dalsegno.protocol import DomainError, Listed, Reject

from ._follow import Follow, Following
from ._values import RemoteEntity, RemoteSnapshot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dalsegno.protocol import App, Domain

    from ._events import Events
    from ._presence import Presence
    from ._wire import Committed

StateT = TypeVar("StateT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)


class Asking(Following, Protocol):
    """What a workspace needs of its client."""

    async def send(
        self, workspace_id: str, name: str, payload: msgspec.Struct, *, key: str | None = None
    ) -> Committed:
        """Send a command; see `Client.send`."""

    def subscribe(
        self,
        stream_id: str,
        *,
        workspace_id: str | None = None,
        cursor: int | str | None = None,
    ) -> Events:
        """Subscribe to a stream; see `Client.subscribe`."""

    def presence(self, workspace_id: str, state: Any = None) -> Presence:  # noqa: ANN401 - JSON
        """Be present in a workspace; see `Client.presence`."""

    async def ask(self, path: str, query: Mapping[str, str]) -> bytes:
        """Read something over HTTP; see `Client.ask`."""


class _Entity(msgspec.Struct):
    """An entity, as the server shows it."""

    entity_id: str
    version: int
    event_seq: int
    state: msgspec.Raw


class _Item(msgspec.Struct):
    entity_id: str
    version: int
    title: str | None
    keys: tuple[str, ...]
    sort: str | None
    updated_at: datetime
    state: msgspec.Raw


class _Page(msgspec.Struct):
    items: list[_Item]
    next: str | None
    event_seq: int


class RemoteWorkspace:
    """A handle of one workspace; cheap to make and to discard."""

    def __init__(self, client: Asking, workspace_id: str, names: Mapping[type, str]) -> None:
        self.id = workspace_id
        self._client = client
        self._names = names

    def __repr__(self) -> str:
        return f"<RemoteWorkspace {self.id} of {self._client!r}>"

    async def send(self, command: msgspec.Struct, *, key: str | None = None) -> Committed:
        """Send a command of the app's and wait until its change is durable; see `Client.send`.

        Raises:
            DomainError: the app that the client was opened with has no such command.

        """
        name = self._names.get(type(command))
        if name is None:
            raise DomainError(f"no domain of this client's app knows {type(command).__name__}")
        return await self._client.send(self.id, name, command, key=key)

    async def get(
        self, domain: Domain[StateT, Any, Any], entity_id: str, *, min_seq: int | None = None
    ) -> StateT | None:
        """Read an entity's state; None if it does not exist.

        Args:
            domain: the entity's domain.
            entity_id: the entity's id.
            min_seq: wait, bounded, until the answer reflects this ``event_seq``.

        Raises:
            Reject: refused, with a code.
            UnavailableError: not now.
            UnreachableError: the server does not answer.

        """
        found = await self.look(domain, entity_id, min_seq=min_seq)
        return None if found is None else found.state

    async def look(
        self, domain: Domain[StateT, Any, Any], entity_id: str, *, min_seq: int | None = None
    ) -> RemoteEntity[StateT] | None:
        """Read an entity with its version; None if it does not exist.  See `get`."""
        query = {} if min_seq is None else {"min_seq": str(min_seq)}
        return await self._look(domain, entity_id, query)

    async def _look(
        self, domain: Domain[StateT, Any, Any], entity_id: str, query: Mapping[str, str]
    ) -> RemoteEntity[StateT] | None:
        try:
            answer = await self._ask(domain, f"/{quote(entity_id, safe='')}", query)
        except Reject as error:
            if error.code != f"{domain.name.upper()}_NOT_FOUND":
                raise
            return None
        said = msgspec.json.decode(answer, type=_Entity)
        return RemoteEntity(
            entity_id=said.entity_id,
            version=said.version,
            event_seq=said.event_seq,
            state=_state_of(domain, said.state),
        )

    async def at(
        self, domain: Domain[StateT, Any, Any], entity_id: str, version: int
    ) -> StateT | None:
        """Read an entity's state as it was at one of its versions; None if it did not exist then.

        Raises:
            Reject: ``VERSION_NOT_FOUND`` for one that it has not had; and as `get`.
            UnavailableError: as `get`.
            UnreachableError: as `get`.

        """
        found = await self._look(domain, entity_id, {"at_version": str(version)})
        return None if found is None else found.state

    async def snapshot(
        self,
        domain: Domain[StateT, Any, Any],
        *,
        key: str | None = None,
        after: str | None = None,
        limit: int = 100,
        min_seq: int | None = None,
    ) -> RemoteSnapshot[StateT]:
        """List entities with their states, and the number at which all of it held.

        Whoever subscribes after that number sees every change since, and none that is in the list.
        Of several pages that is the lowest number.

        Args:
            domain: the entities' domain.
            key: only those that carry it, in the order of their ``sort``; empty: those that have
                one; None: all, in the order of their ids.
            after: where the page before ended, its ``next``.
            limit: at most so many.
            min_seq: wait, bounded, until the page reflects this ``event_seq``.

        Raises:
            Reject: as `get`.
            UnavailableError: as `get`.
            UnreachableError: as `get`.

        """
        given = {"key": key, "after": after, "min_seq": None if min_seq is None else str(min_seq)}
        query = {name: value for name, value in given.items() if value is not None}
        query |= {"states": "true", "limit": str(limit)}
        page = msgspec.json.decode(await self._ask(domain, "", query), type=_Page)
        items = [
            Listed(
                entity_id=item.entity_id,
                version=item.version,
                state=_state_of(domain, item.state),
                keys=item.keys,
                sort=item.sort,
                title=item.title,
                updated_at=item.updated_at,
            )
            for item in page.items
        ]
        return RemoteSnapshot(event_seq=page.event_seq, items=items, next=page.next)

    def follow(self, domain: Domain[StateT, Any, EventT]) -> Follow[StateT, EventT]:
        """Follow a domain's entities, inside ``async with``: all of them, then every change.

        It yields a `RemoteSnapshot` with all entities as of one moment, and then a `RemoteChange`
        for each event after it.  Where the changes in between cannot be had (a log that was
        restored, or is no longer kept so far back), it yields another snapshot and goes on after
        that one: what the program had until then is to be replaced by it.

        All that one client follows in a workspace shares one subscription, as with `Events.share`:
        each loop has a task of its own, and none waits for another.  It joins a `subscribe` that
        is there; none can be begun while it is the only one.  It acknowledges nothing, and no ack
        waits for it.

        Args:
            domain: the entities' domain.

        """
        return Follow(self._client, self, domain)

    def subscribe(self, *, after: int | str | None = None) -> Events:
        """Subscribe to every event after a cursor; see `Client.subscribe`."""
        return self._client.subscribe(f"workspace:{self.id}", cursor=after)

    def subscribe_to(
        self, domain: Domain[Any, Any, Any], entity_id: str, *, after: int | str | None = None
    ) -> Events:
        """Subscribe to one entity's events after one of its versions, or a cursor."""
        stream_id = domain.stream_id(entity_id)
        return self._client.subscribe(stream_id, workspace_id=self.id, cursor=after)

    def presence(self, state: Any = None) -> Presence:  # noqa: ANN401 - JSON
        """Be present here, and see who else is; see `Client.presence`."""
        return self._client.presence(self.id, state)

    async def _ask(
        self, domain: Domain[Any, Any, Any], path: str, query: Mapping[str, str]
    ) -> bytes:
        space = f"/api/workspaces/{quote(self.id, safe='')}/entities/{domain.name}"
        return await self._client.ask(space + path, query)


def names_of(app: App) -> dict[type, str]:
    """Return the names of an app's commands."""
    return {type_: name for domain in app.domains for name, type_ in domain.commands.items()}


def _state_of(domain: Domain[StateT, Any, Any], document: msgspec.Raw) -> StateT:
    state = domain.decode_state(bytes(document).decode())
    assert state is not None, "it exists"
    return state
