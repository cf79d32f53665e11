"""The ports: what the actors need of the outside, and what they may rely on."""

from dalsegno.protocol import BEGINNING as BEGINNING, Place as Place
from dalsegno.protocol.runs import (
    Ended as Ended,
    EndedBy as EndedBy,
    Line as Line,
    LineChannel as LineChannel,
    ProcessNotStartedError as ProcessNotStartedError,
    RunningProcess as RunningProcess,
)

from ._artifacts import ArtifactFile as ArtifactFile, Artifacts as Artifacts
from ._dumps import Dumps as Dumps, EntityRows as EntityRows, MovedEntity as MovedEntity
from ._folders import Folders as Folders, Stage as Stage
from ._processes import ProcessRunner as ProcessRunner
from ._records import (
    AckedCursor as AckedCursor,
    AuditEntry as AuditEntry,
    AuditFilter as AuditFilter,
    AuditPlace as AuditPlace,
    AuditRecord as AuditRecord,
    AuditWrite as AuditWrite,
    Batch as Batch,
    BatchRejectedError as BatchRejectedError,
    BehindPage as BehindPage,
    CollectedRecord as CollectedRecord,
    CursorKey as CursorKey,
    DueEntity as DueEntity,
    DuePage as DuePage,
    EntityItem as EntityItem,
    EntityPage as EntityPage,
    EntityWrite as EntityWrite,
    Head as Head,
    Node as Node,
    PageBounds as PageBounds,
    ReactorPlace as ReactorPlace,
    ReactorStart as ReactorStart,
    RecordKey as RecordKey,
    Refusal as Refusal,
    RefusedWrite as RefusedWrite,
    ResultWrite as ResultWrite,
    RunsPage as RunsPage,
    SnapshotWrite as SnapshotWrite,
    StalePage as StalePage,
    StoredEntity as StoredEntity,
    StoredResult as StoredResult,
    Uncollected as Uncollected,
)
from ._roles import (
    SYSTEM_ROLE as SYSTEM_ROLE,
    Roles as Roles,
    gate_refusal as gate_refusal,
    role_in as role_in,
)
from ._seams import Alone as Alone, Bus as Bus, World as World
from ._store import (
    Appending as Appending,
    Cursors as Cursors,
    Entities as Entities,
    Followers as Followers,
    Log as Log,
    Ownership as Ownership,
    Results as Results,
    Store as Store,
    Trails as Trails,
)
from ._subscriber import SocketSubscriber as SocketSubscriber, Subscriber as Subscriber
from ._transport import Transport as Transport, TransportClosedError as TransportClosedError
from ._watcher import NobodyWatches as NobodyWatches, Watcher as Watcher, Watchers as Watchers
