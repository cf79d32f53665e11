"""What runs and reactors read of their workspace, now and at the event that led to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dalsegno.actors.node import look, look_at, snapshot
from dalsegno.actors.ports import BEGINNING, PageBounds
from dalsegno.protocol import Reject

if TYPE_CHECKING:
    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.protocol import Domain, Event, Place, Principal, Snapshot
    from dalsegno.protocol.runs import Trigger


class Reading:
    """Reads of one workspace with somebody's rights, which are judged each time."""

    def __init__(
        self, directory: Directory, catalog: Catalog, workspace_id: str, principal: Principal
    ) -> None:
        self.workspace_id = workspace_id
        self.principal = principal
        self._directory = directory
        self._catalog = catalog

    def __repr__(self) -> str:
        return f"<Reading of {self.workspace_id} by {self.principal.user_id or 'the program'}>"

    async def get(self, domain: Domain[Any, Any, Any], entity_id: str) -> Any:  # noqa: ANN401 - the domain's
        """Return the state of an entity of the workspace now; None where it does not exist.

        Raises:
            Reject: ``ROLE_FORBIDDEN`` for who is no member, or none any more.
            UnavailableError: the store is away.

        """
        entity = await look(
            self._directory,
            self._catalog,
            self.workspace_id,
            domain,
            entity_id,
            principal=self.principal,
        )
        return None if entity is None else entity.state

    async def snapshot(
        self,
        domain: Domain[Any, Any, Any],
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int = 100,
    ) -> Snapshot[Any]:
        """List entities with their states as they are now, as `Workspace.snapshot` does.

        Raises:
            Reject: ``ROLE_FORBIDDEN``; ``BAD_REQUEST`` for what cannot be a key.
            UnavailableError: the store is away.

        """
        return await snapshot(
            self._directory,
            self._catalog,
            self.workspace_id,
            domain,
            principal=self.principal,
            key=key,
            after=after,
            limit=limit,
        )

    async def event(self, trigger: Trigger) -> tuple[Event, Any]:
        """Return the event that something was asked for because of, as it stands in the log, and
        as its domain knows it.

        Raises:
            Reject: ``TRIGGER_GONE`` where it is kept no longer, or unknown here.
            UnavailableError: the store is away.

        """
        one = PageBounds(from_seq=trigger.event_seq, limit=1, bytes_max=1)
        found = await self._directory.node.store.read_events(self.workspace_id, one)
        if found and found[0].event_id == trigger.event_id:
            record = found[0]
            known = self._domain_of(record).decode(record.type, record.type_version, record.payload)
            if known is not None:
                return record, known
        raise Reject("TRIGGER_GONE", "its event is kept no longer", event_seq=trigger.event_seq)

    async def state_at(self, record: Event) -> Any:  # noqa: ANN401 - the domain's
        """Return the state of an event's entity right after the event; None where that ended it.

        Raises:
            Reject: ``ROLE_FORBIDDEN``.
            UnavailableError: the store is away.

        """
        entity = await look_at(
            self._directory,
            self._catalog,
            self.workspace_id,
            self._domain_of(record),
            record.stream_id.partition(":")[2],
            record.stream_seq,
            principal=self.principal,
        )
        return entity.state

    def _domain_of(self, record: Event) -> Domain[Any, Any, Any]:
        return self._catalog.domains[record.stream_id.partition(":")[0]]
