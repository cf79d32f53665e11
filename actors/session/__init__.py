"""One client: its connection, its subscriptions, its commands."""

from ._connection import Connection as Connection
from ._event_stream import Listening as Listening
