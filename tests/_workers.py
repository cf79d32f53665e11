"""What the workers of pytest-xdist run one after the other.

Its own ``--dist=loadgroup`` needs a mark on each test, and has no effect with pytest 9.2
(pytest-xdist issue 1386).
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

_SYSTEM = "tests/system/"
_WAITING = frozenset(
    f"{_SYSTEM}test_{name}.py"
    for name in (
        "api_at_random",
        "apps",
        "audit",
        "automation",
        "browser",
        "deployment",
        "environments",
        "messages",
        "proxies",
        "security_log",
        "tail",
        "tls",
    )
)
"""Those of ``system/`` that wait for one process or another, and load nothing."""


def unit_of(node_id: str) -> str:
    """Return what a test runs in: its file, or all of ``system/`` that loads it.

    Such a test keeps both cores busy with processes of its own: side by side, two of them would
    slow each other down.
    """
    file = node_id.partition("::")[0]
    return _SYSTEM if file.startswith(_SYSTEM) and file not in _WAITING else file


class Units(LoadScopeScheduling):  # type: ignore[misc]
    """Gives a worker that is free the next unit, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
