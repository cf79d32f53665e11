"""By when the rest of a body is due."""

from __future__ import annotations

import math

import trio
import trio.testing

from dalsegno.protocol import Limits
from dalsegno.runtime.web._body import TimedBody


async def test_what_has_arrived_gives_more_time_up_to_a_bound(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = Limits(body_grace_s=5, body_rate_min=1000, body_deadline_s=30)
    begun = trio.current_time()
    body = TimedBody(None, None)
    assert body.due(limits) - begun == 5
    await trio.sleep(4)
    body.append(b"x" * 2500)
    assert body.due(limits) - begun == 7.5
    body.append(b"x" * 100_000)
    assert body.due(limits) - begun == 30
    body.set_complete()
    assert body.due(limits) == math.inf
    assert len(await body) == 102_500
