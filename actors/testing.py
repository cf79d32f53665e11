"""What tests of programs on Dal Segno need: a store in memory that keeps every promise."""

from ._memory_store import MemoryStore as MemoryStore
from ._memory_transport import (
    MemoryClient as MemoryClient,
    MemoryTransport as MemoryTransport,
    memory_connection as memory_connection,
)
