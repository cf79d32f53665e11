"""The address of the client that makes a request: what fairness and bounds go by.

It is the other end of the connection, unless that is a proxy that the operator trusts; then it is
what the proxy says in ``X-Forwarded-For``.  Every proxy appends the address that it was asked from,
so the entry to believe is the last one that no trusted proxy has; those before it are a client's to
invent.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_IPV6_SITE_BITS = 64
"""Of an IPv6 address: what one subscriber is given, who then has all the addresses in it (RFC
6177)."""


def client_address(peer: str | None, forwarded: Sequence[str], proxies: Collection[Network]) -> str:
    """Return the client's address; of an IPv6 address, its network.

    Args:
        peer: the other end of the connection; None where it is unknown.
        forwarded: the values of ``X-Forwarded-For``, in order.
        proxies: the proxies that are trusted.

    """
    address = _parse(peer or "")
    if address is None:
        return peer or ""
    hops = [hop.strip() for value in forwarded for hop in value.split(",")]
    while hops and any(address in network for network in proxies):
        before = _parse(hops.pop())
        if before is None:
            break  # the proxy does not say: its own address is all that is known
        address = before
    if address.version == 6:
        return str(ipaddress.IPv6Network((address, _IPV6_SITE_BITS), strict=False))
    return str(address)


def _parse(text: str) -> Address | None:
    """Return an address without a port, a zone or the form that IPv4 has on an IPv6 socket."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
