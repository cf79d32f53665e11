"""What asyncpg is told of an address, which libpq has parsed and Trio resolved; see `_address`.

So an address means the same to both drivers.  What asyncpg cannot do is refused by name: an address
that asks for ``channel_binding=require`` must not get a connection without it.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from psycopg._conninfo_utils import get_param

from ._driver import SessionRefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg.abc import ConnDict

_ARGUMENTS = {
    "host": "host",
    "port": "port",
    "user": "user",
    "password": "password",
    "passfile": "passfile",
    "dbname": "database",
    "service": "service",
    "sslmode": "ssl",
    "target_session_attrs": "target_session_attrs",
    "krbsrvname": "krbsrvname",
    "gsslib": "gsslib",
}
"""Parameters of libpq, and asyncpg's arguments for them."""

_FILES = frozenset({"sslcert", "sslkey", "sslrootcert", "sslcrl"})
_IN_URL = _FILES | {
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
}
"""Those for which asyncpg has no argument, but which it reads from a URL."""

_AT_START = ("application_name", "options")
"""Those that the server is told."""

_KEEP_ALIVE = {
    "keepalives_idle": ("TCP_KEEPIDLE", "TCP_KEEPALIVE"),  # the latter on macOS
    "keepalives_interval": ("TCP_KEEPINTVL",),
    "keepalives_count": ("TCP_KEEPCNT",),
    "tcp_user_timeout": ("TCP_USER_TIMEOUT",),
}
"""Parameters of libpq, and the names of the socket's options (``tcp(7)``), where it has them."""

_HERE = {"hostaddr", "keepalives", "fallback_application_name", *_KEEP_ALIVE}
"""Those that this module sees to."""

_MEANINGLESS = {
    "client_encoding": None,  # the session sets it
    "connect_timeout": None,  # every connection has a bound of its own
    "gssencmode": {"disable", "allow", "prefer"},
    "channel_binding": {"disable", "prefer"},
    "sslcompression": {"0"},
    "sslsni": {"1"},
    "load_balance_hosts": {"disable"},
}
"""Those that change nothing with these values, or with any."""


def arguments_of(address: ConnDict) -> dict[str, Any]:
    """Return the arguments of `asyncpg.connect` for an address.

    Raises:
        SessionRefusedError: asyncpg cannot do what it asks for.
    """
    arguments: dict[str, Any] = {}
    in_url: dict[str, str] = {}
    at_start: dict[str, str] = {}
    for name, value in _given(address):
        if name == "host" and value.startswith("@"):
            raise _refusal(name, value)
        if name in _ARGUMENTS:
            arguments[_ARGUMENTS[name]] = value
        elif name in _IN_URL:
            if name in _FILES and not Path(value).is_file():
                raise SessionRefusedError(f"{name} in the database's address: no file {value}")
            in_url[name] = value
        elif name in _AT_START:
            at_start[name] = value
        elif name not in _HERE and not _is_meaningless(name, value):
            raise _refusal(name, value)
    if in_url:
        arguments["dsn"] = f"postgresql://?{urlencode(in_url)}"
    if "fallback_application_name" in address:
        at_start.setdefault("application_name", str(address["fallback_application_name"]))
    arguments["server_settings"] = at_start
    return arguments


def _refusal(name: str, value: str) -> SessionRefusedError:
    return SessionRefusedError(
        f"asyncpg has no {name}={value}: leave it out of the database's address, or take the "
        "driver psycopg"
    )


def _given(address: ConnDict) -> Iterator[tuple[str, str]]:
    for name, value in address.items():
        if value is not None and value != "":
            yield name, str(value)
    # libpq reads the environment for the name of a host that was resolved by it, and so do we:
    # asyncpg would take the address for the name.
    host = get_param(address, "host") or get_param(address, "hostaddr")
    if not address.get("host") and host:
        yield "host", host


def _is_meaningless(name: str, value: str) -> bool:
    harmless = _MEANINGLESS.get(name, set())
    return harmless is None or value in harmless


def place_of(address: ConnDict) -> str:
    """Return where an address leads, in words."""
    host = get_param(address, "hostaddr") or get_param(address, "host") or "the default socket"
    return f"{host}, port {get_param(address, 'port') or 5432}"


def keep_alive(sock: socket.socket, address: ConnDict) -> None:
    """Notice a peer that vanished, within the times of an address."""
    if sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    if str(address.get("keepalives", "1")) == "0":
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, options in _KEEP_ALIVE.items():
        value = int(address.get(name) or 0)
        found = [getattr(socket, option) for option in options if hasattr(socket, option)]
        if value and found:
            sock.setsockopt(socket.IPPROTO_TCP, found[0], value)
