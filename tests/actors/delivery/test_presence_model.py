"""Whatever is lost, held, removed, slow or moved: in the end everybody knows who is present.

And on the way each change follows what its reader has, and nothing follows an end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from dalsegno.actors import TransportClosedError
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import Limits, WorkspaceMovedError
from tests._presence import Message, Seen
from tests.actors._boxes import Put
from tests.actors._wire import Wire
from tests.actors._world import Actors, FaultyStore, Wall, running

LIMITS = Limits(presence_shown_max=2, presence_connections_per_user_max=9)
LONG_S = LIMITS.presence_linger_s + LIMITS.ping_interval_s + LIMITS.pong_deadline_s + 5.0
ROOM_BYTES = 900
"""A few changes fill that."""


@dataclass
class Page:
    """A page: its connection if it has one, and what it has read there."""

    user: str
    client: str
    tab: str | None
    wire: Wire | None = None
    seen: Seen = field(default_factory=Seen)
    state: int = 0
    attends: bool = False
    """Whether it has asked to be present, and has not read that this was ended."""

    @property
    def has_session(self) -> bool:
        return self.client == "laptop"


class Machine:
    """Runs what Hypothesis draws."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.world = Wall().world()
        self.store = FaultyStore(self.world)
        self.pages = [
            Page("a", "laptop", "t"),
            Page("a", "phone", None),
            Page("b", "laptop", "t"),
            Page("c", "laptop", "u"),
        ]
        self.members = {*"abc"}
        self.states = iter(range(1, 10_000))
        self.actors: Actors
        self.nursery: trio.Nursery

    def draw(self, strategy: st.SearchStrategy[Any], label: str) -> Any:
        return self.data.draw(strategy, label)

    async def run(self) -> None:
        async with (
            running(self.store, self.world, limits=LIMITS) as self.actors,
            trio.open_nursery() as self.nursery,
        ):
            for user in ("owner", *"abc"):
                await self.actors.workspace().send(PutMember(user, "viewer"))
            for _ in range(self.draw(st.integers(0, 40), "steps")):
                step: Callable[[], Awaitable[None]] = self.draw(st.sampled_from(self.steps), "step")
                await step()
            await self.finish()
            self.nursery.cancel_scope.cancel()

    @property
    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            *[self.attend] * 4,
            *[self.say] * 3,
            *[self.read] * 3,
            *[self.wait] * 2,
            *[self.burst] * 2,
            *(self.leave, self.close, self.vanish, self.vanish, self.abandon),
            *(self.remove, self.hold, self.put, self.move),
        ]

    def page(self) -> Page:
        page: Page = self.draw(st.sampled_from(self.pages), "page")
        return page

    async def attend(self, page: Page | None = None) -> None:
        page = page or self.page()
        if page.wire is None or page.wire.ended.is_set():
            page.wire = Wire(
                self.actors,
                room_bytes=ROOM_BYTES,
                user_id=page.user,
                client_id=page.client,
                tab=page.tab,
                session_id=b"s" if page.has_session else b"",
            )
            self.nursery.start_soon(page.wire.run)
        page.state, page.attends, page.seen = next(self.states), True, Seen()
        await self.tell(page, "presence_subscribe", state=page.state)

    async def tell(self, page: Page, type_: str, **fields: Any) -> None:
        assert page.wire is not None
        try:
            await page.wire.say(type_, workspace_id="w", **fields)
        except TransportClosedError:
            self.gone(page)

    def gone(self, page: Page) -> None:
        page.wire, page.attends, page.seen = None, False, Seen()

    async def say(self) -> None:
        page = self.page()
        if page.attends:
            page.state = next(self.states)
            await self.tell(page, "presence_update", state=page.state)

    async def leave(self) -> None:
        page = self.page()
        if page.attends:
            page.attends = False
            await self.tell(page, "presence_unsubscribe")

    async def close(self) -> None:
        page = self.page()
        if page.wire is not None:
            page.wire.client.close(1000)
            self.gone(page)

    async def vanish(self) -> None:
        page = self.page()
        if page.wire is not None:
            page.wire.client.vanish()
            self.gone(page)

    async def abandon(self) -> None:
        """Lose the connection unseen: only its tab that comes back tells that."""
        page = self.page()
        if page.wire is not None and page.tab is not None:
            page.wire.client.deaf = True
            self.gone(page)
            await self.attend(page)

    async def remove(self) -> None:
        user = self.draw(st.sampled_from("abc"), "user")
        if user in self.members:
            self.members.remove(user)
            await self.actors.workspace().send(RemoveMember(user))
        else:
            self.members.add(user)
            await self.actors.workspace().send(PutMember(user, "viewer"))

    async def hold(self) -> None:
        """Hold the connections with a session, while the others say something, and behind that."""
        speakers = [page for page in self.pages if page.attends and not page.has_session]
        await trio.testing.wait_all_tasks_blocked()
        self.actors.service.connections.hold()
        await self.burst(speakers)
        await trio.testing.wait_all_tasks_blocked()
        self.actors.service.connections.resume()
        await self.burst(speakers)

    async def burst(self, speakers: Sequence[Page] | None = None) -> None:
        """Say more than who does not read can be told."""
        speakers = [page for page in self.pages if page.attends] if speakers is None else speakers
        for _ in range(self.draw(st.integers(1, 6), "changes")):
            for page in speakers:
                if page.attends:
                    page.state = next(self.states)
                    await self.tell(page, "presence_update", state=page.state)
            await trio.sleep(2 * LIMITS.presence_interval_s)

    async def put(self) -> None:
        await self.actors.workspace().send(Put("a"))

    async def move(self) -> None:
        """End it as if another node had the workspace, which comes back at once."""
        hub = self.actors.service.directory.activate("w").hub
        if hub.is_open:
            head, chain = hub.head, hub.chain
            hub.end(WorkspaceMovedError("elsewhere"))
            hub.open(head, chain)

    async def wait(self) -> None:
        await trio.sleep(self.draw(st.sampled_from([0.0, 0.05, 0.3, 2.0, 6.0]), "time"))

    async def read(self, page: Page | None = None) -> None:
        page = page or self.page()
        while page.wire is not None:
            with trio.move_on_after(0.001) as waited:
                try:
                    self.hear(page, msgspec.json.decode(await page.wire.client.receive()))
                except TransportClosedError:
                    self.gone(page)
            if waited.cancelled_caught:
                return

    def hear(self, page: Page, message: Message) -> None:
        match message["type"]:
            case "presence" | "presence_diff":
                # Of what was on its way when it left, or asked once more, it takes no notice.
                if page.attends and (page.seen.rev >= 0 or message["type"] == "presence"):
                    assert page.seen.hear(message)
            case "presence_ended":
                page.attends, page.seen = False, Seen()
            case "error":
                assert message["code"] in {
                    *("ROLE_FORBIDDEN", "NOT_SUBSCRIBED", "WORKSPACE_MOVED"),
                }, message
                page.attends, page.seen = False, Seen()

    async def finish(self) -> None:
        """Let everybody come to rest, and compare what they know."""
        for _ in range(int(LONG_S)):
            for page in self.pages:
                await self.read(page)
            await trio.sleep(1.0)
        for page in self.pages:
            if page.user in self.members and not page.attends:
                await self.attend(page)
        for _ in range(4):
            await trio.sleep(1.0)
            for page in self.pages:
                await self.read(page)
        here = [page for page in self.pages if page.attends]
        assert {page.user for page in here} == self.members
        expected: dict[str, Counter[int]] = {}
        for page in here:
            expected.setdefault(page.user, Counter())[page.state] += 1
        for page in here:
            assert page.seen.total == len(expected)
            assert len(page.seen.users) == min(len(expected), LIMITS.presence_shown_max)
            assert page.seen.settled
            assert {user: Counter(page.seen.states(user)) for user in page.seen.users} == {
                user: expected[user] for user in page.seen.users
            }
            assert page.seen.rev == here[0].seen.rev
            assert page.seen.users == here[0].seen.users


@pytest.mark.long
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(schedule=st.random_module(), data=st.data())
def test_in_the_end_everybody_knows_who_is_present(schedule: object, data: st.DataObject) -> None:
    del schedule  # drawn first, so that Trio's schedules differ from example to example
    trio.run(Machine(data).run, clock=trio.testing.MockClock(autojump_threshold=0))
