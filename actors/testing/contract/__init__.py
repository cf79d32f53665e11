"""Contract suites for stores and transports of your own, for pytest and pytest-trio.

Subclass one of them under a name that pytest collects, and add the fixture that it asks for.
"""

import pytest

# Before they are imported: pytest rewrites assertions, so that they show values, as a module is
# compiled, and by itself only in test modules.
pytest.register_assert_rewrite(f"{__name__}.store", f"{__name__}._transport")

from ._transport import (
    TRANSPORT_LIMITS as TRANSPORT_LIMITS,
    TransportClient as TransportClient,
    TransportContract as TransportContract,
)
from .store import (
    STORE_LIMITS as STORE_LIMITS,
    MemoryHarness as MemoryHarness,
    StoreContract as StoreContract,
    StoreHarness as StoreHarness,
)
