"""X-SUP-5: clients that come and go leave nothing behind."""

from __future__ import annotations

import gc
import os

import msgspec
import trio

from dalsegno.actors import Connection
from dalsegno.protocol import Limits, Subscription
from tests._patience import fail_after, until
from tests.runtime._serving import Site, serving, set_up
from tests.system._processes import Owner
from tests.system._socket import open_socket

VISITS, AT_A_TIME = 1_000, 20
POOLED = 8
ONE_USER = Limits(sockets_per_user_max=0)
"""All visits are the owner's, and one that has left counts until its acks are written."""


class Held(msgspec.Struct, frozen=True):
    """What a server holds in this process while no client is connected."""

    tasks: int
    files: int
    slots: int
    subscriptions: int
    objects: int
    """Connections and subscriptions that are still referenced."""

    def is_within(self, other: Held) -> bool:
        """Whether it has not grown, except by what a pool may have opened and a frame may hold."""
        return (
            self.tasks <= other.tasks
            and self.files <= other.files + POOLED
            and self.slots <= other.slots
            and self.subscriptions == other.subscriptions == 0
            and self.objects <= AT_A_TIME
        )


def held(site: Site) -> Held:
    gc.collect()
    slots = site.runtime.service.directory.statistics()
    kinds = (Connection, Subscription)
    return Held(
        trio.lowlevel.current_statistics().tasks_living,
        len(os.listdir("/proc/self/fd")),
        len(slots),
        sum(slot.subscriptions for slot in slots.values()),
        sum(isinstance(one, kinds) for one in gc.get_objects()),
    )


async def visit(site: Site, owner: Owner, title: str) -> None:
    """Connect, subscribe, write, see it, and leave: politely or not."""
    async with open_socket(site.port, owner) as socket:
        subscribed = await socket.subscribe(owner, cursor=None)
        await socket.create_note(owner, title)
        await socket.hear_answer("committed")
        await socket.say("ack", stream_id=subscribed["stream_id"], seq=subscribed["head"])


async def visit_often(site: Site, owner: Owner, count: int, prefix: str) -> None:
    titles = (f"{prefix}-{number}" for number in range(count))

    async def come_and_go() -> None:
        for title in titles:
            await visit(site, owner, title)

    async with trio.open_nursery() as nursery:
        for _ in range(AT_A_TIME):
            nursery.start_soon(come_and_go)


async def test_x_sup_5_a_thousand_visits_leave_nothing_behind(migrated: str) -> None:
    async with serving(migrated, limits=ONE_USER) as site:
        person = await set_up(site)
        owner = Owner(person.workspace, person.cookie, person.user_id)
        service = site.runtime.service
        with fail_after(60):
            # Pools, caches and threads come with the first ones, and stay.
            await visit_often(site, owner, AT_A_TIME, "first")
            await until(lambda: not service.connections)
            before = held(site)
            await visit_often(site, owner, VISITS, "later")
            await until(lambda: not service.connections)
            await until(lambda: held(site).is_within(before))
            assert await site.runtime.workspace(owner.workspace).head() == VISITS + AT_A_TIME
