"""One client: its connection, its subscriptions, its commands."""

from ._connection import Connection as Connection, ConnectionStatistics as ConnectionStatistics
from ._connections import Connections as Connections
from ._context import SessionContext as SessionContext
from ._event_stream import (
    EventStream as EventStream,
    EventStreamStatistics as EventStreamStatistics,
)
from ._proof import Proof as Proof
from ._subscribing import (
    check_may_follow as check_may_follow,
    try_to_follow as try_to_follow,
)
