"""The port to the log: what the actors need of a store, and what they may rely on.

Two stores implement it, PostgreSQL (`dalsegno.runtime`) and memory (`dalsegno.actors.testing`),
and pass one contract suite.  What every store guarantees:

* `Store.append` is atomic per batch: all of a batch or nothing of it; batches of one call do not
  affect each other (I10).  It compares ``(epoch, head_seq)`` in the same step that writes (I3).
* `Store.acquire` raises the epoch by one; from its return on, no append under a lower epoch takes
  effect, also none that was sent before (I4).
* A read sees at least everything whose append had returned before the read began.
* Leases run by the store's own clock, one a node.  They tell who should serve a workspace; what may
  be written is for the epoch alone to say (I3).

Errors: `StoreUnavailableError` means that nothing was sent and nothing happened;
`OutcomeUnknownError` (`Store.append`, `Store.acquire`) that it may or may not have happened;
`BatchRejectedError` that the store refused the data and wrote nothing of any batch in the call.
Reads raise `StoreUnavailableError` for any loss of the connection, and so does what may simply be
repeated: everything about nodes, halts, states, cursors and sweeps.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec

from dalsegno.protocol import CHAIN_START, DalsegnoError, Event

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class BatchRejectedError(DalsegnoError):
    """The store refused the data of some batch (SQLSTATE 21, 22, 23, 54); nothing was written."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where a workspace's log ends, and who may append to it."""

    workspace_id: str
    epoch: int
    owner: str | None
    head_seq: int = 0
    first_seq: int = 1
    """The oldest event that is kept."""
    chain: int = CHAIN_START
    recorded_at: datetime | None = None
    """Of the last event."""
    halted_reason: str | None = None
    halted_code: str | None = None
    """The version of the code that halted it; another one may try again."""


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A process that owns workspaces, as others see it."""

    node_id: str
    address: str | None
    """Where it can be reached, if it says so."""
    expires_in_s: float
    """What is left of its lease by the store's clock; 0 or less: others may take over."""


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was done to a workspace from outside its log."""

    recorded_at: datetime
    workspace_id: str
    actor: str
    action: str
    """``halted`` or ``resumed``."""
    detail: str


class EntityWrite(msgspec.Struct, frozen=True, kw_only=True):
    """What one batch makes of one entity: at most one a stream in a batch."""

    stream_id: str
    version: int
    live: bool
    """False where the last event made it nothing; lists leave it out."""
    keys: tuple[str, ...] = ()
    title: str | None = None
    state: str | None = None
    """JSON text; None leaves the stored state, which then lags."""
    domain_version: int = 1
    """The domain's version that folded this state."""


class SnapshotWrite(msgspec.Struct, frozen=True, kw_only=True):
    """An entity's state at a round version (KJ-SNAP-1)."""

    stream_id: str
    version: int
    domain_version: int
    state: str


class ResultWrite(msgspec.Struct, frozen=True, kw_only=True):
    """The answer that repeats of a command's key get: at most one a (scope, key) in a batch."""

    scope: str
    key: str
    payload_hash: bytes
    answer: str
    """JSON text."""
    event_seq: int


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One workspace's part of a group commit.

    ``events`` are dense; a batch without any records only the results of commands that changed
    nothing, and leaves the head where it is.
    """

    workspace_id: str
    epoch: int
    old_head: int
    events: tuple[Event, ...]
    entities: tuple[EntityWrite, ...] = ()
    results: tuple[ResultWrite, ...] = ()
    snapshots: tuple[SnapshotWrite, ...] = ()
    payload_bytes: int = 0

    @property
    def new_head(self) -> int:
        """The head once this is committed."""
        return self.events[-1].event_seq if self.events else self.old_head


class StoredEntity(msgspec.Struct, frozen=True, kw_only=True):
    """An entity as stored: a state, perhaps an older one, and the events since."""

    stream_id: str
    version: int
    state: str | None
    """JSON text, ``null`` where the entity was nothing then; None: none that can be used."""
    state_version: int
    """The version that ``state`` is of; 0 without one."""
    events: tuple[Event, ...]
    """``state_version + 1`` … ``version``, in order."""


class StoredResult(msgspec.Struct, frozen=True, kw_only=True):
    """The recorded answer of a live idempotency key."""

    payload_hash: bytes
    answer: str
    event_seq: int
    expires_in_s: float
    """What is left of the key's lifetime, by the store's clock."""


class EntityItem(msgspec.Struct, frozen=True, kw_only=True):
    """An entity in a list: its index columns, not its state."""

    stream_id: str
    version: int
    keys: tuple[str, ...]
    title: str | None
    updated_at: datetime


class CursorKey(msgspec.Struct, frozen=True, order=True):
    """Whose acks: a user's client, in one stream of one workspace."""

    user_id: str
    client_id: str
    workspace_id: str
    stream_id: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch was not appended, read after the fact."""

    head: Head | None
    live_keys: dict[tuple[str, str], StoredResult]


class Store(Protocol):
    """A durable, fenced log of many workspaces."""

    async def read_head(self, workspace_id: str) -> Head | None:
        """Read where a log ends; None where it never began."""

    async def acquire(
        self, workspace_id: str, owner: str, *, create: bool, incarnation: str | None = None
    ) -> Head | None:
        """Raise the epoch and own the workspace; None where it is absent and not ``create``.

        A workspace that another node owns, one whose lease runs, stays as it is: the head's
        ``owner`` is that node then.  ``owner`` itself, whose lease it may be, gets it, unless
        another ``incarnation`` is that node by now: then the head's ``owner`` is None, and what
        was sent before may still be written.
        """

    async def release(self, workspace_id: str, epoch: int) -> bool:
        """Own the workspace no longer, so that any node may; tell whether ``epoch`` still stood."""

    async def read_heads(self, workspace_ids: Collection[str]) -> dict[str, Head]:
        """Read where logs end, those that ever began."""

    async def beat(
        self, node_id: str, incarnation: str, *, address: str | None, lease_s: float, first: bool
    ) -> float | None:
        """Prolong a node's lease to ``lease_s`` from now; tell what was left of it, in seconds.

        0 or less: it had run out, so others may have taken over what this node owned.
        None: another process is this node now, and nothing changed.  A row that is gone is made
        again, with 0 left.

        ``first`` makes this process the node, whoever was it before, and forgets nodes whose lease
        ended more than a day ago.
        """

    async def forget(self, node_id: str, incarnation: str) -> None:
        """End a node's lease now, unless another process is this node."""

    async def find_node(self, node_id: str) -> Node | None:
        """Read a node, also one whose lease has run out."""

    async def append(self, batches: Sequence[Batch]) -> Collection[str]:
        """Commit what can be; return the ids of the workspaces whose batches were committed.

        A workspace appears at most once in ``batches``.  One that is not in the result wrote
        nothing: its epoch or head moved, it is halted, it has a live key, or somebody holds its
        head just now; `explain` tells which.
        """

    async def explain(self, batch: Batch) -> Refusal:
        """Read what may have refused a batch."""

    async def halt(
        self, workspace_id: str, epoch: int, reason: str, *, code: str, actor: str
    ) -> bool:
        """Set the halt marker, audited, and tell whether ``epoch`` still stood.

        Nothing is appended while it is set (X-PER-9).  A marker that is set already stays, and no
        entry is added.
        """

    async def resume(self, workspace_id: str, epoch: int, *, actor: str, detail: str) -> bool:
        """Clear the halt marker, audited, and tell whether ``epoch`` still stood."""

    async def read_audit(self, workspace_id: str, *, limit: int) -> list[AuditEntry]:
        """Read what was done to a workspace from outside its log, the newest first."""

    async def read_events(
        self, workspace_id: str, from_seq: int, *, to_seq: int, limit: int, bytes_max: int
    ) -> list[Event]:
        """Read ``from_seq`` … ``to_seq``, both inclusive, ascending; ``[]`` for an unknown one.

        At most ``limit`` events, and only the first may take the payloads over ``bytes_max``.
        """

    async def read_stream(
        self,
        workspace_id: str,
        stream_id: str,
        from_seq: int,
        *,
        to_event_seq: int,
        limit: int,
        bytes_max: int,
    ) -> list[Event]:
        """Read an entity's events from ``stream_seq`` on, none above ``to_event_seq``."""

    async def read_versions(self, workspace_id: str, stream_ids: Collection[str]) -> dict[str, int]:
        """Read the versions of entities, those that ever existed."""

    async def load_entities(
        self, workspace_id: str, stream_ids: Collection[str], domain_versions: dict[str, int]
    ) -> dict[str, StoredEntity]:
        """Load entities, those that exist, each with the events that its state lags.

        ``domain_versions`` maps a stream to the domain version whose stored states can be used;
        others are folded from the beginning.
        """

    async def write_states(
        self, workspace_id: str, epoch: int, entities: Sequence[EntityWrite]
    ) -> bool:
        """Store the states of entities, those whose version is still the one given.

        Nothing else of them is written.  Tells whether ``epoch`` still stood.
        """

    async def load_entity_at(
        self, workspace_id: str, stream_id: str, version: int, domain_version: int
    ) -> StoredEntity | None:
        """Load an entity as it was: the nearest snapshot at or below, and the events up to it."""

    async def find_results(
        self, workspace_id: str, keys: Collection[tuple[str, str]]
    ) -> dict[tuple[str, str], StoredResult]:
        """Look up (scope, key) pairs; expired ones count as absent."""

    async def find_commands(
        self, workspace_id: str, command_ids: Collection[str], *, after_seq: int
    ) -> dict[str, list[Event]]:
        """Find the events that commands led to, above ``after_seq`` (I4)."""

    async def list_entities(
        self,
        workspace_id: str,
        domain: str,
        *,
        after: str = "",
        limit: int,
        key: str | None = None,
    ) -> list[EntityItem]:
        """List live entities of a domain by stream id, those that carry ``key`` if one is given."""

    async def locate(
        self, stream_id: str, *, after: str = "", limit: int = 2, live_only: bool = False
    ) -> list[str]:
        """Tell which workspaces have an entity of this stream id, by workspace id.

        An id that is globally unique (UUIDv7) needs no workspace beside it on the wire, and two
        answers tell that one is not.  An id that is a user's own tells where the user is a member.
        """

    async def read_cursors(self, keys: Collection[CursorKey]) -> dict[CursorKey, int]:
        """Read ack cursors, those that exist."""

    async def write_cursors(self, cursors: dict[CursorKey, int]) -> None:
        """Raise ack cursors; one that stands higher already stays (I7)."""

    async def sweep_results(self, *, limit: int) -> int:
        """Forget expired idempotency keys, at most ``limit``, and tell how many went."""

    async def sweep_cursors(
        self, after: CursorKey | None, *, limit: int, unused_s: float
    ) -> CursorKey | None:
        """Look at ``limit`` cursors behind ``after``, and forget those not written for so long.

        Returns the last one looked at, to go on after; None at the end.
        """

    async def event_types(self) -> set[tuple[str, str, int]]:
        """Tell every (domain, type, type_version) that was ever appended."""

    async def aclose(self) -> None:
        """Let go of connections; a store is not used after."""
