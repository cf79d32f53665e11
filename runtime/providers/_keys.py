"""Keys of providers: from the environment or from a file, and never from settings.

Settings are written by people who may not know the key.  One who could choose the address as well
would have it sent there, so a key belongs to addresses, and is shown to no other.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import httpx

from dalsegno.runtime._config import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

OPENROUTER_KEY = "OPENROUTER_API_KEY"
"""The variable that has OpenRouter's key."""
OPENROUTER_ORIGIN = "https://openrouter.ai"
_KEY_BYTES_MAX = 4_096
_KEY = re.compile(r"[!-~]+")
"""What a header can have (RFC 9110 §5.5), without blanks."""
_PORTS = {"https": 443, "http": 80}


class ProviderKey:
    """A key, and the addresses that it is for."""

    __slots__ = ("_secret", "origins")

    def __init__(self, secret: str, *, origins: Collection[str] = (OPENROUTER_ORIGIN,)) -> None:
        """Keep a key.

        Args:
            secret: printable ASCII without blanks, at most 4,096 characters.
            origins: whom it is shown to, each ``scheme://host`` or ``scheme://host:port``.

        Raises:
            ConfigError: it is no key; the text does not have it.

        """
        if len(secret) > _KEY_BYTES_MAX or not _KEY.fullmatch(secret):
            raise ConfigError("a provider's key is printable ASCII without blanks")
        self._secret = secret
        self.origins = frozenset(map(origin_of, origins))

    def __repr__(self) -> str:
        return "<ProviderKey>"

    @property
    def header(self) -> str:
        """What is sent as ``Authorization``."""
        return f"Bearer {self._secret}"


def origin_of(url: str) -> str:
    """Return the origin of a URL, its port always with it (RFC 6454 §4).

    It is read by whoever connects to it: where two readers differ about a host, one of them shows a
    key to a stranger.

    Raises:
        ConfigError: it has none.

    """
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        raise ConfigError(f"{url!r} is no address") from None
    port = parts.port or _PORTS.get(parts.scheme)
    if not parts.host or port is None or parts.scheme not in _PORTS:
        raise ConfigError(f"{url!r} is not http://HOST or https://HOST")
    return f"{parts.scheme}://{parts.host}:{port}"


def key_from_environment(
    environ: Mapping[str, str] | None = None,
    *,
    origins: Collection[str] = (OPENROUTER_ORIGIN,),
) -> ProviderKey | None:
    """Return OpenRouter's key, from ``OPENROUTER_API_KEY``; None where it is not set.

    Raises:
        ConfigError: it is no key.

    """
    secret = (os.environ if environ is None else environ).get(OPENROUTER_KEY, "").strip()
    return ProviderKey(secret, origins=origins) if secret else None


def read_key(path: Path, *, origins: Collection[str] = (OPENROUTER_ORIGIN,)) -> ProviderKey:
    """Return the key that a file has, which only its owner may read (mode 0600).

    Raises:
        ConfigError: it cannot be read, others may read it, or it has no key.

    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(_KEY_BYTES_MAX + 2).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: others may read this key; chmod 600 {path}")
    return ProviderKey(secret, origins=origins)
