"""A workspace as a program on asyncio uses it: `dalsegno.runtime.Workspace`, awaited elsewhere."""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

import msgspec

from dalsegno.runtime import Entities, Event, Recorded, Workspace

from ._events import AioEvents

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from dalsegno.protocol import Domain, Principal

    from ._bridge import Bridge

P = ParamSpec("P")
T = TypeVar("T")
StateT = TypeVar("StateT", bound=msgspec.Struct)
CommandT = TypeVar("CommandT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)


def _crossing(
    method: Callable[Concatenate[Workspace, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[AioWorkspace, P], Coroutine[Any, Any, T]]:
    """Return a method that awaits a workspace's in Trio's thread."""

    async def cross(self: AioWorkspace, /, *arguments: P.args, **settings: P.kwargs) -> T:
        return await self.bridge.run(partial(method, self.workspace, *arguments, **settings))

    update_wrapper(cross, method)
    return cross


class AioWorkspace:
    """A handle of one workspace for one principal; cheap to make and to discard.

    Each method is the one of `dalsegno.runtime.Workspace`, with its arguments and its errors, and
    raises `RuntimeClosedError` once the runtime's block is left.  Cancelled, it is cancelled there.
    """

    def __init__(self, bridge: Bridge[Any], workspace: Workspace) -> None:
        self.bridge = bridge
        self.workspace = workspace
        """To be awaited in Trio's thread alone."""

    def __repr__(self) -> str:
        return f"<AioWorkspace {self.workspace!r}>"

    @property
    def id(self) -> str:
        """The workspace's id."""
        return self.workspace.id

    @property
    def principal(self) -> Principal:
        """Who acts."""
        return self.workspace.principal

    def acting(
        self, *, user_id: str, role: str | None = None, address: str | None = None
    ) -> AioWorkspace:
        """Return a handle that acts for a user; see `Workspace.acting`."""
        acting = self.workspace.acting(user_id=user_id, role=role, address=address)
        return AioWorkspace(self.bridge, acting)

    def of(self, domain: Domain[StateT, CommandT, EventT]) -> AioEntities[StateT, CommandT, EventT]:
        """Return the entities of one domain, typed."""
        return AioEntities(self, domain)

    send = _crossing(Workspace.send)
    send_all = _crossing(Workspace.send_all)
    send_json = _crossing(Workspace.send_json)
    check_may_send = _crossing(Workspace.check_may_send)
    has_answered = _crossing(Workspace.has_answered)
    get = _crossing(Workspace.get)
    look = _crossing(Workspace.look)
    at = _crossing(Workspace.at)
    history = _crossing(Workspace.history)
    entities = _crossing(Workspace.entities)
    snapshot = _crossing(Workspace.snapshot)
    keys = _crossing(Workspace.keys)
    events = _crossing(Workspace.events)
    head = _crossing(Workspace.head)
    repair = _crossing(Workspace.repair)
    records = _crossing(Workspace.records)
    role = _crossing(Workspace.role)
    role_of = _crossing(Workspace.role_of)

    def subscribe(self, *, after: int | str | None = 0) -> AioEvents[Event]:
        """Subscribe to every event after a cursor; see `Workspace.subscribe`."""
        return AioEvents(self.bridge, partial(self.workspace.subscribe, after=after), _event_size)


class AioEntities(Generic[StateT, CommandT, EventT]):
    """One domain's entities in one workspace, typed end to end."""

    def __init__(self, workspace: AioWorkspace, domain: Domain[StateT, CommandT, EventT]) -> None:
        self._bridge = workspace.bridge
        self._entities: Entities[StateT, CommandT, EventT] = workspace.workspace.of(domain)
        self.send = self._crossed(self._entities.send)
        """See `Workspace.send`."""
        self.get = self._crossed(self._entities.get)
        """See `Workspace.get`."""
        self.at = self._crossed(self._entities.at)
        """See `Workspace.at`."""

    def _crossed(
        self, method: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        async def cross(*arguments: P.args, **settings: P.kwargs) -> T:
            return await self._bridge.run(partial(method, *arguments, **settings))

        return update_wrapper(cross, method)

    def subscribe(
        self, entity_id: str, *, after: int | str | None = 0
    ) -> AioEvents[Recorded[EventT]]:
        """Subscribe to one entity's events after a version; see `Entities.subscribe`."""
        subscribe = partial(self._entities.subscribe, entity_id, after=after)
        return AioEvents(self._bridge, subscribe, _recorded_size)


def _event_size(event: Event) -> int:
    return len(event.payload)


def _recorded_size(recorded: Recorded[Any]) -> int:
    return len(recorded.record.payload)
