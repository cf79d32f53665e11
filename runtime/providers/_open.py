"""The providers that may be asked, and the connections to them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Self

import httpx
import trio

from dalsegno.protocol.providers import ProviderError
from dalsegno.runtime._config import ConfigError
from dalsegno.runtime.seams import WORLD

from ._keys import key_from_environment, origin_of
from ._limits import ProviderLimits
from ._openai import OpenAIChat
from ._persistent import Persistent

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Collection

    from dalsegno.actors import World
    from dalsegno.protocol.providers import (
        Category,
        ChatPart,
        ChatRequest,
        Provider,
        ProviderSettings,
    )

    from ._keys import ProviderKey


class HttpProviders:
    """Providers that are asked over HTTP, on connections that they share; see `open_providers`."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        *,
        key: ProviderKey | None,
        origins: Collection[str] | None,
        limits: ProviderLimits,
        world: World,
    ) -> None:
        self._http = http
        self._key = key
        self._origins = None if origins is None else frozenset(map(origin_of, origins))
        self._limits = limits
        self._world = world

    def __repr__(self) -> str:
        return "<HttpProviders>"

    def of(self, settings: ProviderSettings) -> Provider:
        """Return who is asked by settings: with their bounds, retries and fall-back models.

        What may not be asked, for want of a key or at that address, is a failure of each question.
        """
        kind = settings.provider_kind
        try:
            origin = origin_of(settings.url)
        except ConfigError:
            return _Nobody("bad_request", "the address cannot be asked", kind)
        if self._origins is not None and origin not in self._origins:
            message = "this address is none of those that may be asked"
            return _Nobody("bad_request", message, kind)
        key = self._key if kind == "openrouter" else None
        if kind == "openrouter" and (key is None or origin not in key.origins):
            return _Nobody("auth_failed", "there is no key for this address", kind)
        once = OpenAIChat(
            self._http,
            url=settings.url,
            provider_kind=kind,
            timeout_s=settings.timeout_ms / 1_000,
            limits=self._limits,
            now=self._world.now,
            key=key,
        )
        return Persistent(
            once,
            retry_limit=settings.retry_limit,
            random=self._world.random,
            fallback_models=settings.fallback_models,
            retry_after_max_s=self._limits.retry_after_max_s,
        )


class _Nobody:
    """Who is not asked."""

    def __init__(self, category: Category, message: str, provider_kind: str) -> None:
        self._category: Category = category
        self._message = message
        self._provider_kind = provider_kind

    def chat(self, request: ChatRequest) -> _NoAnswer:
        kind, model = self._provider_kind, request.model
        return _NoAnswer(
            ProviderError(self._category, self._message, provider_kind=kind, model=model)
        )


class _NoAnswer:
    """The answer of nobody."""

    def __init__(self, error: ProviderError) -> None:
        self._error = error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatPart:
        await trio.lowlevel.checkpoint()
        raise self._error


@asynccontextmanager
async def open_providers(
    *,
    key: ProviderKey | None = None,
    origins: Collection[str] | None = None,
    limits: ProviderLimits | None = None,
    world: World = WORLD,
    tls: ssl.SSLContext | None = None,
    trust_env: bool = True,
) -> AsyncIterator[HttpProviders]:
    """Keep connections to providers for the length of a block, as long as the program, say.

    Args:
        key: OpenRouter's; None: that of ``OPENROUTER_API_KEY``, if it is set.
        origins: whom settings may name, each ``scheme://host:port``; None: anybody, so that who
            writes settings can have this program send a question to any address that it reaches.
        limits: the bounds.
        world: time and randomness.
        tls: whose certificates are believed; None: those that httpx believes.
        trust_env: whether the proxies of the environment are used.

    Raises:
        ConfigError: the environment's key is none; an origin is none.

    """
    if key is None:
        key = key_from_environment()
    limits = ProviderLimits() if limits is None else limits
    pool = httpx.Limits(
        max_connections=limits.connections_max,
        max_keepalive_connections=limits.connections_idle_max,
        keepalive_expiry=limits.connections_idle_s,
    )
    client = httpx.AsyncClient(
        verify=True if tls is None else tls,
        limits=pool,
        timeout=None,  # noqa: S113 - `OpenAIChat` bounds each wait
        follow_redirects=False,  # one could lead anywhere, with the key
        trust_env=trust_env,
    )
    # One question is not to be recognised by the next one's provider.
    client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))
    async with client as http:
        yield HttpProviders(http, key=key, origins=origins, limits=limits, world=world)
