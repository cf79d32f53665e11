"""Where it runs: the embedded runtime, the server, stores, clients and the command line.

Names are imported when they are first asked for: ``dalsegno --version`` and ``dalsegno tail`` need
neither PostgreSQL's driver nor a web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dalsegno.actors import (
        AuditFilter as AuditFilter,
        AuditPlace as AuditPlace,
        AuditRecord as AuditRecord,
        Entity as Entity,
        Receipt as Receipt,
        World as World,
    )
    from dalsegno.actors.effects import Done as Done, Reaction as Reaction, Run as Run
    from dalsegno.protocol import (
        App as App,
        Audit as Audit,
        AuthRequest as AuthRequest,
        Caller as Caller,
        CodeTooOldError as CodeTooOldError,
        Context as Context,
        CorruptLogError as CorruptLogError,
        DalsegnoError as DalsegnoError,
        Domain as Domain,
        DomainError as DomainError,
        Due as Due,
        Event as Event,
        Index as Index,
        InternalError as InternalError,
        Limits as Limits,
        Listed as Listed,
        On as On,
        OutcomeUnknownError as OutcomeUnknownError,
        OverloadedError as OverloadedError,
        Past as Past,
        Place as Place,
        Principal as Principal,
        Reactor as Reactor,
        Reject as Reject,
        Role as Role,
        RunFor as RunFor,
        RuntimeClosedError as RuntimeClosedError,
        Snapshot as Snapshot,
        StoreUnavailableError as StoreUnavailableError,
        Touched as Touched,
        UnavailableError as UnavailableError,
        WorkspaceHaltedError as WorkspaceHaltedError,
    )
    from dalsegno.protocol.runs import (
        AsProgram as AsProgram,
        CancelRun as CancelRun,
        RequestRun as RequestRun,
        Retry as Retry,
        RunState as RunState,
        Transcript as Transcript,
        Worker as Worker,
        runs as runs,
        worker as worker,
    )

    from ._runtime import (
        NoAccountsError as NoAccountsError,
        Runtime as Runtime,
        RuntimeFailedError as RuntimeFailedError,
    )
    from ._workspace import (
        Entities as Entities,
        EntityEvents as EntityEvents,
        EntityListening as EntityListening,
        Recorded as Recorded,
        Workspace as Workspace,
    )
_HOMES = {
    "AsProgram": "dalsegno.protocol.runs",
    "CancelRun": "dalsegno.protocol.runs",
    "Done": "dalsegno.actors.effects",
    "Reaction": "dalsegno.actors.effects",
    "Reactor": "dalsegno.protocol",
    "RequestRun": "dalsegno.protocol.runs",
    "Retry": "dalsegno.protocol.runs",
    "Run": "dalsegno.actors.effects",
    "RunFor": "dalsegno.protocol",
    "RunState": "dalsegno.protocol.runs",
    "Transcript": "dalsegno.protocol.runs",
    "Worker": "dalsegno.protocol.runs",
    "runs": "dalsegno.protocol.runs",
    "worker": "dalsegno.protocol.runs",
    "AuditFilter": "dalsegno.actors",
    "AuditPlace": "dalsegno.actors",
    "AuditRecord": "dalsegno.actors",
    "Entity": "dalsegno.actors",
    "Place": "dalsegno.protocol",
    "Receipt": "dalsegno.actors",
    "World": "dalsegno.actors",
    "App": "dalsegno.protocol",
    "Audit": "dalsegno.protocol",
    "AuthRequest": "dalsegno.protocol",
    "Caller": "dalsegno.protocol",
    "CodeTooOldError": "dalsegno.protocol",
    "Due": "dalsegno.protocol",
    "Context": "dalsegno.protocol",
    "CorruptLogError": "dalsegno.protocol",
    "DalsegnoError": "dalsegno.protocol",
    "Domain": "dalsegno.protocol",
    "DomainError": "dalsegno.protocol",
    "Event": "dalsegno.protocol",
    "Index": "dalsegno.protocol",
    "InternalError": "dalsegno.protocol",
    "Limits": "dalsegno.protocol",
    "On": "dalsegno.protocol",
    "OutcomeUnknownError": "dalsegno.protocol",
    "OverloadedError": "dalsegno.protocol",
    "Past": "dalsegno.protocol",
    "Principal": "dalsegno.protocol",
    "Reject": "dalsegno.protocol",
    "Role": "dalsegno.protocol",
    "RuntimeClosedError": "dalsegno.protocol",
    "StoreUnavailableError": "dalsegno.protocol",
    "Touched": "dalsegno.protocol",
    "UnavailableError": "dalsegno.protocol",
    "WorkspaceHaltedError": "dalsegno.protocol",
    "NoAccountsError": "._runtime",
    "Runtime": "._runtime",
    "RuntimeFailedError": "._runtime",
    "Entities": "._workspace",
    "EntityEvents": "._workspace",
    "Listed": "dalsegno.protocol",
    "Recorded": "._workspace",
    "Snapshot": "dalsegno.protocol",
    "Workspace": "._workspace",
    "EntityListening": "._workspace",
}
"""The module of each name above."""

__all__ = [*_HOMES]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
