"""The judge of this folder's histories does find faults in them."""

from __future__ import annotations

import time

import msgspec
import pytest
import trio

from dalsegno.actors.testing import Answered, Delivered, Recorder
from dalsegno.runtime import Runtime
from tests.system._hosts import Host
from tests.system._judge import judge
from tests.tasks_domain import tasks


async def test_a_history_that_is_changed_is_found_wrong(migrated: str) -> None:
    recorder = Recorder(time.monotonic)
    async with Runtime.open(migrated, domains=[tasks]) as rt, trio.open_nursery() as nursery:
        host = Host(recorder, rt, "w", name="h")
        nursery.start_soon(host.run)
        await host.wait(more=30)
        await host.settle()
    history = recorder.history
    assert (await judge(history, migrated, "w")).events >= 30

    seen = [index for index, record in enumerate(history) if isinstance(record, Delivered)]
    one = seen[len(seen) // 2]
    with pytest.raises(AssertionError, match="gap"):
        await judge(history[:one] + history[one + 1 :], migrated, "w")

    answers = [index for index, record in enumerate(history) if isinstance(record, Answered)]
    one = answers[len(answers) // 2]
    answer = history[one]
    assert isinstance(answer, Answered)
    refused = msgspec.structs.replace(answer, outcome="fail", code="REFUSED")
    with pytest.raises(AssertionError, match="ghost-fail"):
        await judge([*history[:one], refused, *history[one + 1 :]], migrated, "w")
