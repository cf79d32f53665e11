"""The names that a server answers to, and whose pages may talk to it.

A page of another site can have its own name resolve to this machine (DNS rebinding): its browser
then takes our answers for that site's own.  It cannot choose the ``Host`` that the browser sends,
though, which is still the other site's name.  So a server that only this machine can reach takes
only loopback's names, and one that knows its public URL that URL's name besides.  An address in
digits is nobody's name, and cannot be made to mean another one.

A server that others reach, and that was not told its URL, cannot know what they call it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dalsegno.protocol import Reject

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, slots=True)
class Hosts:
    """What a server takes as ``Host`` and as ``Origin``."""

    names: frozenset[str] | None = None
    """The names beside loopback's; None: any."""
    origins: frozenset[str] = frozenset()
    """The origins whose pages may talk to it, in addition to its own."""
    has_tls: bool = False
    """Whether its own pages come over TLS, so that one in clear text is another's."""

    def check_host(self, hosts: Sequence[str]) -> None:
        """Raise unless a request is for this server.

        Args:
            hosts: the values of its ``Host``.

        Raises:
            Reject: ``HOST_FORBIDDEN``; ``BAD_REQUEST`` if it names several.

        """
        if self.names is None:
            return
        if len(hosts) > 1:
            raise Reject("BAD_REQUEST", "exactly one Host header is needed")
        name = _name_of(hosts[0]) if hosts else None
        if name is None or not (name in self.names or is_loopback(name)):
            raise Reject(
                "HOST_FORBIDDEN", "this server is not known by that name; see --public-url"
            )

    def is_named(self, origins: Sequence[str]) -> bool:
        """Return whether a request comes from a page that the settings name.

        Args:
            origins: the values of its ``Origin``.

        """
        return len(origins) == 1 and origins[0].lower() in self.origins

    def check_origin(self, origins: Sequence[str], hosts: Sequence[str]) -> None:
        """Raise unless a page may talk to this server; what is no page sends no ``Origin``.

        Args:
            origins: the values of the request's ``Origin``.
            hosts: the values of its ``Host``.

        Raises:
            Reject: ``ORIGIN_FORBIDDEN``.

        """
        if not origins or self.is_named(origins):
            return
        is_own = len(origins) == len(hosts) == 1 and _same_host(origins[0], hosts[0])
        if not is_own or (self.has_tls and not origins[0].lower().startswith("https:")):
            raise Reject("ORIGIN_FORBIDDEN", "this page may not connect here")


def hosts_of(
    *,
    only_loopback: bool,
    public_url: str | None,
    also: Iterable[str],
    origins: Collection[str],
    has_tls: bool = False,
) -> Hosts:
    """Return what a server takes.

    Args:
        only_loopback: whether only this machine can reach it.
        public_url: where others reach it, by way of a proxy; None: it was not told.
        also: other URLs that it is known by.
        origins: further origins whose pages may talk to it.
        has_tls: whether it speaks TLS itself.

    """
    allowed = {origin.lower() for origin in origins}
    urls = [*also] if public_url is None else [*also, public_url]
    if public_url is not None:
        allowed.add(_origin_of(public_url))
    if not only_loopback and public_url is None:
        return Hosts(origins=frozenset(allowed), has_tls=has_tls)
    names = (urlsplit(url).hostname for url in urls)
    known = frozenset(name for name in names if name is not None)
    return Hosts(known, frozenset(allowed), has_tls)


def is_loopback(name: str) -> bool:
    """Return whether a name, or an address without brackets, means this machine alone."""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str | None:
    """Return the name in a ``Host``, without port, brackets and the root's dot."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return None if name is None or "@" in host else name.removesuffix(".")


def _origin_of(url: str) -> str:
    """Return a URL's origin as browsers write it (RFC 6454 §6.2)."""
    parts = urlsplit(url.lower())
    return f"{parts.scheme}://{parts.netloc.removesuffix(_DEFAULT_PORTS[parts.scheme])}"


def _same_host(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    default_port = _DEFAULT_PORTS.get(parts.scheme)
    if default_port is None:
        return False
    return parts.netloc.removesuffix(default_port) == host.lower().removesuffix(default_port)
