"""The address that a server listens on: bound before anything else, or told why it cannot be."""

from __future__ import annotations

import errno
import socket

import trio

_WHY = {
    errno.EADDRINUSE: "is in use by another program; stop that one, or choose another address",
    errno.EADDRNOTAVAIL: "is no address of this machine; choose one that is",
    errno.EACCES: "may not be bound without a privilege; choose a port from 1024 on",
}


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen on an address.

    Raises:
        OSError: it cannot be bound; the message says which it was and what to do.

    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except socket.gaierror as error:
        raise OSError(
            error.errno, _said(host, port, f"has no address: {error.strerror}")
        ) from error
    except OSError as error:
        why = _WHY.get(error.errno or 0, f"cannot be bound: {error.strerror}")
        raise OSError(error.errno, _said(host, port, why)) from error


def _said(host: str, port: int, why: str) -> str:
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{place} {why}: --bind HOST:PORT, or make run BIND=HOST:PORT"
