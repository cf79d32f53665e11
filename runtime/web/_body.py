"""A request's body, which has to arrive in time: as a whole, and at a least rate.

A client that sends a byte now and then would otherwise hold a connection, a task and what it has
sent so far for as long as it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
from quart import request
from quart_trio.wrappers.request import TrioBody, TrioRequest
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout

if TYPE_CHECKING:
    from dalsegno.protocol import Limits


class TimedBody(TrioBody):
    """A body that knows since when it arrives, and how much of it did."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._announced_bytes = expected_content_length or 0
        self._begun = trio.current_time()
        self._arrived_bytes = 0
        self._is_complete = False

    def append(self, data: bytes) -> None:
        """Add what arrived."""
        self._arrived_bytes += len(data)
        super().append(data)

    def bound(self, bytes_max: int) -> None:
        """Take no more than so many bytes; what has arrived, or is announced, counts."""
        self._max_content_length = bytes_max
        if max(self._arrived_bytes, self._announced_bytes) > bytes_max:
            self._must_raise = RequestEntityTooLarge()

    def set_complete(self) -> None:
        """Note that nothing more comes."""
        self._is_complete = True
        super().set_complete()

    def due(self, limits: Limits) -> float:
        """Return by when the rest must have come, in Trio's time, unless more does before."""
        if self._is_complete:
            return float("inf")
        owed_s = limits.body_grace_s + self._arrived_bytes / limits.body_rate_min
        return self._begun + min(owed_s, limits.body_deadline_s)


class TimedRequest(TrioRequest):
    """A request with such a body."""

    body_class = TimedBody


async def read_body(limits: Limits, bytes_max: int | None = None) -> bytes:
    """Return the body of the current request.

    Args:
        limits: by when it has to be there.
        bytes_max: how long it may be, if that is less than for other requests.

    Raises:
        RequestTimeout: it is too slow.
        RequestEntityTooLarge: it is too long.

    """
    body = cast("TimedBody", request.body)
    if bytes_max is not None:
        body.bound(min(bytes_max, limits.body_bytes_max))
    while trio.current_time() < (due := body.due(limits)):
        with trio.move_on_at(due):
            return await request.get_data(cache=False, as_text=False, parse_form_data=False)
    raise RequestTimeout
