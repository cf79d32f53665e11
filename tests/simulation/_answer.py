"""What a simulated model answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import trio

from dalsegno.protocol.providers import ChatPart, ProviderError


class Answer:
    """An answer, part by part; a number is a pause in seconds, an error its end."""

    def __init__(self, parts: Sequence[ChatPart | float | ProviderError]) -> None:
        self._parts = iter(parts)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatPart:
        for part in self._parts:
            if isinstance(part, float):
                await trio.sleep(part)
            elif isinstance(part, ProviderError):
                raise part
            else:
                await trio.lowlevel.checkpoint()
                return part
        raise StopAsyncIteration
