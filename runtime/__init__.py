"""Where it runs: the embedded runtime, the server, stores, clients and the command line."""

from dalsegno.actors import Entity as Entity, Receipt as Receipt, World as World
from dalsegno.protocol import (
    Context as Context,
    CorruptLogError as CorruptLogError,
    DalsegnoError as DalsegnoError,
    Domain as Domain,
    DomainError as DomainError,
    Event as Event,
    Index as Index,
    InternalError as InternalError,
    Limits as Limits,
    On as On,
    OutcomeUnknownError as OutcomeUnknownError,
    OverloadedError as OverloadedError,
    Past as Past,
    Principal as Principal,
    Reject as Reject,
    RuntimeClosedError as RuntimeClosedError,
    StoreUnavailableError as StoreUnavailableError,
    Touched as Touched,
    UnavailableError as UnavailableError,
    WorkspaceHaltedError as WorkspaceHaltedError,
)

from ._runtime import (
    NoAccountsError as NoAccountsError,
    Runtime as Runtime,
    RuntimeFailedError as RuntimeFailedError,
)
from ._workspace import (
    Entities as Entities,
    EntityEvents as EntityEvents,
    Recorded as Recorded,
    Workspace as Workspace,
)

EntityListening = EntityEvents
"""The name of `EntityEvents` before 0.1.0 was complete."""
