"""Who acts: mailbox, workspace, committer, hub, connection.  Trio, and nothing outside the process."""

from ._seams import World as World
from ._store import (
    Batch as Batch,
    BatchRejectedError as BatchRejectedError,
    CursorKey as CursorKey,
    EntityItem as EntityItem,
    EntityWrite as EntityWrite,
    Head as Head,
    Refusal as Refusal,
    ResultWrite as ResultWrite,
    SnapshotWrite as SnapshotWrite,
    Store as Store,
    StoredEntity as StoredEntity,
    StoredResult as StoredResult,
)
