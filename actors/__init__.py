"""Who acts: mailbox, workspace, committer, hub, connection.  Trio, nothing outside the process."""

from ._service import Service as Service, Statistics as Statistics
from .node import (
    NodeReplacedError as NodeReplacedError,
    RepairReport as RepairReport,
    ServiceFailedError as ServiceFailedError,
    first_of as first_of,
    repair as repair,
)
from .ports import (
    AuditEntry as AuditEntry,
    Batch as Batch,
    BatchRejectedError as BatchRejectedError,
    Bus as Bus,
    CursorKey as CursorKey,
    EntityItem as EntityItem,
    EntityWrite as EntityWrite,
    Head as Head,
    Node as Node,
    Refusal as Refusal,
    ResultWrite as ResultWrite,
    SnapshotWrite as SnapshotWrite,
    Store as Store,
    StoredEntity as StoredEntity,
    StoredResult as StoredResult,
    Transport as Transport,
    TransportClosedError as TransportClosedError,
    World as World,
    role_in as role_in,
    role_stream as role_stream,
)
from .session import Connection as Connection, Listening as Listening
from .workspace import Entity as Entity, Receipt as Receipt, make_command as make_command
