"""Which model provider is asked, and how: settings that are checked as a whole.

They are part of documents that people write, such as the action of a rule, so what is wrong with
them is said in words that stay: the field, and what it may be.  No key is among them, and one that
is put there is refused like any other unknown field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

import msgspec

ProviderKind: TypeAlias = Literal["openrouter", "lmstudio"]
"""Whose service it is: where it is by default, and whether it wants a key."""

DEFAULT_URLS: Mapping[ProviderKind, str] = {
    "openrouter": "https://openrouter.ai/api/v1/chat/completions",
    "lmstudio": "http://127.0.0.1:1234/v1/chat/completions",
}
"""Where each kind takes chat completions, unless ``base_url`` says otherwise."""

DEFAULT_ORIGINS = ("https://openrouter.ai", "http://127.0.0.1:1234")
"""The origins of these (RFC 6454)."""

MODEL_CHARS_MAX = 128
FALLBACK_MODELS_MAX = 8
"""Each is asked with retries of its own, while a run waits."""
_URL_CHARS_MAX = 2_048
_TOKENS_MAX = 2**31 - 1
_URL = re.compile(r"[!-~]+")
"""Printable ASCII, without blanks (RFC 3986 §2); a host with other letters is written as IDNA."""


class ProviderSettingsError(ValueError):
    """Settings of a provider that cannot be used; ``detail`` says what is wrong with them."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        """Stable: ``provider.FIELD: what it may be``, and nothing of what it was."""


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which provider and model are asked, and how often.

    Raises:
        ProviderSettingsError: while it is made, also by ``msgspec.structs.replace``.

    """

    provider_kind: ProviderKind
    model: str
    """1 to 128 characters."""
    base_url: str | None = None
    """Where chat completions are asked for, http or https; None: `DEFAULT_URLS`."""
    timeout_ms: int = 2_000
    """How long the provider may be silent, in milliseconds: 50 to 120,000."""
    retry_limit: int = 1
    """How often a model is asked again after a failure that may pass: 0 to 2."""
    max_tokens: int | None = None
    """Of an answer, not 0; None: as the provider has it.  Some read -1 as without a bound."""
    temperature: float | None = None
    """0 to 2; None: as the provider has it."""
    fallback_models: tuple[str, ...] = ()
    """Models that are asked after this one has failed, in their order; at most 8."""

    def __post_init__(self) -> None:
        for name, (is_one, what) in _FIELDS.items():
            if not is_one(getattr(self, name)):
                raise _wrong(name, what)

    @property
    def url(self) -> str:
        """Where chat completions are asked for."""
        return self.base_url or DEFAULT_URLS[self.provider_kind]

    @property
    def models(self) -> tuple[str, ...]:
        """The models, in the order in which they are asked."""
        return (self.model, *self.fallback_models)


def read_provider_settings(document: object) -> ProviderSettings:
    """Return the settings that a JSON document describes; null counts as not given.

    Raises:
        ProviderSettingsError: it describes none.  Of several faults the first is told, in the
            order of the fields; what is unknown comes last.

    """
    if not isinstance(document, Mapping):
        raise ProviderSettingsError("provider: an object")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in document.items()
        if value is not None
    }
    for name in ("provider_kind", "model"):
        if name not in given:
            raise _wrong(name, _FIELDS[name][1])
    settings = ProviderSettings(**{name: given[name] for name in _FIELDS if name in given})
    for name in document:
        if name not in _FIELDS:
            raise ProviderSettingsError("provider: a field that is none of " + ", ".join(_FIELDS))
    return settings


def provider_problem(document: object) -> str | None:
    """Return what is wrong with the settings that a document describes; None: nothing is."""
    try:
        read_provider_settings(document)
    except ProviderSettingsError as error:
        return error.detail
    return None


def _wrong(name: str, what: str) -> ProviderSettingsError:
    return ProviderSettingsError(f"provider.{name}: {what}")


def _is_model(value: object) -> bool:
    return (
        isinstance(value, str)
        and 1 <= len(value) <= MODEL_CHARS_MAX
        and value.isprintable()
        and not value.isspace()
    )


def _is_integer(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_temperature(value: object) -> bool:
    # Of NaN no comparison holds.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 2


def _is_url(value: object) -> bool:
    if not isinstance(value, str) or len(value) > _URL_CHARS_MAX or not _URL.fullmatch(value):
        return False
    try:
        parts = urlsplit(value)
        has_port = parts.port != 0
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and has_port
        and "@" not in parts.netloc
        and "#" not in value
    )


_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "provider_kind": (
        lambda value: isinstance(value, str) and value in get_args(ProviderKind),
        f"one of {', '.join(get_args(ProviderKind))}",
    ),
    "model": (_is_model, f"1 to {MODEL_CHARS_MAX} characters"),
    "base_url": (
        lambda value: value is None or _is_url(value),
        "http://HOST… or https://HOST…, without a user",
    ),
    "timeout_ms": (lambda value: _is_integer(value, 50, 120_000), "50 to 120000"),
    "retry_limit": (lambda value: _is_integer(value, 0, 2), "0 to 2"),
    "max_tokens": (
        lambda value: value is None or (_is_integer(value, -_TOKENS_MAX, _TOKENS_MAX) and value),
        "a whole number other than 0",
    ),
    "temperature": (lambda value: value is None or _is_temperature(value), "0 to 2"),
    "fallback_models": (
        lambda value: (
            isinstance(value, tuple)
            and len(value) <= FALLBACK_MODELS_MAX
            and all(map(_is_model, value))
        ),
        f"a list of at most {FALLBACK_MODELS_MAX} models of 1 to {MODEL_CHARS_MAX} characters",
    ),
}
