"""The certificate of a server: two files, which are looked at again and again.

A certificate lasts some weeks, a server longer; so whoever renews one (certbot, a secret that is
mounted) need not tell the server.  It looks at the files now and then, by what is in them: neither
times nor names say so, where a link is turned to another file.  A handshake takes the certificate
of its moment; connections that are open keep theirs.

Whatever is wrong with new files, the server goes on with what it has: they may be half written, or
one of the two may still be the old one.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio
from cryptography import x509

from dalsegno.protocol import Reject
from dalsegno.runtime.resources import starting_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_log = structlog.get_logger("dalsegno.tls")

_BYTES_MAX = 1024 * 1024
"""Of a file: a chain of certificates has some thousand bytes."""
_SPOKEN = ["http/1.1"]
"""What is offered by ALPN (RFC 7301)."""
_BEGIN = b"-----BEGIN CERTIFICATE-----"
_TOO_WEAK = {
    "EE_KEY_TOO_SMALL": "its key is too short",
    "CA_KEY_TOO_SMALL": "the key above it is too short",
    "CA_MD_TOO_WEAK": "it is signed with a digest that is too weak",
}
"""OpenSSL's reasons against a certificate that is well formed."""


@dataclass(frozen=True, slots=True)
class TlsStatistics:
    """A server's certificate in numbers."""

    ends_at: datetime
    """When the certificate expires that is served."""
    reloads: int
    """How often another one was taken so far."""
    is_stale: bool
    """Whether the files hold something else that cannot be used."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    digest: bytes
    """Of the two files."""
    ends_at: datetime


class Tls:
    """A certificate and its key, as files that somebody renews."""

    def __init__(self, cert: Path | str, key: Path | str) -> None:
        """Read them.

        Args:
            cert: the certificate and those above it, in PEM.
            key: its private key, in PEM and without a passphrase; it may be the same file.

        Raises:
            Reject: ``BAD_REQUEST``: a file cannot be read, or the two do not go together; its
                details have the ``setting``, ``tls_cert`` or ``tls_key``.

        """
        self.cert, self.key = Path(cert), Path(key)
        self._loaded = _load(*self._read(), self.cert, self.key)
        self._reloads = 0
        self._complaint: str | None = None
        """What was said last of files that cannot be used."""
        self._asked = trio.Event()

    def __repr__(self) -> str:
        state = ", stale" if self._complaint is not None else ""
        return f"<Tls {self.cert}, until {self._loaded.ends_at:%Y-%m-%d}{state}>"

    @property
    def context(self) -> ssl.SSLContext:
        """What the next handshake goes by."""
        return self._loaded.context

    def statistics(self) -> TlsStatistics:
        """Return which certificate is served, and whether a newer one is not."""
        return TlsStatistics(self._loaded.ends_at, self._reloads, self._complaint is not None)

    def reload(self) -> None:
        """Look at the files at once; to be called in Trio's thread."""
        self._asked.set()

    async def run(self, now: Callable[[], datetime], every_s: float) -> None:
        """Look at the files every so many seconds, and when asked to, until cancelled."""
        if self._loaded.ends_at <= now():
            _log.error("tls_certificate_expired", ends_at=self._loaded.ends_at.isoformat())
        while True:
            with trio.move_on_after(every_s):
                await self._asked.wait()
            is_asked, self._asked = self._asked.is_set(), trio.Event()
            await self._look(now, is_asked=is_asked)

    async def _look(self, now: Callable[[], datetime], *, is_asked: bool) -> None:
        if is_asked:
            self._complaint = None
        try:
            with starting_thread():
                loaded = await trio.to_thread.run_sync(self._load_changed)
            if loaded is not None and loaded.ends_at <= now() < self._loaded.ends_at:
                raise _refused("tls_cert", self.cert, "has expired")
        except (Reject, OSError) as error:
            self._complain(error.message if isinstance(error, Reject) else str(error))
            return
        self._complaint = None
        if loaded is not None:
            self._loaded = loaded
            self._reloads += 1
            _log.info("tls_reloaded", cert=str(self.cert), ends_at=loaded.ends_at.isoformat())
        elif is_asked:
            _log.info("tls_unchanged", cert=str(self.cert))

    def _complain(self, reason: str) -> None:
        """Log why the old certificate stays: once, unless the reason changes or somebody asks."""
        if reason != self._complaint:
            ends_at = self._loaded.ends_at.isoformat()
            _log.error("tls_reload_failed", reason=reason, serving_until=ends_at)
        self._complaint = reason

    def _load_changed(self) -> _Loaded | None:
        """Load what is in the files; None if it is what is served."""
        cert, key = self._read()
        if _digest(cert, key) == self._loaded.digest:
            return None
        return _load(cert, key, self.cert, self.key)

    def _read(self) -> tuple[bytes, bytes]:
        return _read("tls_cert", self.cert), _read("tls_key", self.key)


def _read(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise _refused(setting, path, error.strerror or str(error)) from error
    if len(data) > _BYTES_MAX:
        raise _refused(setting, path, f"has more than {_BYTES_MAX} bytes")
    return data


def _load(cert: bytes, key: bytes, cert_path: Path, key_path: Path) -> _Loaded:
    """Make a context of two files, and of what was read of them just now.

    `ssl` reads files only.  Where they change in between, the digest is that of before, and the
    next look finds that they have changed.
    """
    try:
        ends_at = x509.load_pem_x509_certificate(cert).not_valid_after_utc
    except ValueError as error:
        raise _refused("tls_cert", cert_path, "holds no certificate in PEM") from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Of TLS 1.2, which a client may ask for any number of times; Python's other defaults are sound.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_SPOKEN)
    try:
        # Without a function OpenSSL would ask the terminal for a passphrase, and wait.
        context.load_cert_chain(cert_path, key_path, password=lambda: "")
    except ssl.SSLError as error:
        raise _explained(error, cert, cert_path, key_path) from error
    except OSError as error:
        raise _refused("tls_key", key_path, error.strerror or str(error)) from error
    return _Loaded(context, _digest(cert, key), ends_at)


def _explained(error: ssl.SSLError, chain: bytes, cert: Path, key: Path) -> Reject:
    """Return which of the files is at fault, which OpenSSL does not always say."""
    if error.reason in {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}:  # the latter by kind
        return _refused("tls_key", key, f"is not the key of {cert}")
    if error.reason in _TOO_WEAK:
        return _refused("tls_cert", cert, f"is refused by OpenSSL: {_TOO_WEAK[error.reason]}")
    try:
        is_whole = len(x509.load_pem_x509_certificates(chain)) == chain.count(_BEGIN)
    except ValueError:
        is_whole = False
    if not is_whole:
        return _refused("tls_cert", cert, "holds something else than whole certificates in PEM")
    return _refused("tls_key", key, "holds no private key in PEM that needs no passphrase")


def _refused(setting: str, path: Path, reason: str) -> Reject:
    return Reject("BAD_REQUEST", f"{path}: {reason}", setting=setting)


def _digest(cert: bytes, key: bytes) -> bytes:
    return sha256(sha256(cert).digest() + sha256(key).digest()).digest()
