"""The setting that says whose tokens are believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ._config import ConfigError
from .web import TokenIssuer, TokenKeys, is_address, is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

_SECRET_BYTES_MIN = 32
"""Of a secret for HS256 (RFC 7518 §3.2)."""


def read_tokens(settings: Mapping[str, str | None]) -> TokenIssuer | None:
    """Return the issuer that the settings ``jwt_…`` describe; None where there are none.

    Raises:
        ConfigError: they do not go together, or the secret or the keys cannot be used.

    """
    given = {name for name, value in settings.items() if value is not None}
    if not given:
        return None
    issuer, audience = settings["jwt_issuer"], settings["jwt_audience"]
    keys, secret_file = settings["jwt_keys"], settings["jwt_secret_file"]
    if not issuer or not audience:
        raise ConfigError("--jwt-issuer and --jwt-audience are needed: whose tokens, and for whom")
    if (keys is None) == (secret_file is None):
        raise ConfigError("--jwt-keys or --jwt-secret-file says what proves a token, one of them")
    if secret_file is not None:
        return TokenIssuer(issuer=issuer, audience=audience, secret=_read_secret(Path(secret_file)))
    assert keys is not None, "else the secret"
    _check_source(keys)
    return TokenIssuer(issuer=issuer, audience=audience, keys=TokenKeys(keys))


def _read_secret(path: Path) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"--jwt-secret-file: {path}: {error.strerror}") from error
    if len(secret) < _SECRET_BYTES_MIN:
        raise ConfigError(f"--jwt-secret-file: a secret has at least {_SECRET_BYTES_MIN} bytes")
    return secret


def _check_source(keys: str) -> None:
    if not is_address(keys):
        if not Path(keys).is_file():
            raise ConfigError(f"--jwt-keys: there is no file {keys}")
        return
    parts = urlsplit(keys)
    if not parts.hostname:
        raise ConfigError(f"--jwt-keys: {keys!r} is not https://HOST/PATH")
    if parts.scheme != "https" and not is_loopback(parts.hostname):
        raise ConfigError("--jwt-keys: without https anybody on the way could make tokens")
