"""The suite as one class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ._appending import AppendContract
from ._cursors import CursorContract
from ._due import DueContract
from ._entities import EntityContract
from ._followers import FollowerContract
from ._heads import HeadContract
from ._listing import ListContract
from ._nodes import NodeContract
from ._reading import ReadContract
from ._records import RecordContract
from ._results import ResultContract
from ._trails import TrailContract

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store

    from ._harness import StoreHarness


@pytest.mark.trio
class StoreContract(
    HeadContract,
    NodeContract,
    AppendContract,
    ResultContract,
    ReadContract,
    EntityContract,
    ListContract,
    DueContract,
    FollowerContract,
    RecordContract,
    TrailContract,
    CursorContract,
):
    """The contract of stores, as the docstrings of `dalsegno.actors.Store` specify it.

    A subclass, or a ``conftest.py``, adds the fixture ``harness``: a `StoreHarness` around a store
    that is empty and was opened with `STORE_LIMITS`.
    """

    @pytest.fixture
    def store(self, harness: StoreHarness) -> Store:
        """Return the store of the harness."""
        return harness.store
