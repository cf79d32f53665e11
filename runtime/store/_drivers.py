"""The drivers, by their names; one that is not used is not imported."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from dalsegno.protocol import DalsegnoError

from ._psycopg import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ._driver import Connect

DriverName: TypeAlias = Literal["psycopg", "asyncpg"]
DRIVERS: tuple[str, ...] = get_args(DriverName)

_TOO_NEW = (3, 14)
"""The first Python for which there is no trio-asyncio."""


class DriverMissingError(DalsegnoError):
    """The driver that was asked for cannot be used here; the message says what to do."""

    code = "STORE_UNAVAILABLE"


@asynccontextmanager
async def open_driver(name: DriverName) -> AsyncIterator[Connect]:
    """Open a driver for the length of a block, and yield what opens a session.

    Raises:
        DriverMissingError: it is not installed, or not for this Python.
    """
    if name == "psycopg":
        yield connect
        return
    check_python(sys.version_info[:2])
    try:
        from ._asyncpg import open_asyncpg
    except ImportError as error:
        raise DriverMissingError(
            f"the driver asyncpg cannot be imported ({error}): pip install 'dalsegno[asyncpg]'"
        ) from error
    async with open_asyncpg() as connect_in_loop:
        yield connect_in_loop


def check_python(version: tuple[int, ...]) -> None:
    """Raise `DriverMissingError` where asyncpg cannot be driven by this Python."""
    if version >= _TOO_NEW:
        shown = ".".join(map(str, version))
        raise DriverMissingError(
            f"the driver asyncpg needs Python 3.13 or older, and this is {shown}, for which there "
            "is no trio-asyncio: take the driver psycopg"
        )
