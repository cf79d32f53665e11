"""Where a runtime is served, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .web import SessionCookie, hosts_of, is_loopback

if TYPE_CHECKING:
    from .web import Hosts, Network, Tls, TokenIssuer


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Where a runtime is served, and to whom."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 lets the system choose."""
    advertise: str | None = None
    """The address that other nodes give to clients that they send here."""
    public_url: str | None = None
    """Where browsers reach this server, by way of a proxy."""
    tls: Tls | None = None
    """The certificate, where this server speaks TLS itself."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may open sockets, in addition to the host itself."""
    proxies: tuple[Network, ...] = ()
    """The proxies that are believed about the address of a client (``X-Forwarded-For``)."""
    tokens: TokenIssuer | None = None
    """Whose tokens are believed, besides sessions and keys."""
    setup_token: str | None = None
    """The token that setup asks for; None makes one, unless this serves only this machine."""
    session_cookie: SessionCookie | None = None
    """How the session's cookie is named and marked; None: as it has to be for what is above."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)

    @property
    def is_private(self) -> bool:
        """Whether it serves this machine alone, not even by way of a proxy."""
        return self.is_loopback and self.public_url is None

    @property
    def cookie(self) -> SessionCookie:
        """How the session's cookie is named and marked."""
        if self.session_cookie is not None:
            return self.session_cookie
        if self.public_url is None and self.tls is not None:
            return SessionCookie(secure=True, is_prefixed=True)
        if self.public_url is None:
            return SessionCookie(secure=not self.is_loopback)
        has_tls = self.public_url.startswith("https:")
        return SessionCookie(secure=has_tls, is_prefixed=has_tls)

    @property
    def hosts(self) -> Hosts:
        """What this server is called, and whose pages may talk to it."""
        return hosts_of(
            only_loopback=self.is_loopback,
            public_url=self.public_url,
            also=[] if self.advertise is None else [self.advertise],
            origins=self.origins,
            has_tls=self.tls is not None,
        )
