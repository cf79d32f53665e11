"""The suite that every store has to pass, a subject a module."""

from ._contract import StoreContract as StoreContract
from ._harness import (
    STORE_LIMITS as STORE_LIMITS,
    MemoryHarness as MemoryHarness,
    StoreHarness as StoreHarness,
)
