"""The suites that a store or a transport of one's own has to pass, for pytest and pytest-trio.

Subclass one of them under a name that pytest collects, and give it the fixture that it asks for.
"""

import pytest

# Before they are imported: pytest rewrites assertions, so that they show values, while a module is
# compiled, and of its own accord only in test modules.
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
