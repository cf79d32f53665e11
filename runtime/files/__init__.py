"""Sessions' events in plain files, or in workspaces, under one interface; what is made of them."""

from dalsegno.runtime.disk import (
    Disk as Disk,
    Identity as Identity,
    Lock as Lock,
    RealDisk as RealDisk,
)

from ._diagnosis import (
    Diagnosis as Diagnosis,
    Repaired as Repaired,
    check as check,
    ids_to_check as ids_to_check,
)
from ._errors import (
    EventCompactedError as EventCompactedError,
    EventConflictError as EventConflictError,
    EventIoError as EventIoError,
    EventProjectionHaltedError as EventProjectionHaltedError,
    EventSerializationError as EventSerializationError,
    EventStoreError as EventStoreError,
    EventStoreStateError as EventStoreStateError,
    EventUnsupportedError as EventUnsupportedError,
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
)
from ._repair import check_repairer as check_repairer, repair as repair
from ._retention import first_of_last as first_of_last, first_since as first_since
from ._service import (
    SessionService as SessionService,
    Turn as Turn,
    TurnOutcome as TurnOutcome,
    open_sessions as open_sessions,
)
from ._session_errors import (
    AgentError as AgentError,
    SessionBusyError as SessionBusyError,
    SessionCompactionDisabledError as SessionCompactionDisabledError,
    SessionError as SessionError,
    SessionNotFoundError as SessionNotFoundError,
    SessionNotRunningError as SessionNotRunningError,
    SessionPersistenceDisabledError as SessionPersistenceDisabledError,
    SessionStoreError as SessionStoreError,
    SessionUnsupportedError as SessionUnsupportedError,
)
from ._session_log import store_routes as store_routes
from ._transfer import (
    Transfer as Transfer,
    session_ids_of as session_ids_of,
    transfer as transfer,
)
from ._workspace_store import WorkspaceEventStore as WorkspaceEventStore
