"""A store and connections in memory, which keep every promise of the real ones."""

from ._store import LaterAppend as LaterAppend, MemoryStore as MemoryStore
from ._transport import (
    MemoryClient as MemoryClient,
    MemoryTransport as MemoryTransport,
    memory_connection as memory_connection,
)
