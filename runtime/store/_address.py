"""The addresses of a DSN: one set of libpq's parameters for each address to try.

libpq would resolve a host's name with a blocking call, which stops all of Trio; given the address
as well (``hostaddr``) it does not, and still checks certificates against the name.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import psycopg
import trio
from psycopg._conninfo_utils import get_param, is_ip_address, split_attempts
from psycopg.conninfo import conninfo_to_dict

from dalsegno.runtime.resources import starting_thread

from ._driver import ConnectionBrokenError, SessionRefusedError

if TYPE_CHECKING:
    from psycopg.abc import ConnDict

_DEFAULTS: ConnDict = {
    "application_name": "dalsegno",
    "client_encoding": "UTF8",
    # libpq looks for Kerberos tickets with blocking calls.
    "gssencmode": "disable",
    # A peer that vanished is noticed after 30 s of silence, or 15 s after unacknowledged data.
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}


async def addresses_of(dsn: str) -> list[ConnDict]:
    """Resolve the hosts of a DSN to addresses, in their order.

    Raises:
        SessionRefusedError: the DSN cannot be parsed.
        ConnectionBrokenError: no host has an address.
    """
    addresses: list[ConnDict] = []
    failure: ConnectionBrokenError | None = None
    for attempt in _hosts(dsn):
        try:
            addresses += await _resolve(attempt)
        except OSError as error:
            failure = ConnectionBrokenError(
                f"the database's host {attempt.get('host')} has no address: {error}", sent=False
            )
            failure.__cause__ = error
    if failure is not None and not addresses:
        raise failure
    return addresses


def _hosts(dsn: str) -> list[ConnDict]:
    """Parse a DSN, and split it into one for each host."""
    try:
        attempts = split_attempts(_DEFAULTS | conninfo_to_dict(dsn))
        if all(_plausible(attempt) for attempt in attempts):
            return attempts
    except psycopg.Error:
        pass
    # libpq's own message would quote the offending text, which may be part of a password.
    raise SessionRefusedError(
        "libpq cannot read this database address; in a URL, special characters in the user's name "
        "and password must be percent-encoded"
    )


def _plausible(attempt: ConnDict) -> bool:
    # An unescaped / or @ in a password makes its rest the port, or part of the host.
    port, host = str(attempt.get("port") or "0"), str(attempt.get("host") or "")
    return port.isdecimal() and "@" not in host[1:]


async def _resolve(attempt: ConnDict) -> list[ConnDict]:
    host = get_param(attempt, "host")
    if not host or host.startswith(("/", "@")) or get_param(attempt, "hostaddr"):
        return [attempt]
    if is_ip_address(host):
        return [{**attempt, "hostaddr": host}]
    with starting_thread():
        found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [{**attempt, "hostaddr": str(address[0])} for *_, address in found]
