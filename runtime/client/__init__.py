"""The Python client: a server's streams and commands for a remote Trio program."""

from ._account import ask as ask
from ._audit import AuditReader as AuditReader
from ._client import Client as Client, ClientStatistics as ClientStatistics
from ._errors import (
    ClientClosedError as ClientClosedError,
    DisconnectedError as DisconnectedError,
    NoTokenError as NoTokenError,
    SequenceGapError as SequenceGapError,
    UnreachableError as UnreachableError,
    UnsafeAddressError as UnsafeAddressError,
)
from ._events import Events as Events
from ._follow import Follow as Follow
from ._open import open_client as open_client
from ._policy import ClientLimits as ClientLimits
from ._presence import Presence as Presence, PresenceView as PresenceView
from ._values import (
    RemoteChange as RemoteChange,
    RemoteEntity as RemoteEntity,
    RemoteSnapshot as RemoteSnapshot,
)
from ._wire import (
    Committed as Committed,
    RemoteConnection as RemoteConnection,
    RemoteEvent as RemoteEvent,
    RemoteUser as RemoteUser,
)
from ._workspace import RemoteWorkspace as RemoteWorkspace
