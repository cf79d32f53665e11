"""Sessions' events in plain files, or in workspaces, under one interface; and a projector."""

from ._disk import Disk as Disk, Identity as Identity, Lock as Lock, RealDisk as RealDisk
from ._errors import (
    EventConflictError as EventConflictError,
    EventIoError as EventIoError,
    EventProjectionHaltedError as EventProjectionHaltedError,
    EventSerializationError as EventSerializationError,
    EventStoreError as EventStoreError,
    EventStoreStateError as EventStoreStateError,
    SchemaVersionMismatchError as SchemaVersionMismatchError,
)
from ._event_store import EventStore as EventStore
from ._events import (
    EVENT_SCHEMA_VERSION as EVENT_SCHEMA_VERSION,
    Appended as Appended,
    CallbackSource as CallbackSource,
    EventEnvelope as EventEnvelope,
    EventPage as EventPage,
    EventProjectionHaltMarker as EventProjectionHaltMarker,
    ExternalSource as ExternalSource,
    Inserted as Inserted,
    InteractionSource as InteractionSource,
    Replayed as Replayed,
    RuntimeSource as RuntimeSource,
    SessionSource as SessionSource,
    Source as Source,
    StoredEvent as StoredEvent,
)
from ._file_store import FileEventStore as FileEventStore
from ._projector import (
    Checkpoint as Checkpoint,
    SessionProjector as SessionProjector,
    assistant_text as assistant_text,
)
from ._transfer import (
    Transfer as Transfer,
    session_ids_of as session_ids_of,
    transfer as transfer,
)
from ._workspace_store import WorkspaceEventStore as WorkspaceEventStore
