"""Every driver that this Python has."""

from __future__ import annotations

import sys

import pytest

from dalsegno.runtime.store import DRIVERS


def marks_of(driver: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a test that needs a driver."""
    is_there = driver != "asyncpg" or sys.version_info < (3, 14)
    return [pytest.mark.skipif(not is_there, reason="there is no trio-asyncio for this Python")]


EACH_DRIVER = [pytest.param(name, marks=marks_of(name)) for name in DRIVERS]
"""For `pytest.mark.parametrize`."""

SERVED_BY_EACH = [
    pytest.param({"DALSEGNO_DRIVER": name}, id=name, marks=marks_of(name)) for name in DRIVERS
]
"""The same, as settings of a server."""
