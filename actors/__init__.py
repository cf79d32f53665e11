"""Who acts, in rooms: session, node, workspace, delivery, ports.  Trio and nothing outside."""

from dalsegno.protocol import Receipt as Receipt

from ._service import Service as Service, Statistics as Statistics
from .node import (
    NodeReplacedError as NodeReplacedError,
    RepairReport as RepairReport,
    ServiceFailedError as ServiceFailedError,
    entities_of as entities_of,
    first_of as first_of,
    list_entities as list_entities,
    list_keys as list_keys,
    look as look,
    read_head as read_head,
    repair as repair,
    send as send,
    send_all as send_all,
)
from .ports import (
    BEGINNING as BEGINNING,
    AckedCursor as AckedCursor,
    AuditEntry as AuditEntry,
    AuditFilter as AuditFilter,
    AuditPlace as AuditPlace,
    AuditRecord as AuditRecord,
    AuditWrite as AuditWrite,
    Batch as Batch,
    BatchRejectedError as BatchRejectedError,
    Bus as Bus,
    CursorKey as CursorKey,
    DueEntity as DueEntity,
    DuePage as DuePage,
    EntityItem as EntityItem,
    EntityPage as EntityPage,
    EntityWrite as EntityWrite,
    Head as Head,
    Node as Node,
    PageBounds as PageBounds,
    Place as Place,
    Refusal as Refusal,
    ResultWrite as ResultWrite,
    Roles as Roles,
    RunsPage as RunsPage,
    SnapshotWrite as SnapshotWrite,
    StalePage as StalePage,
    Store as Store,
    StoredEntity as StoredEntity,
    StoredResult as StoredResult,
    Transport as Transport,
    TransportClosedError as TransportClosedError,
    World as World,
)
from .session import (
    Connection as Connection,
    Connections as Connections,
    EventStream as EventStream,
    Proof as Proof,
    SessionContext as SessionContext,
    check_may_follow as check_may_follow,
)
from .workspace import (
    Entity as Entity,
    Turn as Turn,
    entity_from as entity_from,
    in_turns as in_turns,
    make_command as make_command,
)
