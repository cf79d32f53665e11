"""Asking again, and asking another model.

A failure that may pass is tried again, after a wait with full jitter, or the one that the provider
asks for.  Then the fall-back models are asked in their order, each with retries of its own.  Once
something was said, the next attempt cannot be hidden: whoever reads has the beginning of an answer
that another one does not go on with.  So it begins with a `Restarted`, and what was said is void.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Self

import msgspec
import trio

from dalsegno.protocol import Backoff
from dalsegno.protocol.providers import Answered, ProviderError, Restarted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dalsegno.protocol.providers import ChatPart, ChatRequest, ChatStream, Provider

_log = logging.getLogger("dalsegno.providers")

_FIRST_S, _MAX_S = 0.5, 8.0
"""As the provider's own libraries have it (openai 7.59)."""


class Persistent:
    """A provider that is asked again after failures that may pass, and for other models."""

    def __init__(
        self,
        provider: Provider,
        *,
        retry_limit: int,
        random: Callable[[], float],
        fallback_models: Sequence[str] = (),
        retry_after_max_s: float = 30.0,
    ) -> None:
        """Wrap a provider.

        Args:
            provider: who is asked.
            retry_limit: how often a model is asked again.
            random: uniform in [0, 1).
            fallback_models: whom to ask when a request's own model has failed.
            retry_after_max_s: how long the provider may want a question to wait, in seconds; one
                that wants more has failed as far as this model goes.

        """
        self.provider = provider
        self.retry_limit = retry_limit
        self.random = random
        self.fallback_models = tuple(fallback_models)
        self.retry_after_max_s = retry_after_max_s

    def __repr__(self) -> str:
        return f"<Persistent {self.provider!r}>"

    def chat(self, request: ChatRequest) -> _Attempts:
        """Ask for the length of a block; see `Provider`."""
        return _Attempts(self, request)


class _Attempts:
    """The attempts at one question, one after the other."""

    def __init__(self, asking: Persistent, request: ChatRequest) -> None:
        self._asking = asking
        self._request = request
        self._models = [*asking.fallback_models]
        self._backoff = Backoff(_FIRST_S, _MAX_S)
        self._retries_left = asking.retry_limit
        self._attempt = 0
        self._pause_s = 0.0
        self._open = AsyncExitStack()
        self._stream: ChatStream | None = None
        self._has_said = False
        """Whether its reader has something of the present attempt."""
        self._failure: ProviderError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatPart:
        if self._failure is not None:
            await trio.lowlevel.checkpoint()
            raise self._failure
        while True:
            if self._stream is None:
                await self._begin()
            assert self._stream is not None
            try:
                part = await self._stream.__anext__()
            except ProviderError as error:
                await self._open.aclose()
                self._stream = None
                self._plan(error)
                if self._has_said:
                    self._has_said = False
                    return Restarted(self._attempt + 1, self._request.model, error.category)
                continue
            self._has_said = True
            if isinstance(part, Answered):
                return msgspec.structs.replace(part, attempts=self._attempt)
            return part

    async def _begin(self) -> None:
        await trio.sleep(self._pause_s)
        self._attempt += 1
        asked = self._asking.provider.chat(self._request)
        self._stream = await self._open.enter_async_context(asked)

    def _plan(self, error: ProviderError) -> None:
        """Decide who is asked next, and when.

        Raises:
            ProviderError: nobody is.

        """
        error.details["attempts"] = self._attempt
        failed = self._request.model
        wanted_s = error.retry_after_s or 0.0
        waits = wanted_s <= self._asking.retry_after_max_s
        if error.is_retryable and self._retries_left > 0 and waits:
            self._retries_left -= 1
            # On top of what is asked for, or all who were sent away come back at once.
            self._pause_s = wanted_s + self._backoff.next_s(self._asking.random())
        elif error.is_models and self._models:
            self._request = msgspec.structs.replace(self._request, model=self._models.pop(0))
            self._retries_left = self._asking.retry_limit
            self._backoff.reset()
            self._pause_s = 0.0
        else:
            self._failure = error
            raise error
        _log.info(
            "%s of %s failed (%s); attempt %d asks %s in %.1f s",
            *(failed, error.details.get("provider_kind"), error.category),
            *(self._attempt + 1, self._request.model, self._pause_s),
        )
