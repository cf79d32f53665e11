"""What the workers of pytest-xdist run one after the other.

Its own ``--dist=loadgroup`` needs a mark on each test, and has no effect with pytest 9.2
(pytest-xdist issue 1386).
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_SYSTEM = "tests/system/"


def unit_of(node_id: str) -> str:
    """Return what a test runs in: its file, or the whole of ``system/``.

    A test of ``system/`` keeps both cores busy with processes of its own: side by side, two of them
    would slow each other down.
    """
    return _SYSTEM if node_id.startswith(_SYSTEM) else node_id.partition("::")[0]


class Units(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker that is free the next unit, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
