"""The contract suite of stores, one module per subject."""

from ._contract import StoreContract as StoreContract
from ._harness import (
    STORE_LIMITS as STORE_LIMITS,
    MemoryHarness as MemoryHarness,
    StoreHarness as StoreHarness,
)
