"""What is on record, taken into the audit's log; and the queue of what was refused."""

from __future__ import annotations

import msgspec
import pytest
import trio

from dalsegno.actors.domains.accounts import RegisterUser, SetUserRole
from dalsegno.actors.effects import DROPPED, REFUSED
from dalsegno.actors.ports import PageBounds
from dalsegno.protocol import (
    AUDIT_WORKSPACE,
    SYSTEM_WORKSPACE,
    Limits,
    NotReadyError,
    Principal,
    Reject,
    StoreUnavailableError,
)
from dalsegno.protocol.audit import AuditEvent, audit_event_of, trail
from tests.actors._world import (
    DOMAINS,
    Actors,
    FaultyStore,
    Wall,
    applied_unknown,
    lost_unknown,
    running,
)

AUDITED = (*DOMAINS, trail)


async def register(actors: Actors, user_id: str, role: str = "viewer") -> int:
    receipt = await actors.workspace(SYSTEM_WORKSPACE).send(
        RegisterUser(
            user_id=user_id,
            email=f"{user_id}@example.org",
            display_name="User",
            role=role,  # type: ignore[arg-type]
        )
    )
    return receipt.event_seq


async def taken(store: FaultyStore) -> list[AuditEvent]:
    bounds = PageBounds(from_seq=1, limit=10_000, bytes_max=2**30)
    found = [audit_event_of(event) for event in await store.read_events(AUDIT_WORKSPACE, bounds)]
    return [each for each in found if each is not None]


def refuse(actors: Actors, count: int) -> None:
    refusals = actors.service.audit.refusals
    assert refusals is not None
    for number in range(count):
        refusals.note(
            REFUSED,
            resource_type="route",
            resource_id=f"GET /{number}\0\ud800{'x' * 300}",
            code="ROLE_FORBIDDEN",
            user_id="u",
            workspace_id=None,
            request_id=None,
            address="192.0.2.1",
        )


async def test_what_is_committed_is_there_at_once_and_once(
    wall: Wall, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(store, wall.world(), domains=AUDITED) as actors:
        began = trio.current_time()
        for number in range(3):
            await register(actors, f"u{number}")
        while len(await taken(store)) < 3:
            await trio.sleep(0.01)
        assert trio.current_time() - began < 0.2, "without waiting for a poll"
        assert [each.resource_id for each in await taken(store)] == ["u0", "u1", "u2"]
        assert actors.service.statistics().audit.collections > 0
        await trio.sleep(10)
        assert len(await taken(store)) == 3
    assert [statement for statement in store.statements if len(statement) != 1] == []


@pytest.mark.parametrize("fault", [applied_unknown, lost_unknown])
async def test_an_unknown_outcome_takes_nothing_twice(
    wall: Wall,
    store: FaultyStore,
    autojump_clock: trio.testing.MockClock,
    fault: object,
) -> None:
    async with running(store, wall.world(), domains=AUDITED) as actors:
        await register(actors, "u0")
        while len(await taken(store)) < 1:
            await trio.sleep(0.01)

        async def others(append: object, batches: object) -> object:
            return await append(batches)  # type: ignore[operator]

        store.faults.extend([others, fault])  # type: ignore[list-item]
        await register(actors, "u1")
        await trio.sleep(5)
        assert [each.resource_id for each in await taken(store)] == ["u0", "u1"]
        await register(actors, "u2")
        await trio.sleep(5)
    assert [each.resource_id for each in await taken(store)] == ["u0", "u1", "u2"]


async def test_without_the_domain_nothing_runs(wall: Wall, store: FaultyStore) -> None:
    async with running(store, wall.world()) as actors:
        assert actors.service.audit.refusals is None
        assert "audit" not in {each.name for each in actors.service.statistics().services}
        await register(actors, "u")
        await actors.service.audit.confirm(SYSTEM_WORKSPACE, 1)
        refusal = Reject("ROLE_FORBIDDEN", "no")
        actors.service.sessions.note_refused(refusal, Principal("u"), "x", None)
    assert await store.read_head(AUDIT_WORKSPACE) is None


# ------------------------------------------------------------------------------------- refusals


async def test_beyond_the_queue_refusals_are_counted_in_one_row(
    wall: Wall, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    limits = Limits(refusals_queued_max=5, refusals_written_max=2)
    async with running(store, wall.world(), domains=AUDITED, limits=limits) as actors:
        refuse(actors, 40)
        assert actors.service.statistics().audit.refusals_waiting == 5
        await trio.sleep(0.5)
        first = await taken(store)
        assert [each.action for each in first] == [REFUSED, REFUSED, DROPPED], "a few a second"
        assert msgspec.json.decode(first[2].new_value or "") == {"count": 35}
        assert (first[0].user_id, first[0].ip_address) == ("u", "192.0.2.1")
        assert first[0].resource_id.startswith("GET /0??")
        assert len(first[0].resource_id) == 256
        await trio.sleep(5)
        assert [each.action for each in await taken(store)].count(REFUSED) == 5
        refuse(actors, 1)
        await trio.sleep(5)
        assert (await taken(store))[-1].action == REFUSED, "none was dropped since"


async def test_refusals_wait_for_a_store_that_is_away(
    wall: Wall, store: FaultyStore, autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """And one whose writing nobody knows the end of is written once."""
    original, failures = store.add_refusals, iter([True, True])

    async def add(refusals: object) -> None:
        await original(refusals)  # type: ignore[arg-type]
        if next(failures, False):
            raise StoreUnavailableError("the answer was lost")

    monkeypatch.setattr(store, "add_refusals", add)
    async with running(store, wall.world(), domains=AUDITED) as actors:
        refuse(actors, 3)
        await trio.sleep(10)
        assert len(await taken(store)) == 3
        refuse(actors, 2)
        await actors.service.audit.write()
    assert len(await store.read_uncollected(limit=9, bytes_max=9_999)) == 2, "before it leaves"


# ---------------------------------------------------------------------------------- confirmations


async def test_a_change_is_confirmed_once_it_was_taken_or_nobody_else_could(
    wall: Wall, store: FaultyStore, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(store, wall.world(), domains=AUDITED) as actors:
        await register(actors, "root", "owner")
        seq = await register(actors, "u", "admin")
        await actors.service.audit.confirm(SYSTEM_WORKSPACE, seq)
        assert await actors.service.catalog.audit_readers(["u", "root", "no"]) == ["u", "root"]
        await actors.workspace(SYSTEM_WORKSPACE).send(SetUserRole("u", "editor"))
        assert await actors.service.catalog.audit_readers(["u", "root"]) == ["root"]
        assert await actors.service.catalog.role_of(AUDIT_WORKSPACE, "root") == "owner"
        assert await actors.service.catalog.role_of(AUDIT_WORKSPACE, "u") is None
        with pytest.raises(Reject, match="owners and admins"):
            await actors.service.catalog.check_member(AUDIT_WORKSPACE, Principal("u"))


async def test_a_node_that_never_confirms_is_told(
    wall: Wall, store: FaultyStore, autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    async def never(*_asked: object) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    monkeypatch.setattr(store, "is_collected", never)
    async with running(store, wall.world(), domains=AUDITED) as actors:
        with pytest.raises(NotReadyError, match="not confirmed"):
            await actors.service.audit.confirm(SYSTEM_WORKSPACE, 1)
        assert trio.current_time() < 20
