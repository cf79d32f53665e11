"""Settings: from the command line, else ``DALSEGNO_…``, else a TOML file, else the default.

The file's keys are the options' names, with hyphens or underscores; bounds are in its table
``[limits]``, and ``DALSEGNO_LIMIT_…`` in the environment.  Unknown names are refused, since a
misspelt setting would otherwise silently keep its default, and are named as they were written.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from dataclasses import fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from dalsegno.protocol import UNBOUNDED_AT_ZERO, Limits

from ._node import is_node_id

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from .web import Network

Driver: TypeAlias = Literal["psycopg", "asyncpg"]
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

    app: str | None = None
    bind: str | None = None
    data_dir: str | None = None
    database: str | None = None
    driver: Driver | None = None
    node_id: str | None = None
    artifacts: str | None = None
    advertise: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    public_url: str | None = None
    origins: list[str] | None = None
    proxies: list[str] | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_keys: str | None = None
    jwt_secret_file: str | None = None
    models: list[str] | None = None
    model_key_file: str | None = None
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
        written = tomllib.loads(path.read_text())
        settings = _with_underscores(written, FileSettings.__struct_fields__, f"{path}: ")
        return msgspec.convert(settings, FileSettings)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    except msgspec.ValidationError as error:
        said = str(error).replace("`", "").replace(" | null", "")
        what, _, where = said.partition(" - at ")
        setting = where.removeprefix("$.").replace("[...]", "")
        raise ConfigError(f"{path}: {setting}: {what[:1].lower()}{what[1:]}") from error


def _with_underscores(
    table: Mapping[str, Any], known: Collection[str], place: str
) -> dict[str, Any]:
    """Return a table by the names that the code has for its keys."""
    settings: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise ConfigError(f"{place}there is no setting {key!r}{_nearest(key, known)}")
        if name in settings:
            raise ConfigError(f"{place}{key!r} is there twice, with a hyphen and an underscore")
        settings[name] = value
    return settings


def _nearest(written: str, known: Iterable[str], *, variable: bool = False) -> str:
    """Return a question after the known name that was probably meant; of a bound, as a variable."""
    near = get_close_matches(written.replace("-", "_"), known, n=1)
    names = [LIMIT_PREFIX + name.upper() if variable else name for name in near]
    return f"; did you mean {names[0]}?" if names else ""


def read_limits(
    table: Mapping[str, float], environ: Mapping[str, str], *, file: Path | None = None
) -> Limits:
    """Return the bounds: the environment's, else the file's, else the defaults.

    Raises:
        ConfigError: a name is unknown, or a value is not a positive number of the right kind.

    """
    given: dict[str, Any] = {}
    for name, value in table.items():
        written = f"limit {name!r} in {file or 'the settings file'}"
        near = _nearest(name, _LIMITS)
        given[name.replace("-", "_")] = _limit(name.replace("-", "_"), value, written, near)
    for variable, text in environ.items():
        if variable.startswith(LIMIT_PREFIX):
            name = variable.removeprefix(LIMIT_PREFIX).lower()
            near = _nearest(name, _LIMITS, variable=True)
            given[name] = _limit(name, text, f"limit {variable}", near)
    return Limits(**given)


def _limit(name: str, value: float | str, written: str, near: str) -> Any:  # noqa: ANN401 - an int or a float, as it is declared
    kind = _LIMITS.get(name)
    if kind is None:
        raise ConfigError(f"there is no {written}{near}")
    try:
        number = kind(value)
    except (ValueError, OverflowError):
        number = -1
    least_is_zero = name in UNBOUNDED_AT_ZERO
    if number < 0 or (number == 0 and not least_is_zero) or number != float(value):
        what = "whole number" if kind is int else "number"
        least = "from 0" if least_is_zero else "above 0"
        raise ConfigError(f"{written}: {value!r} is not a {what} {least}")
    return number


def split_list(texts: Iterable[str]) -> list[str]:
    """Return the items of texts that each hold one, or several between commas or blanks."""
    return [item for text in texts for item in re.split(r"[,\s]+", text) if item]


def parse_origins(texts: Iterable[str]) -> tuple[str, ...]:
    """Parse origins of pages (RFC 6454), as browsers send them: a scheme, a host, perhaps a port.

    Raises:
        ConfigError: one is something else; the message has what was probably meant.

    """
    return tuple(_origin(text) for text in split_list(texts))


def _origin(text: str) -> str:
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        is_origin = bool(parts.scheme and host) and parts.port != 0
    except ValueError:
        is_origin, host = False, ""
    if is_origin and text == f"{parts.scheme}://{parts.netloc}" and "@" not in parts.netloc:
        return text
    bare = re.match(r"(?:(\w[\w.+-]*)://)?(?:[^/@]*@)?([\w.-]+(?::\d+)?)", text)
    meant = f": write {bare[1] or 'https'}://{bare[2]}" if bare else ""
    raise ConfigError(f"{text!r} is not an origin{meant or ', such as https://example.com'}")


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
        return tuple(ipaddress.ip_network(text) for text in split_list(texts))
    except ValueError as error:
        raise ConfigError(str(error)) from None


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
        raise ConfigError(f"{text!r} is not https://HOST or https://HOST:PORT")
    return text.rstrip("/")
