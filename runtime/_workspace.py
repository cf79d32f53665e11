"""A workspace as a host's program uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec

from dalsegno.actors import (
    SYSTEM_ROLE,
    AuditFilter,
    AuditPlace,
    EventStream,
    PageBounds,
    Receipt,
    list_entities,
    list_keys,
    look,
    look_at,
    read_head,
    send,
    send_all,
    snapshot,
)
from dalsegno.protocol import (
    BEGINNING,
    SYSTEM,
    CorruptLogError,
    DalsegnoError,
    Event,
    Place,
    Principal,
    Reject,
    Snapshot,
    encode_checked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from dalsegno.actors import AuditRecord, Entity, EntityItem, RepairReport, Service
    from dalsegno.protocol import Domain

StateT = TypeVar("StateT", bound=msgspec.Struct)
CommandT = TypeVar("CommandT", bound=msgspec.Struct)
EventT = TypeVar("EventT", bound=msgspec.Struct)


_ADMINS = frozenset({"owner", "admin"})
EVERY_RECORD = AuditFilter()
NEWEST = AuditPlace()


class Workspace:
    """A handle of one workspace for one principal; cheap to make and to discard."""

    def __init__(self, service: Service, workspace_id: str, principal: Principal = SYSTEM) -> None:
        self.id = workspace_id
        self.principal = principal
        self._service = service

    def __repr__(self) -> str:
        return f"<Workspace {self.id} by {self.principal.user_id or 'the program'}>"

    def acting(
        self,
        *,
        user_id: str,
        role: str | None = None,
        address: str | None = None,
        connection_id: str | None = None,
    ) -> Workspace:
        """Return a handle that acts for a user; with ``role`` None the log decides the role.

        ``address`` is where the user's request came from, for what is put on record of it.
        ``connection_id`` is a connection of a server of ours, with which runs may end that are
        asked for; None: they end with none.
        """
        principal = Principal(user_id, role, address, connection_id)
        return Workspace(self._service, self.id, principal)

    def of(self, domain: Domain[StateT, CommandT, EventT]) -> Entities[StateT, CommandT, EventT]:
        """Return the entities of one domain, typed."""
        return Entities(self, domain)

    async def send(
        self,
        command: msgspec.Struct,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        causation: str | None = None,
    ) -> Receipt:
        """Send a command and wait until its change is durable.

        Cancelled, the command may have committed, or may yet: send it again with the same ``key``.

        Args:
            command: one of a domain's commands.
            key: an idempotency key, 1 to 256 characters; a repeat gets the original receipt.
            correlation_id: what this belongs to, recorded with the events.
            causation: the event or command that led to this one, recorded with the events.

        Raises:
            Reject: refused, with a code; nothing happened.
            UnavailableError: not applied: overloaded, the store is unavailable, or shutting down.
            OutcomeUnknownError: may have been applied; repeat it with the same key to find out.
            WorkspaceHaltedError: the log needs a repair first.

        """
        service = self._service
        return await send(
            service.directory,
            service.catalog,
            self.id,
            command,
            principal=self.principal,
            key=key,
            correlation_id=correlation_id,
            causation=causation,
        )

    async def send_all(
        self,
        commands: Sequence[msgspec.Struct],
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        causation: str | None = None,
    ) -> list[Receipt]:
        """Send commands that take effect all or none; wait until their changes are durable.

        They are decided in order, each on what those before it made, with nothing in between: a
        ``base_version`` counts what they made themselves, and so do roles.  They may be of several
        domains.  The key is that of all of them together.

        Returns:
            A receipt for each; none for none.

        Raises:
            Reject: one of them was refused, and ``details["command"]`` counts which, from 0.
                ``BAD_REQUEST`` for more than ``limits.group_commands_max`` of them, more than
                ``limits.group_bytes_max``, or more than ``limits.command_events_max`` events.
            UnavailableError: as in `send`.
            OutcomeUnknownError: as in `send`.
            WorkspaceHaltedError: as in `send`.

        """
        service = self._service
        receipts = await send_all(
            service.directory,
            service.catalog,
            self.id,
            commands,
            principal=self.principal,
            key=key,
            correlation_id=correlation_id,
            causation=causation,
        )
        return list(receipts)

    async def send_json(
        self,
        name: str,
        payload: bytes | Mapping[str, Any],
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        causation: str | None = None,
    ) -> Receipt:
        """Send a command by its name, as it comes over the network; see `send`.

        Args:
            name: the command's, ``add_task``.
            payload: its fields, as JSON or as what JSON is made of; checked as a client's are.
            key: an idempotency key.
            correlation_id: what this belongs to.
            causation: the event or command that led to this one.

        Raises:
            Reject: ``UNKNOWN_COMMAND``; ``BAD_REQUEST``, ``PAYLOAD_TOO_LARGE`` or a field's own
                code for a payload that is not what it has to be; and what `send` raises.

        """
        catalog, limits = self._service.catalog, self._service.limits
        if not isinstance(payload, bytes):
            payload = encode_checked(payload, nesting_max=limits.nesting_max)
        command = catalog.domain_of(name).decode_command(name, payload, limits)
        return await self.send(command, key=key, correlation_id=correlation_id, causation=causation)

    async def check_may_send(self, command: msgspec.Struct, *, key: str | None = None) -> None:
        """Raise for a command from outside that `send` need not be asked for.

        A stranger neither makes a workspace nor opens one, nor learns which node serves it; who
        has left still gets the answers of before (I5).  In its place in the workspace's order the
        command is judged once more.

        Raises:
            Reject: ``WORKSPACE_NOT_FOUND``, ``ROLE_FORBIDDEN``, ``UNKNOWN_COMMAND``;
                ``BAD_REQUEST`` for what cannot be a key.
            UnavailableError: the store is unavailable.

        """
        await self._service.catalog.check_may_send(self.id, command, self.principal, key)

    async def has_answered(self, command: msgspec.Struct, *, key: str) -> bool:
        """Return whether `send` would find this key answered, by whatever took effect under it.

        Who has left the workspace still gets that answer, so a gate before `send` has to ask.

        Raises:
            Reject: ``UNKNOWN_COMMAND``; ``BAD_REQUEST`` for what cannot be a key.
            UnavailableError: the store is unavailable.

        """
        return await self._service.catalog.has_answered(self.id, command, self.principal, key)

    async def get(
        self, domain: Domain[StateT, Any, Any], entity_id: str, *, min_seq: int | None = None
    ) -> StateT | None:
        """Read an entity's committed state; None if it does not exist.

        Args:
            domain: the entity's domain.
            entity_id: the entity's id.
            min_seq: wait, bounded, until the answer reflects this ``event_seq``.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` if the user is not a member.
            UnavailableError: the store is unavailable, or ``min_seq`` was not reached in time.

        """
        entity = await self.look(domain, entity_id, min_seq=min_seq)
        state: StateT | None = None if entity is None else entity.state
        return state

    async def look(
        self, domain: Domain[Any, Any, Any], entity_id: str, *, min_seq: int | None = None
    ) -> Entity | None:
        """Read an entity with its version; None if it never existed.  See `get`."""
        service = self._service
        return await look(
            service.directory,
            service.catalog,
            self.id,
            domain,
            entity_id,
            principal=self.principal,
            min_seq=min_seq,
        )

    async def at(
        self, domain: Domain[StateT, Any, Any], entity_id: str, version: int
    ) -> StateT | None:
        """Read an entity's state as it was at one of its versions; None if it did not exist then.

        Raises:
            Reject: ``VERSION_NOT_FOUND`` for one that it has not had; ``ROLE_FORBIDDEN``.
            UnavailableError: the store is unavailable.

        """
        service = self._service
        entity = await look_at(
            service.directory,
            service.catalog,
            self.id,
            domain,
            entity_id,
            version,
            principal=self.principal,
        )
        state: StateT | None = entity.state
        return state

    async def history(
        self,
        domain: Domain[Any, Any, Any],
        entity_id: str,
        *,
        after: int = 0,
        limit: int = 100,
    ) -> list[Event]:
        """Read a page of an entity's events, in order, those after one of its versions.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` if the user is not a member.
            UnavailableError: the store is unavailable.

        """
        limits = self._service.limits
        bounds = PageBounds(
            from_seq=after + 1,
            to_event_seq=await self.head(),
            limit=min(limit, limits.list_limit_max),
            bytes_max=limits.page_bytes_max,
        )
        return await self._service.store.read_stream(self.id, domain.stream_id(entity_id), bounds)

    async def entities(
        self,
        domain: Domain[Any, Any, Any],
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int = 100,
        min_seq: int | None = None,
    ) -> list[EntityItem]:
        """List entities that exist, without their states; see `snapshot`."""
        service = self._service
        page = await list_entities(
            service.directory,
            service.catalog,
            self.id,
            domain,
            principal=self.principal,
            key=key,
            after=after,
            limit=limit,
            min_seq=min_seq,
        )
        return page.items

    async def snapshot(
        self,
        domain: Domain[StateT, Any, Any],
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int = 100,
        min_seq: int | None = None,
        newest_first: bool = False,
    ) -> Snapshot[StateT]:
        """List entities that exist with their states, and the number at which all of it held.

        Whoever subscribes after that number sees every change since, and none that is in the list.
        Of several pages that is the lowest number, and what a page has of a higher version is
        dropped: a page shows its own moment.

        Args:
            domain: the entities' domain.
            key: only those that carry it, in the order of their ``sort``; empty: those that have
                one; None: all, in the order of their ids.
            after: where the page before ended, its ``next``.
            limit: at most so many, and `Limits.list_limit_max`; their states and the events since
                are at most `Limits.list_bytes_max`, unless a single one has more.
            min_seq: wait, bounded, until the page reflects this ``event_seq``.
            newest_first: from the end of a key's list to its beginning: of one whose ``sort`` is a
                time, those of the latest.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` if the user is not a member; ``BAD_REQUEST`` for what cannot
                be a key.
            UnavailableError: the store is unavailable; or the domain lists otherwise than before,
                and another node owns the workspace, or this takes longer.
            ValueError: ``newest_first`` without a key.

        """
        service = self._service
        return await snapshot(
            service.directory,
            service.catalog,
            self.id,
            domain,
            principal=self.principal,
            key=key,
            after=after,
            limit=limit,
            min_seq=min_seq,
            newest_first=newest_first,
        )

    async def keys(
        self, domain: Domain[Any, Any, Any], *, prefix: str = "", after: str = "", limit: int = 100
    ) -> list[str]:
        """List the different keys under which entities are listed, in order: for example all tags.

        It costs what is returned, however many entities have each.  The empty key stands for those
        that have a sort.

        Args:
            domain: the entities' domain.
            prefix: only keys that begin so.
            after: the last key of the page before.
            limit: at most so many, and `Limits.list_limit_max`.

        Raises:
            Reject: as `snapshot`.
            UnavailableError: as `snapshot`.

        """
        return await list_keys(
            self._service.directory,
            self._service.catalog,
            self.id,
            domain,
            principal=self.principal,
            prefix=prefix,
            after=after,
            limit=limit,
        )

    async def events(self, *, after: int = 0, limit: int = 100) -> list[Event]:
        """Read a page of the log; concatenated pages are the whole log (X-REP-7)."""
        limits = self._service.limits
        bounds = PageBounds(
            from_seq=after + 1,
            to_event_seq=await self.head(cursor=after),
            limit=min(limit, limits.list_limit_max),
            bytes_max=limits.page_bytes_max,
        )
        return await self._service.store.read_events(self.id, bounds)

    async def head(self, *, cursor: int = 0) -> int:
        """Return the published head: the number of the last event.

        A ``cursor`` that is in the log and not yet published is waited for, bounded.
        """
        service = self._service
        return await read_head(
            service.directory,
            service.catalog,
            self.id,
            principal=self.principal,
            cursor=cursor,
        )

    async def repair(self) -> RepairReport:
        """Verify the log from its first event to its last, and clear a halt marker; audited.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` unless the program, an owner or an admin asks;
                ``WORKSPACE_NOT_FOUND``.
            WorkspaceHaltedError: the log is wrong, as the message says; the workspace stays halted.
            UnavailableError: the store is unavailable, or the workspace was written to meanwhile.

        """
        user_id, role = self.principal.user_id, self.principal.role
        if user_id is not None:
            role = role or await self.role_of(user_id)
            if role not in {"owner", "admin"}:
                raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
        return await self._service.repair(self.id, actor=user_id or "program")

    async def records(
        self,
        which: AuditFilter = EVERY_RECORD,
        *,
        below: AuditPlace = NEWEST,
        limit: int = 100,
    ) -> list[AuditRecord]:
        """Read what is on record here, newest first, interventions from outside with it.

        Args:
            which: only what fits.
            below: where the page before ended: `AuditPlace.behind` each of its records.
            limit: at most so many, and `Limits.list_limit_max`.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` for a user who is neither owner nor admin here.
            UnavailableError: the store is unavailable.

        """
        service = self._service
        await self._check_admin()
        limit = min(limit, service.limits.list_limit_max)
        found = await service.store.read_records(self.id, which, below=below, limit=limit)
        await service.catalog.check_behind(self.id, self.principal)
        await self._check_admin()  # what was committed meanwhile may have taken the role away
        return found

    async def _check_admin(self) -> None:
        user_id, role = self.principal.user_id, self.principal.role
        if user_id is None:
            return
        role = role or await self.role_of(user_id)
        if role not in _ADMINS:
            raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)

    async def role_of(self, user_id: str) -> str | None:
        """Return a user's committed role; None if the user is not a member."""
        return await self._service.catalog.role_of(self.id, user_id)

    async def role(self) -> str | None:
        """Return the acting user's role; None if the user is not a member.

        The program's own handle has the role ``system``.
        """
        if self.principal.user_id is None:
            return SYSTEM_ROLE
        return self.principal.role or await self.role_of(self.principal.user_id)

    def subscribe(self, *, after: int | str | None = 0) -> EventStream:
        """Subscribe to every event after a cursor; None: to every event from now on.

        The iterator yields each event once, in order, however slow the loop is.  A cursor is an
        ``event_seq``, or an `Event.position`, which is told where the log was restored to another
        history: ``CURSOR_DIVERGED``.
        """
        return self._follow(f"workspace:{self.id}", after)

    def _follow(
        self,
        stream_id: str,
        after: int | str | None,
        hears: Callable[[dict[str, Any]], None] | None = None,
    ) -> EventStream:
        return EventStream(
            self._service.sessions,
            self.id,
            stream_id,
            after=after,
            principal=self.principal,
            hears=hears,
        )


class Recorded(msgspec.Struct, Generic[EventT], frozen=True):
    """An event of a domain, decoded, and its record in the log."""

    event: EventT
    record: Event


class Entities(Generic[StateT, CommandT, EventT]):
    """One domain's entities in one workspace, typed end to end."""

    def __init__(self, workspace: Workspace, domain: Domain[StateT, CommandT, EventT]) -> None:
        self._workspace = workspace
        self._domain = domain

    async def send(
        self,
        command: CommandT,
        *,
        key: str | None = None,
        correlation_id: str | None = None,
        causation: str | None = None,
    ) -> Receipt:
        """Send a command and wait until its change is durable; see `Workspace.send`."""
        return await self._workspace.send(
            command, key=key, correlation_id=correlation_id, causation=causation
        )

    async def get(self, entity_id: str, *, min_seq: int | None = None) -> StateT | None:
        """Read an entity's state; see `Workspace.get`."""
        return await self._workspace.get(self._domain, entity_id, min_seq=min_seq)

    async def at(self, entity_id: str, version: int) -> StateT | None:
        """Read an entity's state as it was; see `Workspace.at`."""
        return await self._workspace.at(self._domain, entity_id, version)

    def subscribe(
        self,
        entity_id: str,
        *,
        after: int | str | None = 0,
        hears: Callable[[dict[str, Any]], None] | None = None,
    ) -> EntityEvents[EventT]:
        """Subscribe to one entity's events after a version, or an `Event.entity_position`.

        Args:
            entity_id: the entity.
            after: as in `Workspace.subscribe`.
            hears: of a run: called with what it says, the messages ``frame`` and ``tail``, in the
                step in which it says them: before events that the loop has yet to take, which
                `Transcript.hear` allows for.  An exception of it is logged.

        """
        stream = self._workspace._follow(self._domain.stream_id(entity_id), after, hears)  # noqa: SLF001 - one module
        return EntityEvents(stream, self._domain)


class EntityEvents(Generic[EventT]):
    """An async iterator of one entity's events, inside ``async with``."""

    def __init__(self, stream: EventStream, domain: Domain[Any, Any, EventT]) -> None:
        self._stream = stream
        self._domain = domain

    async def __aenter__(self) -> Self:
        """Subscribe; see `Workspace.subscribe`."""
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the subscription."""
        await self._stream.__aexit__(exc_type, exc_value, traceback)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Recorded[EventT]:
        """Wait for the next event that the domain knows, skipping others (I11)."""
        while True:
            record = await self._stream.__anext__()
            try:
                event = self._domain.decode(record.type, record.type_version, record.payload)
            except DalsegnoError as error:
                raise CorruptLogError(str(error)) from error
            if event is not None:
                return Recorded(event, record)


EntityListening = EntityEvents
"""The name of `EntityEvents` before 0.1.0 was complete."""
