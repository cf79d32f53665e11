"""Opening a connection: every address of a server in turn, and then the session's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import trio

from ._address import addresses_of
from ._driver import ConnectionBrokenError, SessionRefusedError
from ._refusals import advice_on, in_one_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from psycopg.abc import ConnDict

    from ._stepped import SteppedConnection

T = TypeVar("T")
ConnectionT = TypeVar("ConnectionT", bound="SteppedConnection[Any, Any]")

# The drivers' loaders, and our statements, rely on these.  A host may have set them otherwise for
# its server, a database or a role.
_SESSION = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "bytea_output": "hex",
    "client_encoding": "UTF8",  # parameters are sent as UTF-8, whatever the DSN says
    "array_nulls": "on",  # else NULL in an array is a text of four letters
    "standard_conforming_strings": "on",
    "client_min_messages": "notice",  # a warning tells that a commit is uncertain
}


async def open_connection(
    dsn: str,
    open_one: Callable[[ConnDict], Awaitable[ConnectionT]],
    *,
    settings: Mapping[str, str] | None,
    timeout_s: float,
) -> ConnectionT:
    """Open a connection at the first address that answers, with ``settings`` as by ``SET``.

    Every address of the DSN's hosts is tried in turn, each with an equal share of the time that
    is left.  Cancellation leaves nothing behind.

    Args:
        dsn: the database's address.
        open_one: connects to one address; raises `ConnectionBrokenError` with what is wrong.
        settings: of the session.
        timeout_s: for all of it.

    Raises:
        ConnectionBrokenError: none could be reached, or none is ready.
        SessionRefusedError: … or each refuses us for good.
        DatabaseError: the server does not know a setting, or refuses its value.
    """
    try:
        with trio.fail_after(timeout_s) as limit:
            connection = await open_first(await addresses_of(dsn), limit.deadline, open_one)
            try:
                await connection.configure(_SESSION | dict(settings or {}))
            except BaseException:
                connection.abandon()
                raise
            return connection
    except trio.TooSlowError:
        raise ConnectionBrokenError(
            f"no connection to the database within {timeout_s:g} s", sent=False
        ) from None


async def open_first(
    addresses: list[ConnDict], deadline: float, open_one: Callable[[ConnDict], Awaitable[T]]
) -> T:
    """Connect to the first address that answers; each gets an equal share of the time.

    Raises:
        ConnectionBrokenError: none could be reached, or none is ready.
        SessionRefusedError: each refuses us for good.
    """
    failures: list[str] = []
    advices: list[str | None] = []
    for i, address in enumerate(addresses):
        share_s = (deadline - trio.current_time()) / (len(addresses) - i)
        try:
            with trio.fail_after(share_s):
                return await open_one(address)
        except SessionRefusedError:
            raise
        except ConnectionBrokenError as error:
            failures.append(in_one_line(error.message))
            advices.append(advice_on(failures[-1]))
        except trio.TooSlowError:
            failures.append(f"no answer from {address.get('hostaddr')} within {share_s:.1f} s")
            advices.append(None)
    if all(advices):
        raise SessionRefusedError(f"{'; '.join(failures)}: {advices[0]}")
    raise ConnectionBrokenError("\n".join(failures), sent=False)
