"""From a command to its receipt, when nothing fails: order, versions, keys, roles, snapshots."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors import Receipt, World
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import (
    ApplyPatch,
    CreateNote,
    DeleteNote,
    RollbackNote,
    SetTitle,
    notes,
)
from dalsegno.protocol import (
    SEQ_MAX,
    DalsegnoError,
    InternalError,
    Limits,
    OverloadedError,
    PatchOp,
    Reject,
    SequenceOverflowError,
)
from tests.actors._boxes import (
    Box,
    Burn,
    Expect,
    Fail,
    Fill,
    Give,
    Mislead,
    Move,
    Poison,
    Put,
    Restore,
    Sneak,
    WhoAmI,
    boxes,
)
from tests.actors._world import (
    Actors,
    FaultyStore,
    Wall,
    check_log,
    eventually,
    held,
    log_of,
    post_all,
    refusal,
    running,
    send_all,
)

# ------------------------------------------------------------------------------------ sequences


async def test_x_seq_1_a_thousand_mutations_of_twenty_tasks_are_dense(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    receipts: list[Receipt] = []

    async def mutate(task: int) -> None:
        for number in range(50):
            put = Put(f"b{(task + number) % 7}", f"{task}.{number}")
            receipt = await workspace.send(put)
            receipts.append(receipt)

    async with trio.open_nursery() as nursery:
        for task in range(20):
            nursery.start_soon(mutate, task)
    events = await check_log(store)
    assert len(events) == 1_000
    assert sorted(receipt.event_seq for receipt in receipts) == [*range(1, 1_001)]
    by_seq = {event.event_seq: event for event in events}
    for receipt in receipts:
        event = by_seq[receipt.event_seq]
        assert (event.stream_id, event.stream_seq) == (receipt.stream_id, receipt.version)
        assert event.command_id == receipt.command_id
    assert len(store.statements) < 1_000, "the load makes batches"


async def test_x_seq_2_streams_are_independent(actors: Actors, store: FaultyStore) -> None:
    workspace, other = actors.workspace(), actors.workspace("other")
    for number in range(6):
        await workspace.send(Put("a" if number % 3 else "b"))
    await other.send(Put("a"))
    events = await check_log(store)
    assert [e.stream_seq for e in events if e.stream_id == "box:a"] == [1, 2, 3, 4]
    assert [e.stream_seq for e in events if e.stream_id == "box:b"] == [1, 2]
    assert [e.event_seq for e in await check_log(store, "other")] == [1]


async def test_x_seq_6_another_runtime_on_the_store_carries_on(
    store: FaultyStore, world: World
) -> None:
    for restart in range(3):
        async with running(store, world) as actors:
            receipt = await actors.workspace().send(Put("a", str(restart)))
            assert (receipt.event_seq, receipt.version) == (restart + 1, restart + 1)
    await check_log(store)


async def test_x_seq_8_a_full_log_says_so_and_does_not_wrap(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a"))
    log = store._logs["w"]
    log.head = msgspec.structs.replace(log.head, head_seq=SEQ_MAX)
    async with running(store, world) as actors:
        error = await refusal(actors.workspace(), Put("a"))
        assert isinstance(error, SequenceOverflowError)
        assert error.code == "SEQUENCE_OVERFLOW"
        assert (await actors.workspace("neighbour").send(Put("a"))).event_seq == 1
    head = await store.read_head("w")
    assert head is not None
    assert head.head_seq == SEQ_MAX


async def test_x_seq_8_the_last_number_is_given(store: FaultyStore, world: World) -> None:
    await store.acquire("w", "n", create=True)
    log = store._logs["w"]
    log.head = msgspec.structs.replace(log.head, head_seq=SEQ_MAX - 1)
    async with running(store, world) as actors:
        assert (await refusal(actors.workspace(), Fill("a", 2))).code == "SEQUENCE_OVERFLOW"
        assert (await actors.workspace().send(Put("a"))).event_seq == SEQ_MAX


async def test_x_seq_9_a_command_without_events_writes_nothing(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    put = await workspace.send(Put("a", "x"))
    nothing = await workspace.send(Expect("a", "x"))
    assert (nothing.event_seq, nothing.version) == (put.event_seq, 1)
    assert len(store.statements) == 1
    empty = await workspace.send(Fill("a", 0))
    assert (empty.event_seq, empty.version) == (1, 1)


async def test_i5_what_changed_nothing_changes_nothing_when_repeated(
    actors: Actors, store: FaultyStore
) -> None:
    """Whatever has happened since: also a command without an event takes its effect once."""
    workspace = actors.workspace()
    await workspace.send(Put("a", "x"))
    first = await workspace.send(Fill("a", 0), key="k")
    assert (first.event_seq, first.version, first.repeated) == (1, 1, False)
    await workspace.send(Put("a", "y"))
    again = await workspace.send(Fill("a", 0), key="k")
    assert (again.event_seq, again.version, again.repeated) == (1, 1, True)
    assert (await refusal(workspace, Fill("a", 3), key="k")).code == "STATE_CONFLICT"
    store_head = await store.read_head("w")
    assert store_head is not None
    assert store_head.head_seq == 2


async def test_i5_so_does_the_repeat_after_a_restart(store: FaultyStore, world: World) -> None:
    async with running(store, world) as actors:
        await actors.workspace().send(Put("a", "x"))
        await actors.workspace().send(Fill("a", 0), key="k")
    async with running(store, world) as actors:
        again = await actors.workspace().send(Fill("a", 0), key="k")
        assert (again.event_seq, again.repeated) == (1, True)


async def test_a_workspace_that_only_refused_was_never_made(
    actors: Actors, store: FaultyStore
) -> None:
    assert (await refusal(actors.workspace(), Burn("a"))).code == "BOX_NOT_FOUND"
    assert await store.read_head("w") is None


async def test_time_in_a_log_never_steps_back(
    actors: Actors, store: FaultyStore, wall: Wall
) -> None:
    for step in (0, 60, -3_600, 1):
        wall.now += timedelta(seconds=step)
        await actors.workspace().send(Put("a"))
    events = await check_log(store)
    assert events[2].recorded_at == events[1].recorded_at


# -------------------------------------------------------------------------------- all or nothing


async def test_x_per_10_the_events_of_a_command_are_contiguous(
    actors: Actors, store: FaultyStore
) -> None:
    answers = await send_all(actors.workspace(), [Fill(f"b{n}", 5) for n in range(20)])
    events = await check_log(store)
    for answer in answers:
        receipt = answer.receipt
        mine = [e.event_seq for e in events if e.command_id == receipt.command_id]
        assert mine == [*range(receipt.event_seq - 4, receipt.event_seq + 1)]


async def test_x_per_10_too_many_events_are_none(actors: Actors, store: FaultyStore) -> None:
    most = actors.service.limits.command_events_max
    assert (await refusal(actors.workspace(), Fill("a", most + 1))).code == "BAD_REQUEST"
    assert (await actors.workspace().send(Fill("a", most))).event_seq == most


async def test_a_command_on_two_entities_is_all_or_nothing(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a", "treasure"))
    moved = await workspace.send(Move("a", "b"))
    assert (moved.event_seq, moved.stream_id, moved.version) == (3, "box:a", 2)
    assert await workspace.get(boxes, "a") is None
    assert await workspace.get(boxes, "b") == Box("treasure")
    await workspace.send(Put("a", "more"))
    assert (await refusal(workspace, Move("a", "b"))).code == "BOX_TAKEN"
    assert len(await check_log(store)) == 4


async def test_the_receipt_of_a_change_elsewhere_has_the_commands_own_entity(
    actors: Actors,
) -> None:
    workspace = actors.workspace()
    await workspace.send(Fill("a", 3))
    given = await workspace.send(Give("a", "b", "x"))
    assert (given.stream_id, given.version, given.event_seq) == ("box:a", 3, 4)


@pytest.mark.parametrize("is_cached", [False, True])
async def test_an_event_on_an_entity_that_was_not_named_is_a_bug_of_the_decider(
    actors: Actors, store: FaultyStore, is_cached: bool
) -> None:
    workspace = actors.workspace()
    if is_cached:
        await workspace.send(Put("b"))
    assert isinstance(await refusal(workspace, Sneak("a", "b")), InternalError)
    assert len(await log_of(store)) == is_cached


@pytest.mark.parametrize("bug", [Fail("a"), Poison("a")])
async def test_a_bug_in_a_domain_is_that_commands_alone(
    actors: Actors, store: FaultyStore, bug: msgspec.Struct
) -> None:
    answers = await send_all(actors.workspace(), [Put("a", "x"), bug, Put("a", "y")])
    assert [answer.code for answer in answers] == [None, "INTERNAL_ERROR", None]
    assert actors.incarnations() == 1
    assert [event.type for event in await check_log(store)] == ["was_put", "was_put"]


async def test_a_bug_in_what_a_domain_says_of_a_command_is_that_commands_alone(
    actors: Actors,
) -> None:
    assert isinstance(await refusal(actors.workspace(), Mislead("a")), InternalError)
    assert (await actors.workspace().send(Put("a"))).event_seq == 1


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
async def test_what_cannot_be_stored_is_refused_at_the_door(
    actors: Actors, store: FaultyStore, text: str
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    for command, how in (
        (Put("a", text), {}),
        (Put(text), {}),
        (Put("a"), {"key": text}),
        (Put("a"), {"correlation_id": text}),
        (Put("a"), {"causation": text}),
    ):
        assert (await refusal(workspace, command, **how)).code == "BAD_REQUEST"
    acting = workspace.acting(user_id=text, role="owner")
    assert (await refusal(acting, Put("a"))).code == "BAD_REQUEST"
    assert (await workspace.send(Put("a"))).event_seq == 2
    assert len(store.statements) == 2


async def test_an_index_that_cannot_be_stored_is_refused(
    actors: Actors, store: FaultyStore
) -> None:
    assert (await refusal(actors.workspace(), Put("a", "line\nline"))).code == "BAD_REQUEST"
    assert store.statements == []


# ---------------------------------------------------------------------------- versions and past


async def test_x_occ_2_of_twenty_on_one_version_one_wins(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    answers = await send_all(workspace, [Put("a", str(n), base_version=1) for n in range(20)])
    codes = [answer.code for answer in answers]
    assert sorted(codes, key=str) == [None, *["VERSION_CONFLICT"] * 19]
    refused = answers[-1].answer
    assert isinstance(refused, Reject)
    assert refused.details == {"expected_version": 1, "current_version": 2, "resource_id": "a"}
    assert len(await check_log(store)) == 2


async def test_an_id_of_none_becomes_a_new_one(actors: Actors) -> None:
    receipt = await actors.workspace().send(Put(None, "x"))
    assert len(receipt.entity_id) == 36
    assert await actors.workspace().get(boxes, receipt.entity_id) == Box("x")


async def test_a_past_version_that_is_decided_but_not_committed_is_waited_for(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a", "first"))
    answers = await send_all(
        workspace, [Put("a", "second"), Restore("a", 2), Put("a", "fourth"), Restore("a", 9)]
    )
    assert [answer.code for answer in answers] == [None, None, None, "BOX_NOT_FOUND"]
    events = await check_log(store)
    assert [event.payload for event in events[1:]] == [
        '{"text":"second"}',
        '{"text":"second"}',
        '{"text":"fourth"}',
    ]


async def test_a_rollback_right_behind_its_patch_sees_it(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(CreateNote("title", "one", note_id="n"))
    answers = await send_all(
        workspace,
        [
            ApplyPatch("n", [PatchOp(retain=3), PatchOp(insert=" two")], 1),
            RollbackNote("n", 1, base_version=2),
            SetTitle("n", "other", 3),
        ],
    )
    assert [answer.code for answer in answers] == [None, None, None]
    note = await workspace.get(notes, "n")
    assert note is not None
    assert (note.version, note.markdown, note.title) == (4, "one", "other")
    await check_log(store)


async def test_a_commit_that_settles_between_loading_and_deciding_is_seen(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("hot", "0"))
    commit, load = trio.Event(), trio.Event()
    store.faults.append(held(commit))
    first = post_all(workspace, [Put("hot", "1")])
    await trio.testing.wait_all_tasks_blocked()
    store.before["load_entities"] = load.wait
    # Both are taken at once; the second has to be loaded, and meanwhile the first commit settles.
    second = post_all(workspace, [Put("hot", "2", base_version=2), Put("cold")])
    await trio.testing.wait_all_tasks_blocked()
    commit.set()
    await first[0].wait()
    load.set()
    for one in second:
        await one.wait()
    assert [one.code for one in second] == [None, None]
    assert [e.stream_seq for e in await check_log(store) if e.stream_id == "box:hot"] == [1, 2, 3]


# ------------------------------------------------------------------------------ idempotency keys


async def test_x_idem_2_of_twenty_concurrent_duplicates_one_takes_effect(
    actors: Actors, store: FaultyStore
) -> None:
    answers = await send_all(actors.workspace(), [Put("a", "x")] * 20, keys=["k"] * 20)
    receipts = [answer.receipt for answer in answers]
    assert len({(r.event_seq, r.version, r.stream_id, r.command_id) for r in receipts}) == 1
    assert [r.repeated for r in receipts].count(False) == 1
    assert len(await check_log(store)) == 1


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_x_idem_3_a_key_beats_version_and_deletion(
    store: FaultyStore, world: World, is_restarted: bool
) -> None:
    command = Put("a", "x", base_version=0)
    async with running(store, world) as actors:
        first = await actors.workspace().send(command, key="k")
        await actors.workspace().send(Put("a", "y"))
        await actors.workspace().send(Burn("a"))
        if not is_restarted:
            again = await actors.workspace().send(command, key="k")
    if is_restarted:
        async with running(store, world) as actors:
            again = await actors.workspace().send(command, key="k")
    assert again == msgspec.structs.replace(first, repeated=True)
    assert len(await check_log(store)) == 3


async def test_x_idem_4_a_key_is_of_its_entity_workspace_and_principal(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    first = await workspace.send(Put("a"), key="k")
    for where, command in (
        (workspace, Put("b")),
        (actors.workspace("other"), Put("a")),
        (workspace.acting(user_id="u", role="owner"), Put("a")),
        (workspace, Put(None)),
    ):
        receipt = await where.send(command, key="k")
        assert not receipt.repeated
        assert receipt.command_id != first.command_id


async def test_a_key_of_a_new_entity_brings_its_id_back(actors: Actors) -> None:
    first = await actors.workspace().send(Put(None, "x"), key="k")
    again = await actors.workspace().send(Put(None, "x"), key="k")
    assert again.repeated
    assert again.entity_id == first.entity_id


async def test_x_idem_5_a_refused_attempt_leaves_the_key_free(actors: Actors) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a"))
    refused = await refusal(workspace, Put("a", base_version=7), key="k")
    assert refused.code == "VERSION_CONFLICT"
    assert not (await workspace.send(Put("a", base_version=1), key="k")).repeated


async def test_x_idem_6_an_expired_key_is_fresh(actors: Actors, wall: Wall) -> None:
    workspace, ttl_s = actors.workspace(), actors.service.limits.result_ttl_s
    first = await workspace.send(Put("a"), key="k")
    wall.now += timedelta(seconds=ttl_s - 1)
    assert (await workspace.send(Put("a"), key="k")).command_id == first.command_id
    wall.now += timedelta(seconds=2)
    fresh = await workspace.send(Put("a"), key="k")
    assert (fresh.repeated, fresh.version) == (False, 2)
    assert actors.incarnations() == 1


async def test_another_payload_under_a_key_is_a_conflict(actors: Actors) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("a", "x"), key="k")
    error = await refusal(workspace, Put("a", "y"), key="k")
    assert (error.code, error.details) == ("STATE_CONFLICT", {"key": "k"})


async def test_another_command_under_a_key_is_a_conflict_whatever_the_domain_says(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(CreateNote("title", "text", note_id="n"))
    await workspace.send(ApplyPatch("n", [PatchOp(insert="x")], 1), key="k")
    for command in (SetTitle("n", "other", 2), DeleteNote("n"), CreateNote("title", note_id="n")):
        error = await refusal(workspace, command, key="k")
        assert (error.code, error.details) == ("STATE_CONFLICT", {"key": "k"})
    assert len(await check_log(store)) == 2


async def test_a_key_is_looked_up_before_the_role(actors: Actors) -> None:
    workspace = actors.workspace()
    await workspace.send(PutMember("u", "editor"))
    as_user = workspace.acting(user_id="u")
    first = await as_user.send(Put("a", "x"), key="k")
    await workspace.send(RemoveMember("u"))
    again = await as_user.send(Put("a", "x"), key="k")
    assert again == msgspec.structs.replace(first, repeated=True)
    assert await as_user.has_answered(Put("a", "x"), key="k")
    assert not await as_user.has_answered(Put("a", "x"), key="another")
    for command, key in ((Put("a", "x"), "another"), (Put("a", "x"), None), (Put("b"), "k")):
        assert (await refusal(as_user, command, key=key)).code == "ROLE_FORBIDDEN"


async def test_another_payload_under_a_notes_key_gets_the_original_answer(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(CreateNote("title", "text", note_id="n"))
    first = await workspace.send(ApplyPatch("n", [PatchOp(insert="x")], 1), key="k")
    again = await workspace.send(ApplyPatch("n", [PatchOp(retain=1)], 1), key="k")
    assert (again.version, again.event_seq) == (first.version, first.event_seq) == (2, 2)
    assert len(await check_log(store)) == 2


async def test_keys_are_found_again_when_the_cache_forgot_them(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world, limits=Limits(results_cached_max=2)) as actors:
        workspace = actors.workspace()
        keys = [f"k{n}" for n in range(10)]
        commands = [Put("a", key) for key in keys]
        first = await send_all(workspace, commands, keys=keys)
        again = await send_all(workspace, commands, keys=keys)
        assert all(answer.receipt.repeated for answer in again)
        assert [a.receipt.event_seq for a in again] == [a.receipt.event_seq for a in first]
        assert actors.incarnations() == 1


async def test_a_repeat_that_was_taken_before_its_original_settled_joins_it(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(Put("hot"))
    commit, load = trio.Event(), trio.Event()
    store.faults.append(held(commit))
    original = post_all(workspace, [Put("hot", "x")], keys=["k"])
    await trio.testing.wait_all_tasks_blocked()
    store.before["load_entities"] = load.wait
    repeats = post_all(workspace, [Put("cold"), Put("hot", "x")], keys=["c", "k"])
    await trio.testing.wait_all_tasks_blocked()
    commit.set()
    await original[0].wait()
    load.set()
    for repeat in repeats:
        await repeat.wait()
    assert repeats[1].receipt == msgspec.structs.replace(original[0].receipt, repeated=True)
    assert actors.incarnations() == 1


# ----------------------------------------------------------------------------------------- roles


async def test_roles_are_told_by_the_log(actors: Actors) -> None:
    workspace = actors.workspace()
    user = workspace.acting(user_id="u")
    assert (await refusal(user, Put("a"))).code == "ROLE_FORBIDDEN"
    await workspace.send(PutMember("u", "viewer"))
    assert (await refusal(user, Put("a"))).details == {"role": "viewer"}
    await user.send(WhoAmI("a"))
    assert await workspace.get(boxes, "a") == Box("u viewer")
    await workspace.send(PutMember("u", "editor"))
    await user.send(Put("a", "x"))
    assert (await refusal(user, WhoAmI("a"))).code == "ROLE_FORBIDDEN"
    await workspace.send(RemoveMember("u"))
    assert (await refusal(user, Put("a"))).code == "ROLE_FORBIDDEN"


async def test_x_rbac_3_a_role_lowered_earlier_in_the_batch_counts(
    actors: Actors, store: FaultyStore
) -> None:
    workspace = actors.workspace()
    await workspace.send(PutMember("u", "editor"))
    user = workspace.acting(user_id="u")
    gate = trio.Event()
    store.faults.append(held(gate))
    posted = post_all(workspace, [Put("a")])
    await trio.testing.wait_all_tasks_blocked()
    posted += post_all(user, [Put("a", "in time")])
    posted += post_all(workspace, [PutMember("u", "viewer")])
    posted += post_all(user, [Put("a", "too late")])
    await trio.testing.wait_all_tasks_blocked()
    gate.set()
    for one in posted:
        await one.wait()
    assert [one.code for one in posted] == [None, None, None, "ROLE_FORBIDDEN"]
    assert [event.type for event in await check_log(store)][1:] == [
        "was_put",
        "was_put",
        "member_role_updated",
    ]
    assert len(store.statements) == 3


async def test_a_hosts_own_role_needs_no_membership(actors: Actors) -> None:
    workspace = actors.workspace()
    await workspace.acting(user_id="u", role="editor").send(Put("a"))
    viewer = workspace.acting(user_id="u", role="viewer")
    assert (await refusal(viewer, Put("a"))).code == "ROLE_FORBIDDEN"


# ------------------------------------------------------------------------- states and snapshots


async def test_x_snap_1_snapshots_at_100_and_200_and_a_rebuilt_state_is_the_live_one(
    store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        workspace = actors.workspace()
        await workspace.send(CreateNote("title", "", note_id="n"))
        for number in range(210):
            await workspace.send(ApplyPatch("n", [PatchOp(insert=str(number % 10))], number + 1))
        live = await workspace.get(notes, "n")
        log = store._logs["w"]
        assert [snapshot.version for snapshot in log.snapshots["note:n"]] == [100, 200]
        entity = log.entities["note:n"]
        assert 210 - entity.state_version <= actors.service.limits.state_lag_events_max
    async with running(store, world) as actors:
        assert await actors.workspace().get(notes, "n") == live
        # … and from the log alone, without any stored state.
        state = None
        for event in await log_of(store):
            known = notes.decode(event.type, event.type_version, event.payload)
            assert known is not None
            state = notes.evolve_by(state, known)
        assert state == live


async def test_a_state_is_written_when_many_bytes_lag(store: FaultyStore, world: World) -> None:
    async with running(store, world, limits=Limits(state_lag_bytes_max=100)) as actors:
        for number in range(5):
            await actors.workspace().send(Put("a", "x" * 40 + str(number)))
        row = store._logs["w"].entities["box:a"]
        assert (row.version, row.state_version) == (5, 4)


async def test_a_small_cache_keeps_the_answers_right(store: FaultyStore, world: World) -> None:
    limits = Limits(entities_cached_max=2, batch_commands_max=3)
    async with running(store, world, limits=limits) as actors:
        workspace = actors.workspace()
        for version in range(5):
            commands = [Put(f"b{n}", f"{n}.{version}", base_version=version) for n in range(9)]
            answers = await send_all(workspace, commands)
            assert [answer.code for answer in answers] == [None] * 9
        for n in range(9):
            assert await workspace.get(boxes, f"b{n}") == Box(f"{n}.4", 5)
    await check_log(store)


async def test_many_more_commands_than_a_batch_on_one_entity(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(batch_commands_max=4, entities_cached_max=1)
    async with running(store, world, limits=limits) as actors:
        gate = trio.Event()
        store.faults.append(held(gate))
        async with trio.open_nursery() as nursery:
            for n in range(30):
                nursery.start_soon(actors.workspace().send, Put(f"b{n % 2}"))
            await trio.testing.wait_all_tasks_blocked()
            gate.set()
        assert actors.incarnations() == 1
    assert len(await check_log(store)) == 30
    assert max(len(statement[0].events) for statement in store.statements) <= 4


# -------------------------------------------------------------------------------------- overload


async def test_x_bp_4_a_full_mailbox_answers_overloaded_by_the_deadline_and_recovers(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(mailbox_commands_max=2, batch_commands_max=1, mailbox_deadline_s=3)
    gate = trio.Event()
    store.faults.append(held(gate))
    async with running(store, world, limits=limits) as actors:
        workspace = actors.workspace()
        answers: list[Receipt | DalsegnoError] = []

        async def send(n: int) -> None:
            try:
                answers.append(await workspace.send(Put("a", str(n))))
            except DalsegnoError as error:
                answers.append(error)

        async with trio.open_nursery() as nursery:
            for n in range(12):
                nursery.start_soon(send, n)
            await eventually(lambda: answers)
            assert trio.current_time() == pytest.approx(3, abs=0.1)
            assert all(isinstance(answer, OverloadedError) for answer in answers)
            refused = answers[0]
            assert isinstance(refused, OverloadedError)
            assert refused.details == {"retry_after": 3}
            gate.set()
        assert len(answers) == 12
        await workspace.send(Put("a", "after"))
        accepted = [answer for answer in answers if isinstance(answer, Receipt)]
        assert len(await check_log(store)) == len(accepted) + 1
