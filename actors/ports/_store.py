"""The port to the log: what the actors need of a store, and what they may rely on.

Two stores implement it, PostgreSQL (`dalsegno.runtime`) and memory (`dalsegno.actors.testing`),
and pass one contract suite.  What every store guarantees:

* `Store.append` is atomic per batch: all of a batch or nothing of it; batches of one call do not
  affect each other (I10).  It compares ``(epoch, head_seq)`` in the same step that writes (I3).
* `Store.acquire` raises the epoch by one; once it has returned, no append under a lower epoch takes
  effect, not even one that was sent before (I4).
* A read sees at least everything whose append had returned before the read began.
* Leases run by the store's own clock, one per node.  They decide which node should serve a
  workspace; the epoch alone decides what may be written (I3).

Errors: `StoreUnavailableError` means that nothing was sent and nothing happened;
`OutcomeUnknownError` (`Store.append`, `Store.acquire`) that it may or may not have happened;
`BatchRejectedError` that the store refused the data and wrote nothing of any batch in the call.
Reads raise `StoreUnavailableError` for any loss of the connection, and so do calls that may simply
be repeated: everything about nodes, halts, states, cursors and sweeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dalsegno.protocol import BEGINNING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from dalsegno.protocol import Cursor, Event, Place

    from ._records import (
        AckedCursor,
        AuditEntry,
        AuditFilter,
        AuditPlace,
        AuditRecord,
        Batch,
        BehindPage,
        CursorKey,
        DueEntity,
        DuePage,
        EntityPage,
        EntityWrite,
        Head,
        Node,
        PageBounds,
        ReactorPlace,
        ReactorStart,
        Refusal,
        RefusedWrite,
        RunsPage,
        StalePage,
        StoredEntity,
        StoredResult,
        Uncollected,
    )


class Appending(Protocol):
    """A statement of appends that was sent."""

    async def outcome(self) -> Collection[str]:
        """Wait for its end, once; the result and the errors are those of `Log.append`."""


class Log(Protocol):
    """Events, appended in batches and read in pages."""

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        """Commit the batches that can be; return the ids of the workspaces of those committed.

        A workspace appears at most once in ``batches``.  For one that is not in the result nothing
        was written: its epoch or head has moved, it is halted, it has a live key, or its head is
        locked at the moment; `explain` reads which.
        """

    def append_nowait(self, batches: Sequence[Batch]) -> Appending | None:
        """Send what `append` sends, in this very step, and let somebody else wait for its end.

        None: nothing was sent, since something has to be waited for first; use `append`.  It
        raises nothing: whatever goes wrong is raised by `Appending.outcome`.
        """

    async def explain(self, batch: Batch) -> Refusal:
        """Read why a batch may have been refused."""

    async def read_events(self, workspace_id: str, bounds: PageBounds) -> list[Event]:
        """Read a page of a workspace's log, ascending; ``[]`` for an unknown workspace."""

    async def read_stream(
        self, workspace_id: str, stream_id: str, bounds: PageBounds
    ) -> list[Event]:
        """Read a page of an entity's events, ascending; ``[]`` for an unknown entity."""

    async def find_commands(
        self, workspace_id: str, command_ids: Collection[str], *, after_seq: int
    ) -> dict[str, list[Event]]:
        """Find the events that commands led to, above ``after_seq`` (I4)."""

    async def event_types(self) -> set[tuple[str, str, int]]:
        """Return every (domain, type, type_version) that was ever appended."""


class Ownership(Protocol):
    """The owner of a workspace, its epoch, and its halt marker."""

    async def read_head(self, workspace_id: str) -> Head | None:
        """Read where a log ends; None if it never began."""

    async def read_heads(self, workspace_ids: Collection[str]) -> dict[str, Head]:
        """Read where logs end; those that never began are left out."""

    async def acquire(
        self,
        workspace_id: str,
        owner: str,
        *,
        create: bool,
        incarnation: str | None = None,
        app_version: int = 0,
    ) -> Head | None:
        """Raise the epoch and own the workspace; None if it is absent and not ``create``.

        A workspace that another node with a running lease owns stays as it is: the head's
        ``owner`` is that node then.  ``owner`` itself always gets it, even while its own lease
        runs, unless another ``incarnation`` is that node by now: then the head's ``owner`` is
        None, and what was sent before may still be written.  A workspace that a program of a higher
        ``app_version`` has owned stays as it is as well: the head has that version then.
        """

    async def release(self, workspace_id: str, epoch: int) -> bool:
        """Release the workspace to any node; return whether ``epoch`` was still current."""

    async def halt(
        self, workspace_id: str, epoch: int, reason: str, *, code: str, actor: str
    ) -> bool:
        """Set the halt marker, audited; return whether ``epoch`` was still current.

        Nothing is appended while it is set (X-PER-9).  A marker that is already set stays, and no
        entry is added.
        """

    async def resume(self, workspace_id: str, epoch: int, *, actor: str, detail: str) -> bool:
        """Clear the halt marker, audited; return whether ``epoch`` was still current."""

    async def read_audit(self, workspace_id: str, *, limit: int) -> list[AuditEntry]:
        """Read the interventions in a workspace from outside its log, newest first."""

    async def read_records(
        self, workspace_id: str, which: AuditFilter, *, below: AuditPlace, limit: int
    ) -> list[AuditRecord]:
        """Read what is on record of a workspace, interventions with it, newest first."""

    async def lower_app_version(self, version: int, *, actor: str) -> int:
        """Allow programs of this version again, audited; return for how many that is new."""

    async def beat(
        self, node_id: str, incarnation: str, *, address: str | None, lease_s: float, first: bool
    ) -> float | None:
        """Extend a node's lease to ``lease_s`` from now; return what was left of it, in seconds.

        0 or less: it had run out, so others may have taken over what this node owned.
        None: another process is this node now, and nothing changed.  A missing row is made again,
        with 0 left.

        ``first`` makes this process the node, instead of any other, and forgets nodes whose
        lease ended more than a day ago.
        """

    async def read_time(self) -> datetime:
        """Return the time by the store's own clock, which leases and keys go by, UTC."""

    async def fenced_s(self, node_id: str) -> float:
        """Return how long servers of the release before may still serve, in seconds; 0: none does.

        A migration that they must not outlive fences them: each ends at its next beat, or when its
        lease is over.  Who is ``node_id`` now takes over from it at once.
        """

    async def next_end_s(self, node_id: str) -> float | None:
        """Return when the next lease of another node ends, in seconds; None: none runs."""

    async def forget(self, node_id: str, incarnation: str) -> None:
        """End a node's lease now, unless another process is this node."""

    async def find_node(self, node_id: str) -> Node | None:
        """Read a node, even one whose lease has run out."""


class Entities(Protocol):
    """States and index columns, which commit with the events."""

    async def read_versions(self, workspace_id: str, stream_ids: Collection[str]) -> dict[str, int]:
        """Read the versions of entities; those that never existed are left out."""

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        """Load the entities that exist, each with the events that its state lags.

        ``domain_versions`` maps a stream to the domain version whose stored states can be used;
        others are folded from the beginning.
        """

    async def load_many(
        self, wanted: Mapping[tuple[str, str], int | None]
    ) -> dict[tuple[str, str], StoredEntity]:
        """Load entities of several workspaces as they were at one moment, for a page of a list.

        ``wanted`` maps workspace and stream to the domain version whose stored states can be used,
        as in `load_entities`; those that never existed are left out.  What access to them depends
        on is wanted with them, so that it is of the same moment (I8).
        """

    async def load_entity_at(
        self, workspace_id: str, stream_id: str, version: int, domain_version: int
    ) -> StoredEntity | None:
        """Load an entity as it was: the nearest snapshot at or below, and the events up to it."""

    async def write_states(
        self, workspace_id: str, epoch: int, entities: Sequence[EntityWrite]
    ) -> bool:
        """Store the states of those entities whose version is still the one given.

        Nothing else of them is written.  Returns whether ``epoch`` was still current.
        """

    async def list_entities(
        self,
        workspace_id: str,
        domain: str,
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int,
        domain_version: int = 0,
        bytes_max: int | None = None,
        newest_first: bool = False,
    ) -> EntityPage:
        """List a domain's existing entities, all as they were at one moment.

        Args:
            workspace_id: the workspace.
            domain: the domain's name.
            key: only those that carry it, by sort and stream id; empty: those that have a sort;
                None: all of them, by stream id.
            after: where the page before ended.
            limit: at most so many.
            domain_version: the domain version whose stored states can be used; what another one
                listed makes the page stale.
            bytes_max: with their states and the events since, as in `load_entities`, and only the
                first may take these over so many bytes; None: without.
            newest_first: from the end of a key's list to its beginning; not without a key.

        """

    async def list_keys(
        self, workspace_id: str, domain: str, *, prefix: str, after: str, limit: int
    ) -> list[str]:
        """List the different keys of a domain's entities that begin with ``prefix``, in order."""

    async def list_versions(
        self, workspace_id: str, domain: str, *, at_seq: int, after: str, limit: int
    ) -> list[tuple[str, int]]:
        """List a domain's entities as they were at an event of the workspace, in order of stream.

        Each with its version then, those that existed no longer included; those that had no event
        up to there are left out.  What is committed later changes nothing of it, so that the pages
        of a list are of one moment, however long it takes to read them.
        """

    async def list_stale(
        self, workspace_id: str, domain: str, domain_version: int, *, limit: int
    ) -> list[str]:
        """Return entities that are listed as another version of their domain said."""

    async def find_due(
        self,
        node_id: str,
        domains: Collection[str],
        *,
        until: datetime,
        after: DueEntity | None,
        limit: int,
    ) -> DuePage:
        """Find entities of these domains that are due ``until`` then, in order, among ``limit``.

        Left out are those of workspaces that are halted, or that another node with a running lease
        owns.
        """

    async def find_stale(
        self,
        node_id: str,
        domain: str,
        domain_version: int,
        *,
        after: tuple[int, str] | None,
        limit: int,
    ) -> StalePage:
        """Find workspaces that list a domain as an earlier version of it said, among ``limit``.

        Left out are the same as in `find_due`.
        """

    async def find_runs(self, node_id: str, *, after: str, limit: int) -> RunsPage:
        """Find workspaces that have open runs, in the order of their ids, among ``limit``.

        Those are the entities of the domain ``run`` that ask for something, whenever.  Left out are
        the same as in `find_due`.
        """

    async def locate(
        self, stream_id: str, *, after: str = "", limit: int = 2, existing_only: bool = False
    ) -> list[str]:
        """Return the workspaces that have an entity of this stream id, ordered by workspace id.

        An id that is globally unique (UUIDv7) needs no workspace beside it on the wire, and two
        results show that one is not.  A user's own id shows where the user is a member.
        """


class Results(Protocol):
    """The answers to repeats of idempotency keys."""

    async def find_results(
        self, workspace_id: str, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredResult]:
        """Look up (scope, key) pairs; expired ones count as absent."""

    async def sweep_results(self, *, limit: int) -> int:
        """Forget expired idempotency keys, at most ``limit``; return how many."""


class Cursors(Protocol):
    """The cursors up to which clients have acknowledged streams."""

    async def read_cursors(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """Read the ack cursors that exist."""

    async def write_cursors(self, cursors: dict[CursorKey, AckedCursor]) -> None:
        """Raise ack cursors; one that is already higher stays (I7).

        A cursor of another history than the log's now is passed over.  The log may have been
        restored while the cursor waited, and as it grows again the cursor would skip events.
        """

    async def sweep_cursors(
        self, after: CursorKey | None, *, limit: int, unused_s: float
    ) -> CursorKey | None:
        """Visit the ``limit`` cursors after ``after``; forget those not written for ``unused_s``.

        Returns the last one visited, to go on after; None at the end.
        """


class Followers(Protocol):
    """How far reactors have come in each workspace."""

    async def register_reactors(self, reactors: Sequence[ReactorStart]) -> None:
        """Note where reactors begin, those that there was none of their name before.

        For every workspace that there is; cut off, the next call goes on with it.  In one that is
        made later, a reactor begins with its first event, and nothing is noted.
        """

    async def read_places(self, workspace_id: str) -> dict[str, Cursor]:
        """Read how far reactors have come, by their names; those that begin at 0 are left out."""

    async def write_places(self, places: Mapping[str, ReactorPlace]) -> None:
        """Write how far some have come, by workspace; the others stay where they are.

        A place of another history than the log's now is passed over: the log may have been restored
        while it waited, and as it grows again they would never be told of what is there instead.
        """

    async def find_behind(
        self, node_id: str, names: Collection[str], *, after: tuple[str, str], limit: int
    ) -> BehindPage:
        """Find workspaces where one of these reactors is not at the head, among ``limit``.

        Only those are looked at whose owner is ``node_id`` or has no running lease any more, since
        nobody releases one before its reactors are at its head; and those where a reactor has to
        begin at the beginning.  Halted ones are left out.
        """


class Trails(Protocol):
    """What is on record of all workspaces, until it is on the log of ``$audit``."""

    async def add_refusals(self, refusals: Sequence[RefusedWrite]) -> None:
        """Put on record what was refused; one that is there already is passed over."""

    async def may_collect(self, node_id: str) -> bool:
        """Return whether something has to be put on the log of ``$audit``, and this node may.

        It may unless another node with a running lease owns that log, or it is halted.
        """

    async def read_uncollected(self, *, limit: int, bytes_max: int) -> list[Uncollected]:
        """Read the oldest of what is not on the log of ``$audit`` yet, a workspace's in its order.

        Only the first may take the values over so many bytes.
        """

    async def is_collected(self, workspace_id: str, event_seq: int, node_id: str) -> bool:
        """Return whether all that is on record up to an event is on the log of ``$audit``.

        Or else whether no other node than this one could put it there: none with a running lease
        owns that log, or it is halted.
        """

    async def sweep_refusals(self, *, limit: int) -> int:
        """Forget what was refused and has long been on the log of ``$audit``, at most ``limit``.

        Returns how many.
        """


class Store(Log, Ownership, Entities, Results, Cursors, Followers, Trails, Protocol):
    """A durable, fenced log of many workspaces."""

    async def aclose(self) -> None:
        """Close connections; a store is not used afterwards."""
