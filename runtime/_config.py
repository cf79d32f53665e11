"""Settings: from the command line, else ``DALSEGNO_…``, else a TOML file, else the default.

The file's keys are the options' names with underscores; bounds are in its table ``[limits]``, and
``DALSEGNO_LIMIT_…`` in the environment.  Unknown names are refused, since a misspelt setting would
otherwise silently keep its default.
"""

from __future__ import annotations

import ipaddress
import tomllib
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from dalsegno.protocol import UNBOUNDED_AT_ZERO, Limits

from ._node import is_node_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from .web import Network

LogFormat: TypeAlias = Literal["text", "json"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]

LIMIT_PREFIX = "DALSEGNO_LIMIT_"
"""What the names of bounds begin with in the environment."""

_LIMITS: dict[str, type[int | float]] = {
    field.name: int if isinstance(field.default, int) else float for field in fields(Limits)
}


class ConfigError(Exception):
    """A setting that cannot be used."""


class FileSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a settings file may hold."""

    bind: str | None = None
    data_dir: str | None = None
    database: str | None = None
    node_id: str | None = None
    advertise: str | None = None
    public_url: str | None = None
    origins: list[str] | None = None
    proxies: list[str] | None = None
    log_level: LogLevel | None = None
    log_format: LogFormat | None = None
    limits: dict[str, float] = {}

    def defaults(self) -> dict[str, Any]:
        """Return the settings of the file, by the options' names."""
        return {
            name: value
            for name, value in msgspec.structs.asdict(self).items()
            if name != "limits" and value is not None
        }


def read_file(path: Path) -> FileSettings:
    """Read a settings file.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown setting.

    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), FileSettings)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


def read_limits(table: Mapping[str, float], environ: Mapping[str, str]) -> Limits:
    """Return the bounds: the environment's, else the file's, else the defaults.

    Raises:
        ConfigError: a name is unknown, or a value is not a positive number of the right kind.

    """
    given: dict[str, float | str] = dict(table)
    for name, value in environ.items():
        if name.startswith(LIMIT_PREFIX):
            given[name.removeprefix(LIMIT_PREFIX).lower()] = value
    return Limits(**{name: _limit(name, value) for name, value in given.items()})


def _limit(name: str, value: float | str) -> Any:  # noqa: ANN401 - an int or a float, as it is declared
    kind = _LIMITS.get(name)
    if kind is None:
        raise ConfigError(f"there is no limit {name!r}")
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        number = -1
    least_is_zero = name in UNBOUNDED_AT_ZERO
    if number < 0 or (number == 0 and not least_is_zero) or number != float(value):
        what = "whole number" if kind is int else "number"
        least = "from 0" if least_is_zero else "above 0"
        raise ConfigError(f"limit {name}: {value!r} is not a {what} {least}")
    return number


def parse_bind(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``; an IPv6 address is in brackets, port 0 lets the system choose.

    Raises:
        ConfigError: the text is not of this form.

    """
    host, colon, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host or (":" in host and not is_bracketed):
        raise ConfigError(f"{text!r} is not HOST:PORT")
    if not (port.isascii() and port.isdigit() and int(port) < 2**16):
        raise ConfigError(f"{port!r} is not a port")
    return host.strip("[]"), int(port)


def check_node_id(text: str) -> str:
    """Return a text that can be a node's id.

    Raises:
        ConfigError: it cannot.

    """
    if not is_node_id(text):
        raise ConfigError(f"{text!r} is not a node id: 1 to 64 of A-Z a-z 0-9 _ . -")
    return text


def parse_proxies(texts: Iterable[str]) -> tuple[Network, ...]:
    """Parse the addresses of proxies, or the networks that they are in.

    Raises:
        ConfigError: one is neither.

    """
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"proxies: {error}") from None


def check_advertised(text: str) -> str:
    """Return an address that can be given to clients, without a slash at its end.

    Raises:
        ConfigError: it is not ``http://HOST…`` or ``https://HOST…``, or it contains a password.

    """
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.password is not None:
        raise ConfigError(f"{text!r} is not http://HOST:PORT or https://HOST")
    return text.rstrip("/")


def check_public_url(text: str) -> str:
    """Return the address at which browsers reach a server, without a slash at its end.

    Raises:
        ConfigError: it is not ``http://HOST…`` or ``https://HOST…``, or there is more to it.

    """
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f"public-url: {text!r} is not https://HOST or https://HOST:PORT")
    return text.rstrip("/")
