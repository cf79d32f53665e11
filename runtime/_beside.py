"""A task beside a block, for an ``async with`` that looks after something meanwhile."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


@asynccontextmanager
async def beside(task: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run ``task`` for the length of a block, which cancels it at its end.

    The block's own exception leaves as it is, in no group.

    Raises:
        ExceptionGroup: ``task`` failed; the block is cancelled.

    """
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again, outside of the nursery
            raised = error
        nursery.cancel_scope.cancel(reason="the block is over")
    if raised is not None:
        raise raised
