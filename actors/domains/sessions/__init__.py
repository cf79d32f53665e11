"""Sessions: their events as a domain, and the replay of them that is served over HTTP.

See docs/files.md.  A program that keeps sessions in workspaces gives its `App` the domains and
`session_routes`; one that keeps them in files serves the same routes over these.
"""

from ._domain import (
    ClearSessionHalt as ClearSessionHalt,
    HaltSession as HaltSession,
    RecordSessionEvents as RecordSessionEvents,
    Session as Session,
    SessionEvent as SessionEvent,
    SessionHalt as SessionHalt,
    session_domains as session_domains,
    session_halts as session_halts,
    sessions as sessions,
)
from ._replay import (
    CONTRACT_VERSION as CONTRACT_VERSION,
    ReplayCursor as ReplayCursor,
    ReplayedEvent as ReplayedEvent,
    SessionLog as SessionLog,
    SessionScope as SessionScope,
    SessionSnapshot as SessionSnapshot,
    replayed as replayed,
    stale as stale,
)
from ._routes import replay_routes as replay_routes
from ._summary import assistant_text as assistant_text
from ._workspace_log import session_routes as session_routes
