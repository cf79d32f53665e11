"""Who acts: mailbox, workspace, committer, hub, connection.  Trio, nothing outside the process."""

from ._bus import Bus as Bus
from ._command import Receipt as Receipt, make_command as make_command
from ._connection import Connection as Connection
from ._entity import Entity as Entity
from ._lease import NodeReplacedError as NodeReplacedError
from ._listening import Listening as Listening
from ._repair import RepairReport as RepairReport, repair as repair
from ._roles import role_in as role_in, role_stream as role_stream
from ._seams import World as World
from ._service import Service as Service, Statistics as Statistics
from ._store import (
    AuditEntry as AuditEntry,
    Batch as Batch,
    BatchRejectedError as BatchRejectedError,
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
)
from ._supervisor import ServiceFailedError as ServiceFailedError, first_of as first_of
from ._transport import Transport as Transport, TransportClosedError as TransportClosedError
