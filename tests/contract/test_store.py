"""What every store guarantees; the docstrings of `dalsegno.actors.Store` are the specification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from dalsegno.actors import BatchRejectedError, CursorKey, SnapshotWrite, Store
from dalsegno.protocol import SEQ_MAX, Event, SchemaVersionError
from tests.contract._writing import (
    START,
    acquired,
    entity,
    head_of,
    log_of,
    new_id,
    result,
    writer,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.contract.conftest import Harness

DAY_S = 24 * 3600
ALL = {"limit": 1_000, "bytes_max": 1_000_000}


# Heads and epochs


async def test_a_workspace_begins_when_it_is_acquired_to_be_created(store: Store) -> None:
    assert await store.read_head("w") is None
    assert await store.acquire("w", "a", create=False) is None
    assert await store.read_head("w") is None
    head = await acquired(store, "w", "a")
    assert (head.workspace_id, head.epoch, head.owner, head.head_seq) == ("w", 1, "a", 0)
    assert (head.first_seq, head.chain, head.recorded_at, head.halted_reason) == (1, 0, None, None)
    assert await store.read_head("w") == head


@pytest.mark.parametrize("create", [True, False])
async def test_acquiring_again_raises_the_epoch_by_one(store: Store, create: bool) -> None:
    await acquired(store, "w", "a")
    head = await store.acquire("w", "b", create=create)
    assert head is not None
    assert (head.epoch, head.owner) == (2, "b")
    assert await store.read_head("w") == head


async def test_the_head_follows_the_last_event(store: Store) -> None:
    w = await writer(store, "w")
    last = w.batch(w.event("note:1"), w.event("note:1")).events[-1]
    w.head_seq, w.versions, w.chain = 0, {}, 0
    events = (w.event("note:1"), w.event("note:1", chain=2**64 - 1))
    big = msgspec.structs.replace(events[-1], chain=2**64 - 1)
    assert await store.append([w.batch(events[0], big)])
    head = await head_of(store, "w")
    assert (head.head_seq, head.recorded_at) == (2, last.recorded_at)
    assert head.chain == 2**64 - 1, "a chain is unsigned"
    assert (await log_of(store, "w"))[-1].chain == 2**64 - 1


async def test_acquiring_keeps_the_log(store: Store) -> None:
    w = await writer(store, "w")
    await store.append([w.batch(w.event("note:1"))])
    head = await acquired(store, "w", "b")
    assert (head.epoch, head.head_seq, head.chain) == (2, 1, w.chain)


async def test_many_heads_are_read_at_once(store: Store) -> None:
    heads = {name: await acquired(store, name) for name in ('odd "name"', "v", "w")}
    assert await store.read_heads(["w", "absent", 'odd "name"', "v"]) == heads
    assert await store.read_heads(["absent"]) == {}
    assert await store.read_heads([]) == {}


# Owners and leases


async def beat(store: Store, node: str, incarnation: str = "1", *, first: bool = False) -> float:
    left_s = await store.beat(node, incarnation, address=None, lease_s=10.0, first=first)
    assert left_s is not None
    return left_s


@pytest.mark.parametrize("create", [True, False])
async def test_what_a_live_node_owns_stays_as_it_is(harness: Harness, create: bool) -> None:
    store = harness.store
    await beat(store, "a", first=True)
    await beat(store, "b", first=True)
    w = await writer(store, "w", "a")
    before = await head_of(store, "w")
    assert await store.acquire("w", "b", create=create) == before
    assert await head_of(store, "w") == before
    assert await store.append([w.batch(w.event("note:1"))]), "it was not fenced"
    again = await store.acquire("w", "a", create=create)
    assert again is not None
    assert (again.epoch, again.owner) == (2, "a"), "its own node always gets it"


async def test_what_a_dead_node_owns_is_for_the_first_who_asks(harness: Harness) -> None:
    store = harness.store
    for node in "abc":
        await beat(store, node, first=True)
    await acquired(store, "w", "a")
    await harness.age(9)
    await beat(store, "b")
    assert (await acquired(store, "w", "b")).owner == "a"
    await harness.age(1.1)
    head = await acquired(store, "w", "b")
    assert (head.epoch, head.owner) == (2, "b")
    assert await acquired(store, "w", "c") == head
    assert await acquired(store, "w", "a") == head, "who let it go has no claim"


async def test_a_lapse_that_nobody_used_is_mended_by_a_beat(harness: Harness) -> None:
    store = harness.store
    await beat(store, "a", first=True)
    head = await acquired(store, "w", "a")
    await harness.age(11)
    assert -2 < await beat(store, "a") <= -1
    assert await acquired(store, "w", "b") == head


async def test_a_node_that_never_beat_owns_nothing_for_long(store: Store) -> None:
    """As one of an older release, whose leases nobody knows."""
    await acquired(store, "w", "a")
    head = await acquired(store, "w", "b")
    assert (head.epoch, head.owner) == (2, "b")


async def test_what_was_released_is_anybodys_at_once(store: Store) -> None:
    await beat(store, "a", first=True)
    head = await acquired(store, "w", "a")
    assert not await store.release("w", head.epoch - 1)
    assert not await store.release("absent", 1)
    assert (await head_of(store, "w")).owner == "a"
    assert await store.release("w", head.epoch)
    released = await head_of(store, "w")
    assert (released.epoch, released.owner) == (head.epoch, None)
    taken = await acquired(store, "w", "b")
    assert (taken.epoch, taken.owner) == (head.epoch + 1, "b")
    assert not await store.release("w", head.epoch), "an owner that was fenced has no say"
    assert await head_of(store, "w") == taken


async def test_a_beat_tells_what_was_left(harness: Harness) -> None:
    store = harness.store
    assert await beat(store, "a", first=True) == 0
    await harness.age(4)
    assert 5 < await beat(store, "a") <= 6
    await harness.age(7)
    assert 2 < await beat(store, "a", first=True) <= 3
    node = await store.find_node("a")
    assert node is not None
    assert 9 < node.expires_in_s <= 10
    assert await store.find_node("b") is None


async def test_a_beat_says_where_the_node_is(store: Store) -> None:
    for address in ("http://10.0.0.1:8080", None, "http://10.0.0.2:8080"):
        await store.beat("a", "1", address=address, lease_s=10.0, first=address is not None)
        node = await store.find_node("a")
        assert node is not None
        assert (node.node_id, node.address) == ("a", address)


async def test_the_newest_process_is_the_node(store: Store) -> None:
    await beat(store, "a", "1", first=True)
    head = await acquired(store, "w", "a")
    await store.beat("a", "2", address="new", lease_s=100.0, first=True)
    before = await store.find_node("a")
    assert await store.beat("a", "1", address="old", lease_s=10.0, first=False) is None
    await store.forget("a", "1")
    after = await store.find_node("a")
    assert before is not None
    assert after is not None
    assert after.address == "new"
    assert before.expires_in_s >= after.expires_in_s > 90
    assert await acquired(store, "w", "b") == head, "its workspaces came with it"


async def test_a_node_that_forgets_itself_leaves_everything_at_once(harness: Harness) -> None:
    store = harness.store
    await beat(store, "a", first=True)
    await beat(store, "b", first=True)
    for name in ("v", "w"):
        await acquired(store, name, "a")
    await store.forget("a", "1")
    await store.forget("absent", "1")
    node = await store.find_node("a")
    assert node is not None
    assert node.expires_in_s <= 0
    for name in ("v", "w"):
        assert (await acquired(store, name, "b")).owner == "b"
    await harness.age(20)
    before = await store.find_node("a")
    await store.forget("a", "1")
    after = await store.find_node("a")
    assert before is not None
    assert after is not None
    assert after.expires_in_s <= before.expires_in_s, "it does not end again"


async def test_nodes_dead_for_a_day_are_forgotten_at_the_next_start(harness: Harness) -> None:
    store = harness.store
    for node in ("old", "back"):
        await beat(store, node, first=True)
    await harness.age(DAY_S - 60)
    await beat(store, "a", first=True)
    await harness.age(120)
    assert await store.find_node("old"), "a day begins where the lease ends"
    await beat(store, "a")
    assert await store.find_node("old")
    await beat(store, "a", first=True)
    assert await store.find_node("old") is None
    assert await store.find_node("a")
    assert await beat(store, "back") == 0, "its row is made again"
    assert await store.find_node("back")


# Appending


async def test_x_per_6_an_event_comes_back_as_it_was_written(store: Store) -> None:
    w = await writer(store, "w")
    event = w.event(
        "note:Ünïcode-\U0001f600",
        '{"text":"naïve ☃"}',
        type='odd "type" \\ {,}',
        type_version=7,
        actor_id=None,
        source="elsewhere",
        causation="c" * 200,
        correlation_id="",
    )
    assert list(await store.append([w.batch(event)])) == ["w"]
    assert await log_of(store, "w") == [event]
    assert await store.read_stream("w", event.stream_id, 1, to_event_seq=1, **ALL) == [event]


@pytest.mark.parametrize(
    "payload",
    [
        r'{"b":1,"a":"\u0000 \ud800"}',
        '{"n":123456789012345678901234567890.50,"e":1E400,"z":-0.0}',
        ' { "spaced" : [ ] , "twice":1, "twice":2 } ',
        r'{"q":"\"\\{},NULL\u0022"}',
        "null",
    ],
)
async def test_a_payload_is_kept_byte_for_byte(store: Store, payload: str) -> None:
    w = await writer(store, "w")
    event = w.event("note:1", payload)
    write = entity("note:1", 1, payload)
    answer = msgspec.structs.replace(result("k", 1), answer=payload)
    batch = w.batch(event, entities=(write,), results=(answer,))
    assert await store.append([batch])
    assert (await log_of(store, "w"))[0].payload == payload
    loaded = await store.load_entities("w", ["note:1"], {"note:1": 1})
    assert loaded["note:1"].state == payload
    found = await store.find_results("w", [(answer.scope, "k")])
    assert found[answer.scope, "k"].answer == payload


async def test_x_seq_2_streams_count_on_their_own(store: Store) -> None:
    w = await writer(store, "w")
    batch = w.batch(*(w.event(f"note:{n % 2}") for n in range(6)))
    assert list(await store.append([batch])) == ["w"]
    log = await log_of(store, "w")
    assert [e.event_seq for e in log] == [1, 2, 3, 4, 5, 6]
    assert [e.stream_seq for e in log if e.stream_id == "note:0"] == [1, 2, 3]
    assert [e.stream_seq for e in log if e.stream_id == "note:1"] == [1, 2, 3]


async def test_one_call_commits_the_batches_of_many_workspaces(store: Store) -> None:
    writers = [await writer(store, f"w{n}") for n in range(5)]
    won = await store.append([w.batch(w.event("note:1"), w.event("note:2")) for w in writers])
    assert sorted(won) == [f"w{n}" for n in range(5)]
    for w in writers:
        assert [e.stream_id for e in await log_of(store, w.workspace_id)] == ["note:1", "note:2"]


async def test_an_empty_call_commits_nothing(store: Store) -> None:
    assert not await store.append([])


@pytest.mark.parametrize("fault", ["epoch below", "epoch above", "head", "halted", "absent", "key"])
async def test_a_batch_that_is_refused_leaves_its_neighbour_alone(store: Store, fault: str) -> None:
    good, bad = await writer(store, "good"), await writer(store, "bad")
    first = bad.batch(bad.event("note:1"), results=(result("k", 1),))
    assert await store.append([first])
    before = await head_of(store, "bad")
    match fault:
        case "epoch below":
            before = await acquired(store, "bad", "elsewhere")
        case "epoch above":
            bad.epoch += 1
        case "head":
            bad.head_seq += 1
        case "halted":
            assert await store.halt("bad", bad.epoch, "cannot be read", code="1", actor="n")
            before = await head_of(store, "bad")
        case "absent":
            bad.workspace_id = "nowhere"
    results = (result("k" if fault == "key" else "k2", bad.head_seq + 1),)
    snapshots = (SnapshotWrite(stream_id="note:1", version=2, domain_version=1, state="{}"),)
    batch = bad.batch(
        bad.event("note:1"),
        entities=(entity("note:1", 2, '"changed"', title="changed"),),
        results=results,
        snapshots=snapshots,
    )
    won = await store.append([batch, good.batch(good.event("note:1"))])
    assert list(won) == ["good"]
    assert await head_of(store, "bad") == before
    assert len(await log_of(store, "bad")) == 1
    assert len(await log_of(store, "good")) == 1
    (item,) = await store.list_entities("bad", "note", limit=10)
    assert (item.version, item.title) == (1, None)
    assert not await store.find_results("bad", [(results[0].scope, "k2")])
    assert await store.load_entity_at("bad", "note:1", 2, 1) is None


async def test_the_fenced_owner_stays_out_and_the_new_one_goes_on(store: Store) -> None:
    old = await writer(store, "w", "old")
    await store.append([old.batch(old.event("note:1"))])
    new = await writer(store, "w", "new")
    new.head_seq, new.chain, new.versions = old.head_seq, old.chain, dict(old.versions)
    assert not await store.append([old.batch(old.event("note:1"))])
    event = new.event("note:1")
    assert list(await store.append([new.batch(event)])) == ["w"]
    assert (await log_of(store, "w"))[1:] == [event]


async def test_x_seq_5_a_refused_batch_uses_up_no_number(store: Store) -> None:
    w = await writer(store, "w")
    w.epoch += 1
    assert not await store.append([w.batch(w.event("note:1"))])
    w.epoch, w.head_seq, w.versions, w.chain = 1, 0, {}, 0
    assert await store.append([w.batch(w.event("note:1"))])
    assert (await head_of(store, "w")).head_seq == 1


@pytest.mark.parametrize("k", [1, 7, 300])
async def test_x_per_10_a_batch_is_there_whole_and_contiguous(store: Store, k: int) -> None:
    w = await writer(store, "w")
    events = [w.event(f"note:{n % 3}") for n in range(k)]
    assert await store.append([w.batch(*events)])
    assert await log_of(store, "w") == events


@pytest.mark.parametrize(
    "spoil",
    [
        {"actor_id": "nul\0"},
        {"command_id": "nul\0"},
        {"payload": '{"raw":"\0"}'},
        {"type": "lone \ud800"},
        {"stream_seq": 1},
    ],
    ids=str,
)
async def test_x_per_10_bad_data_writes_nothing_and_later_calls_are_fine(
    store: Store, spoil: dict[str, object]
) -> None:
    good, bad = await writer(store, "good"), await writer(store, "bad")
    assert await store.append([bad.batch(bad.event("note:1"))])
    before = await head_of(store, "bad")
    fine = good.batch(good.event("note:1"))
    events = [bad.event("note:1"), msgspec.structs.replace(bad.event("note:1"), **spoil)]
    with pytest.raises(BatchRejectedError):
        await store.append([bad.batch(*events), fine])
    assert await head_of(store, "bad") == before
    assert len(await log_of(store, "bad")) == 1
    assert await log_of(store, "good") == []
    assert list(await store.append([fine])) == ["good"]


async def test_bad_data_beside_an_event_is_refused_too(store: Store) -> None:
    w = await writer(store, "w")
    event = w.event("note:1")
    spoilt = [
        w.batch(event, entities=(entity("note:1", 1, title="nul\0"),)),
        w.batch(event, entities=(entity("note:1", 1, keys=("\ud800",)),)),
        w.batch(event, entities=(entity("note:1", 1), entity("note:1", 1))),
        w.batch(event, results=(result("k", 1), result("k", 1))),
        w.batch(event, results=(result("nul\0", 1),)),
        w.batch(msgspec.structs.replace(event, stream_id="note:\0")),
    ]
    for batch in spoilt:
        with pytest.raises(BatchRejectedError):
            await store.append([batch])
    assert (await head_of(store, "w")).head_seq == 0
    assert await store.append([w.batch(event)])


async def test_x_seq_8_the_last_number_can_be_used_and_does_not_wrap(harness: Harness) -> None:
    store = harness.store
    w = await writer(store, "w")
    await harness.put_head("w", SEQ_MAX - 1)
    w.head_seq = SEQ_MAX - 1
    last = w.event("note:1")
    assert await store.append([w.batch(last)])
    assert (await head_of(store, "w")).head_seq == SEQ_MAX
    assert await store.read_events("w", 1, to_seq=SEQ_MAX, **ALL) == [last]
    with pytest.raises(BatchRejectedError):
        await store.append([w.batch(w.event("note:1"))])
    assert (await head_of(store, "w")).head_seq == SEQ_MAX


async def test_an_event_of_an_unknown_type_is_as_good_as_any(store: Store) -> None:
    w = await writer(store, "w")
    event = w.event("martian:1", type="landed", type_version=99)
    assert await store.append([w.batch(event, entities=())])
    assert await log_of(store, "w") == [event]


async def test_every_kind_of_event_that_was_appended_is_known(store: Store) -> None:
    assert await store.event_types() == set()
    w, v = await writer(store, "w"), await writer(store, "v")
    await store.append([w.batch(w.event("note:1"), w.event("note:2", type_version=2))])
    await store.append([v.batch(v.event("note:1"), v.event("run:1:2", type="run_started"))])
    assert await store.event_types() == {
        ("note", "note_patched", 1),
        ("note", "note_patched", 2),
        ("run", "run_started", 1),
    }


# Halting


async def test_x_per_9_a_halted_workspace_takes_nothing_until_it_is_cleared(store: Store) -> None:
    w = await writer(store, "w")
    assert await store.halt("w", w.epoch, "found wanting", code="1.2", actor="node a")
    head = await head_of(store, "w")
    assert (head.halted_reason, head.halted_code) == ("found wanting", "1.2")
    batch = w.batch(w.event("note:1"))
    assert not await store.append([batch])
    assert (await store.read_heads(["w"]))["w"] == head
    head = await acquired(store, "w", "b")
    assert (head.halted_reason, head.halted_code) == ("found wanting", "1.2")
    old, new = w.epoch, w.epoch + 1
    resumed = {"actor": "admin", "detail": "checked"}
    assert not await store.resume("w", old, **resumed), "an owner that was fenced has no say"
    assert await head_of(store, "w") == head
    assert await store.resume("w", new, **resumed)
    head = await head_of(store, "w")
    assert (head.epoch, head.halted_reason, head.halted_code) == (new, None, None)
    assert not await store.halt("w", old, "late", code="1", actor="node a")
    assert await store.append([msgspec.structs.replace(batch, epoch=new)])
    assert not await store.halt("nowhere", 1, "absent", code="1", actor="node a")
    assert not await store.resume("nowhere", 1, **resumed)


async def test_x_per_9_halts_and_their_ends_are_audited_once(store: Store) -> None:
    w, v = await writer(store, "w"), await writer(store, "v")
    assert await store.read_audit("w", limit=9) == []
    assert await store.halt("v", v.epoch, "another's", code="1", actor="node a")
    for n in range(3):
        for reason in (f"reason {n}", "again"):
            assert await store.halt("w", w.epoch, reason, code=f"{reason}'s", actor="node a")
        head = await head_of(store, "w")
        assert (head.halted_reason, head.halted_code) == (f"reason {n}", f"reason {n}'s")
        for detail in (f"repair {n}", "again"):
            assert await store.resume("w", w.epoch, actor="admin", detail=detail)
    assert not await store.halt("w", w.epoch - 1, "fenced", code="1", actor="node a")
    audit = await store.read_audit("w", limit=9)
    assert [(e.actor, e.action, e.detail) for e in audit] == [
        entry
        for n in (2, 1, 0)
        for entry in (("admin", "resumed", f"repair {n}"), ("node a", "halted", f"reason {n}"))
    ]
    assert {entry.workspace_id for entry in audit} == {"w"}
    times = [entry.recorded_at for entry in audit]
    assert times == sorted(times, reverse=True)
    assert await store.read_audit("w", limit=2) == audit[:2]


async def test_x_per_9_whatever_the_reason_says_it_can_be_stored(store: Store) -> None:
    """It may quote what could not be read."""
    w = await writer(store, "w")
    assert await store.halt("w", w.epoch, "found \0 and \ud800 in ö", code="1", actor="node a")
    assert (await head_of(store, "w")).halted_reason == "found ? and ? in ö"
    assert await store.resume("w", w.epoch, actor="admin", detail="removed \0")
    (resumed, halted) = await store.read_audit("w", limit=9)
    assert (halted.detail, resumed.detail) == ("found ? and ? in ö", "removed ?")


# Idempotency keys


async def test_a_live_key_refuses_and_is_explained(store: Store) -> None:
    w = await writer(store, "w")
    assert await store.append([w.batch(w.event("note:1"), results=(result("k", 1),))])
    again = w.batch(w.event("note:1"), results=(result("new", 2), result("k", 2)))
    assert not await store.append([again])
    refusal = await store.explain(again)
    assert refusal.head == await head_of(store, "w")
    ((key, found),) = refusal.live_keys.items()
    assert key == ("u1|note:1", "k")
    assert (found.event_seq, found.answer) == (1, '{"event_seq":1}')
    assert found.payload_hash == b"\x00\xffk"


async def test_explaining_tells_a_moved_epoch_and_an_absent_workspace(store: Store) -> None:
    w = await writer(store, "w")
    batch = w.batch(w.event("note:1"))
    await acquired(store, "w", "elsewhere")
    refusal = await store.explain(batch)
    assert refusal.head is not None
    assert (refusal.head.epoch, refusal.head.owner) == (2, "elsewhere")
    assert refusal.live_keys == {}
    lost = msgspec.structs.replace(batch, workspace_id="nowhere")
    assert (await store.explain(lost)).head is None


async def test_x_idem_4_a_key_counts_in_its_workspace_and_scope_only(store: Store) -> None:
    w, v = await writer(store, "w"), await writer(store, "v")
    assert await store.append([w.batch(w.event("note:1"), results=(result("k", 1),))])
    elsewhere = v.batch(v.event("note:1"), results=(result("k", 1),))
    otherwise = w.batch(w.event("note:2"), results=(result("k", 2, "u1|note:2"),))
    assert len(await store.append([elsewhere, otherwise])) == 2


async def test_i5_a_result_without_events_is_kept_and_moves_nothing(store: Store) -> None:
    w, v = await writer(store, "w"), await writer(store, "v")
    assert await store.append([w.batch(w.event("note:1"))])
    before = await head_of(store, "w")
    alone = w.batch(results=(result("k", 1),))
    assert len(await store.append([alone, v.batch(v.event("note:1"))])) == 2
    assert await head_of(store, "w") == before
    assert ("u1|note:1", "k") in await store.find_results("w", [("u1|note:1", "k")])
    stale = msgspec.structs.replace(w.batch(results=(result("l", 1),)), epoch=0)
    assert not await store.append([stale])
    assert await store.append([w.batch(w.event("note:1"))])


async def test_x_idem_6_an_expired_key_is_not_honoured_and_overwritten(harness: Harness) -> None:
    store = harness.store
    w = await writer(store, "w")
    key = ("u1|note:1", "k")
    assert await store.append([w.batch(w.event("note:1"), results=(result("k", 1),))])
    await harness.age(DAY_S - 60)
    assert key in await store.find_results("w", [key])
    await harness.age(120)
    assert await store.find_results("w", [key]) == {}
    again = w.batch(w.event("note:1"), results=(result("k", 2),))
    assert (await store.explain(again)).live_keys == {}
    assert await store.append([again])
    assert (await store.find_results("w", [key]))[key].event_seq == 2


async def test_keys_are_looked_up_many_at_a_time(store: Store) -> None:
    w = await writer(store, "w")
    results = tuple(result(f"k{n}", 1, scope='odd "scope" {}\\') for n in range(20))
    assert await store.append([w.batch(w.event("note:1"), results=results)])
    wanted = [(r.scope, r.key) for r in results[::2]] + [("u1", "k0"), ('odd "scope" {}\\', "k99")]
    found = await store.find_results("w", wanted)
    assert found.keys() == {(r.scope, r.key) for r in results[::2]}
    assert await store.find_results("w", []) == {}
    assert await store.find_results("nowhere", wanted) == {}


async def test_expired_keys_are_swept_in_small_portions(harness: Harness) -> None:
    store = harness.store
    w = await writer(store, "w")
    old = tuple(result(f"old{n}", 1) for n in range(5))
    assert await store.append([w.batch(w.event("note:1"), results=old)])
    assert await store.sweep_results(limit=10) == 0
    await harness.age(DAY_S + 1)
    assert await store.append([w.batch(w.event("note:1"), results=(result("new", 2),))])
    assert [await store.sweep_results(limit=3) for _ in range(3)] == [3, 2, 0]
    assert await store.find_results("w", [("u1|note:1", "new")])


# Reading the log


async def test_x_seq_10_reading_is_inclusive_and_in_order(store: Store) -> None:
    w = await writer(store, "w")
    events = [w.event("note:1") for _ in range(3)]
    await store.append([w.batch(*events)])
    assert await store.read_events("w", 2, to_seq=3, **ALL) == events[1:]
    assert await store.read_events("w", 1, to_seq=2, **ALL) == events[:2]
    assert await store.read_events("w", 4, to_seq=9, **ALL) == []
    assert await store.read_events("w", 1, to_seq=3, limit=2, bytes_max=1_000) == events[:2]


async def test_x_seq_10_of_an_unknown_stream_there_is_nothing(store: Store) -> None:
    await writer(store, "w")
    for workspace_id in ("w", "nowhere"):
        assert await log_of(store, workspace_id) == []
        assert await store.read_stream(workspace_id, "note:1", 1, to_event_seq=9, **ALL) == []
        assert await store.read_versions(workspace_id, ["note:1"]) == {}
        assert await store.load_entities(workspace_id, ["note:1"], {"note:1": 1}) == {}
        assert await store.load_entity_at(workspace_id, "note:1", 1, 1) is None
        assert await store.list_entities(workspace_id, "note", limit=9) == []
        assert await store.find_commands(workspace_id, ["c"], after_seq=0) == {}


async def test_a_page_ends_at_its_bytes_but_has_one_event(store: Store) -> None:
    w = await writer(store, "w")
    sizes = (100, 100, 101, 5_000, 2, 100)
    events = [w.event("note:1", '"' + "é" * ((n - 2) // 2) + "x" * (n % 2) + '"') for n in sizes]
    assert [len(e.payload.encode()) for e in events] == list(sizes)
    await store.append([w.batch(*events)])

    async def page(from_seq: int, bytes_max: int) -> list[int]:
        by_log = await store.read_events("w", from_seq, to_seq=6, limit=10, bytes_max=bytes_max)
        by_stream = await store.read_stream(
            "w", "note:1", from_seq, to_event_seq=6, limit=10, bytes_max=bytes_max
        )
        assert by_log == by_stream
        return [e.event_seq for e in by_log]

    assert await page(1, 200) == [1, 2]
    assert await page(1, 300) == [1, 2]
    assert await page(1, 301) == [1, 2, 3]
    assert await page(4, 10) == [4]
    assert await page(4, 5_002) == [4, 5]
    assert await page(1, 10_000) == [1, 2, 3, 4, 5, 6]


async def test_a_stream_is_read_up_to_a_number_of_the_workspace(store: Store) -> None:
    w = await writer(store, "w")
    events = [w.event(f"note:{n % 2}") for n in range(8)]
    await store.append([w.batch(*events)])
    read = await store.read_stream("w", "note:1", 2, to_event_seq=6, **ALL)
    assert [(e.stream_seq, e.event_seq) for e in read] == [(2, 4), (3, 6)]
    assert await store.read_stream("w", "note:1", 5, to_event_seq=99, **ALL) == []


@pytest.mark.parametrize("version", [1, 3])
async def test_x_per_5_another_envelope_fails_closed(store: Store, version: int) -> None:
    w, v = await writer(store, "w"), await writer(store, "v")
    bad = w.event("note:1", schema_version=version, command_id="c")
    fine = v.event("note:1")
    await store.append([w.batch(bad), v.batch(fine)])
    reads: list[Callable[[], Awaitable[object]]] = [
        lambda: log_of(store, "w"),
        lambda: store.read_stream("w", "note:1", 1, to_event_seq=1, **ALL),
        lambda: store.load_entities("w", ["note:1"], {"note:1": 1}),
        lambda: store.load_entity_at("w", "note:1", 1, 1),
        lambda: store.find_commands("w", ["c"], after_seq=0),
    ]
    for read in reads:
        with pytest.raises(SchemaVersionError) as caught:
            await read()
        assert (caught.value.expected, caught.value.found) == (2, version)
    assert await log_of(store, "v") == [fine]


async def test_the_events_of_commands_are_found_above_a_head(store: Store) -> None:
    w = await writer(store, "w")
    ids = [new_id() for _ in range(3)]
    events = [w.event("note:1", command_id=ids[n // 2]) for n in range(6)]
    await store.append([w.batch(*events)])
    assert await store.find_commands("w", [ids[0], ids[2], "other"], after_seq=0) == {
        ids[0]: events[0:2],
        ids[2]: events[4:6],
    }
    assert await store.find_commands("w", ids, after_seq=3) == {
        ids[1]: events[3:4],
        ids[2]: events[4:6],
    }
    assert await store.find_commands("w", [], after_seq=0) == {}


# Entities


async def test_a_state_is_kept_until_the_next_and_the_tail_comes_with_it(store: Store) -> None:
    w = await writer(store, "w")
    events: list[Event] = []
    for state in ('{"v":1}', None, None, '{"v":4}', None):
        events.append(w.event("note:1"))
        write = entity("note:1", events[-1].stream_seq, state)
        assert await store.append([w.batch(events[-1], entities=(write,))])
        if len(events) == 3:
            loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
            assert (loaded.version, loaded.state, loaded.state_version) == (3, '{"v":1}', 1)
            assert loaded.events == tuple(events[1:3])
    loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
    assert (loaded.stream_id, loaded.version) == ("note:1", 5)
    assert (loaded.state, loaded.state_version) == ('{"v":4}', 4)
    assert loaded.events == tuple(events[4:])


async def test_an_entity_that_became_nothing_has_a_state_that_says_so(store: Store) -> None:
    w = await writer(store, "w")
    events = (w.event("note:1"), w.event("note:1"))
    write = entity("note:1", 2, "null", live=False)
    assert await store.append([w.batch(*events, entities=(write,))])
    loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
    assert (loaded.state, loaded.state_version, loaded.events) == ("null", 2, ())


async def test_an_entity_without_a_state_is_all_events(store: Store) -> None:
    w = await writer(store, "w")
    events = (w.event("note:1"), w.event("note:1"))
    assert await store.append([w.batch(*events)])
    loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
    assert (loaded.state, loaded.state_version, loaded.events) == (None, 0, events)


@pytest.mark.parametrize("wanted", [{"note:1": 2}, {}])
async def test_a_state_of_another_domain_version_is_not_used(
    store: Store, wanted: dict[str, int]
) -> None:
    w = await writer(store, "w")
    events = tuple(w.event("note:1") for _ in range(4))
    snapshots = (SnapshotWrite(stream_id="note:1", version=2, domain_version=1, state="2"),)
    writes = (entity("note:1", 4, "4", domain_version=1),)
    assert await store.append([w.batch(*events, entities=writes, snapshots=snapshots)])
    loaded = (await store.load_entities("w", ["note:1"], wanted))["note:1"]
    assert (loaded.version, loaded.state, loaded.state_version) == (4, None, 0)
    assert loaded.events == events


async def test_a_state_keeps_the_domain_version_that_folded_it(store: Store) -> None:
    w = await writer(store, "w")
    first, second = w.event("note:1"), w.event("note:1")
    writes = [
        (entity("note:1", 1, "1", domain_version=1),),
        (entity("note:1", 2, domain_version=2),),
    ]
    assert await store.append([w.batch(first, entities=writes[0])])
    assert await store.append([w.batch(second, entities=writes[1])])
    loaded = await store.load_entities("w", ["note:1"], {"note:1": 2})
    assert loaded["note:1"].events == (first, second)
    loaded = await store.load_entities("w", ["note:1"], {"note:1": 1})
    assert (loaded["note:1"].state, loaded["note:1"].events) == ("1", (second,))


async def test_states_are_stored_later_and_nothing_else_of_the_entity(store: Store) -> None:
    w = await writer(store, "w")
    events = [w.event(f"note:{n % 3}") for n in range(6)]
    writes = tuple(
        entity(f"note:{n}", 2, '"old"' if n else None, title=f"title {n}", keys=("k",))
        for n in range(3)
    )
    assert await store.append([w.batch(*events, entities=writes)])
    listed = await store.list_entities("w", "note", limit=9)
    odd = r'{"b":1,"a":"\u0000 \"x\" \\"}'
    later = [
        entity("note:0", 2, odd, title="other", keys=("l",), live=False, domain_version=3),
        entity("note:1", 1, '"stale"'),
        entity("note:2", 3, '"early"'),
        entity("note:9", 1, '"absent"'),
    ]
    assert await store.write_states("w", w.epoch, later)
    assert await store.list_entities("w", "note", limit=9) == listed
    versions = {"note:0": 3, "note:1": 1, "note:2": 1}
    loaded = await store.load_entities("w", [f"note:{n}" for n in range(10)], versions)
    assert [(e.version, e.state, e.state_version, e.events) for e in loaded.values()] == [
        (2, odd, 2, ()),
        (2, '"old"', 2, ()),
        (2, '"old"', 2, ()),
    ]
    assert await store.write_states("w", w.epoch, [])
    assert await store.write_states("w", w.epoch, [entity("note:1", 2)])
    assert (await store.load_entities("w", ["note:1"], versions))["note:1"].state == '"old"'


async def test_i3_who_was_fenced_stores_no_state(store: Store) -> None:
    w = await writer(store, "w")
    event = w.event("note:1")
    assert await store.append([w.batch(event)])
    await acquired(store, "w", "b")
    write = [entity("note:1", 1, '"mine"')]
    assert not await store.write_states("w", w.epoch, write)
    assert not await store.write_states("nowhere", 1, write)
    loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
    assert (loaded.state, loaded.events) == (None, (event,))
    assert await store.write_states("w", w.epoch + 1, write)
    loaded = (await store.load_entities("w", ["note:1"], {"note:1": 1}))["note:1"]
    assert (loaded.state, loaded.events) == ('"mine"', ())


async def test_a_snapshot_that_is_nearer_than_the_state_is_used(store: Store) -> None:
    w = await writer(store, "w")
    events = tuple(w.event("note:1") for _ in range(5))
    snapshots = tuple(
        SnapshotWrite(stream_id="note:1", version=v, domain_version=d, state=f'"{v}"')
        for v, d in ((1, 2), (3, 2), (4, 1))
    )
    writes = (entity("note:1", 5),)
    assert await store.append([w.batch(*events, entities=writes, snapshots=snapshots)])
    loaded = (await store.load_entities("w", ["note:1"], {"note:1": 2}))["note:1"]
    assert (loaded.state, loaded.state_version, loaded.events) == ('"3"', 3, events[3:])


async def test_many_entities_are_loaded_at_once(store: Store) -> None:
    w = await writer(store, "w")
    events = [w.event(f"note:{n}") for n in range(30)]
    writes = tuple(entity(f"note:{n}", 1, "1" if n % 2 else None) for n in range(30))
    assert await store.append([w.batch(*events, entities=writes)])
    streams = [f"note:{n}" for n in range(40)]
    assert await store.read_versions("w", streams) == {f"note:{n}": 1 for n in range(30)}
    loaded = await store.load_entities("w", streams, dict.fromkeys(streams, 1))
    assert loaded.keys() == {f"note:{n}" for n in range(30)}
    assert loaded["note:7"].events == ()
    assert loaded["note:8"].events == (events[8],)
    assert await store.load_entities("w", [], {}) == {}


async def test_a_long_life_is_loaded_whole(store: Store) -> None:
    w = await writer(store, "w")
    events = tuple(w.event(f"note:{n % 2}") for n in range(1_300))
    assert await store.append([w.batch(*events)])
    loaded = await store.load_entities("w", ["note:0", "note:1"], {})
    assert loaded["note:0"].events == events[0::2]
    assert loaded["note:1"].events == events[1::2]


async def test_an_entity_is_loaded_as_it_was(store: Store) -> None:
    w = await writer(store, "w")
    events = tuple(w.event("note:1") for _ in range(9))
    snapshots = tuple(
        SnapshotWrite(stream_id="note:1", version=v, domain_version=1, state=f'"{v}"')
        for v in (3, 6)
    )
    writes = (entity("note:1", 9, '"9"'),)
    assert await store.append([w.batch(*events, entities=writes, snapshots=snapshots)])

    async def at(version: int, domain_version: int = 1) -> tuple[str | None, int, tuple[int, ...]]:
        loaded = await store.load_entity_at("w", "note:1", version, domain_version)
        assert loaded is not None
        assert loaded.version == version
        return loaded.state, loaded.state_version, tuple(e.stream_seq for e in loaded.events)

    assert await at(2) == (None, 0, (1, 2))
    assert await at(3) == ('"3"', 3, ())
    assert await at(5) == ('"3"', 3, (4, 5))
    assert await at(8) == ('"6"', 6, (7, 8))
    assert await at(9) == ('"9"', 9, ())
    assert await at(4, domain_version=2) == (None, 0, (1, 2, 3, 4))
    for absent in (0, -1, 10, SEQ_MAX):
        assert await store.load_entity_at("w", "note:1", absent, 1) is None
    assert await store.load_entity_at("w", "note:2", 1, 1) is None


async def test_lists_are_by_stream_id_and_page(store: Store) -> None:
    w = await writer(store, "w")
    names = ["a", "B", "ä", "b", "b-1", "b1", "\U0001f600", "\ufffd"]
    events = [w.event(f"note:{name}") for name in names]
    others = [w.event(stream) for stream in ("not:1", "note", "notes:1", "note;1")]
    assert await store.append([w.batch(*events, *others)])
    expected = sorted(f"note:{name}" for name in names)
    listed: list[str] = []
    while page := await store.list_entities(
        "w", "note", after=listed[-1] if listed else "", limit=3
    ):
        assert len(page) <= 3
        listed += [item.stream_id for item in page]
    assert listed == expected


async def test_lists_show_the_index_columns_of_what_lives(store: Store) -> None:
    w = await writer(store, "w")
    first, gone = w.event("note:1"), w.event("note:2")
    odd = ('tag:"quoted"', "back\\slash", "NULL", "", "com,ma", "{brace}")
    writes = (entity("note:1", 1, title='NULL "x" \\', keys=odd), entity("note:2", 1, live=False))
    assert await store.append([w.batch(first, gone, entities=writes)])
    (item,) = await store.list_entities("w", "note", limit=10)
    assert (item.stream_id, item.version, item.title) == ("note:1", 1, 'NULL "x" \\')
    assert item.keys == odd
    assert item.updated_at == first.recorded_at
    for key in odd:
        assert await store.list_entities("w", "note", limit=10, key=key) == [item]
    assert await store.list_entities("w", "note", limit=10, key="tag") == []


async def test_a_later_row_of_an_entity_replaces_the_earlier(store: Store) -> None:
    w = await writer(store, "w")
    rows = [
        entity("note:1", 1, title="first", keys=("a",)),
        entity("note:1", 2, title="second", keys=("b",)),
        entity("note:1", 3, title=None, live=False),
        entity("note:1", 4, title="back"),
    ]
    shown = []
    for row in rows:
        assert await store.append([w.batch(w.event("note:1"), entities=(row,))])
        shown.append(
            [(i.version, i.title, i.keys) for i in await store.list_entities("w", "note", limit=1)]
        )
    assert shown == [[(1, "first", ("a",))], [(2, "second", ("b",))], [], [(4, "back", ())]]


async def test_a_stream_is_located_in_at_most_two_workspaces(store: Store) -> None:
    assert await store.locate("note:1") == []
    for name in ("c", "a", "b"):
        w = await writer(store, name)
        await store.append([w.batch(w.event("note:1"), w.event(f"note:{name}"))])
    assert await store.locate("note:1") == ["a", "b"]
    assert await store.locate("note:c") == ["c"]


async def test_a_stream_is_located_page_by_page_where_it_lives(store: Store) -> None:
    for name in ("d", "c", "b", "a"):
        w = await writer(store, name)
        write = entity("member:u", 1, live=name != "b")
        await store.append([w.batch(w.event("member:u"), entities=(write,))])
    assert await store.locate("member:u", limit=9) == ["a", "b", "c", "d"]
    assert await store.locate("member:u", limit=2, live_only=True) == ["a", "c"]
    assert await store.locate("member:u", limit=2, live_only=True, after="c") == ["d"]
    assert await store.locate("member:u", live_only=True, after="d") == []


# Cursors


def cursor(stream: str = "s", client: str = "c", user: str = "u") -> CursorKey:
    return CursorKey(user, client, "w", stream)


async def test_cursors_only_go_up(store: Store) -> None:
    await store.write_cursors({cursor(): 5})
    await store.write_cursors({cursor(): 3})
    assert await store.read_cursors([cursor()]) == {cursor(): 5}
    await store.write_cursors({cursor(): SEQ_MAX})
    assert await store.read_cursors([cursor()]) == {cursor(): SEQ_MAX}


async def test_x_ack_4_cursors_are_independent(store: Store) -> None:
    keys = [
        CursorKey(user, client, workspace, stream)
        for user in ("u", 'u"\\')
        for client in ("c", "d")
        for workspace in ("w", "v")
        for stream in ("workspace:w", "note:1")
    ]
    await store.write_cursors({key: n for n, key in enumerate(keys)})
    await store.write_cursors({keys[3]: 100})
    found = await store.read_cursors([*keys, cursor("other")])
    assert found == {key: n for n, key in enumerate(keys)} | {keys[3]: 100}
    assert await store.read_cursors([]) == {}
    await store.write_cursors({})


async def test_of_a_clients_cursors_the_oldest_go(store: Store) -> None:
    for n in range(5):
        await store.write_cursors({cursor(f"s{n}"): 1, cursor("s0", "other"): n})
    await store.write_cursors({cursor("s0"): 2})
    await store.write_cursors({cursor("s5"): 1, cursor("s6"): 1})
    kept = await store.read_cursors([cursor(f"s{n}") for n in range(7)])
    assert sorted(key.stream_id for key in kept) == ["s0", "s3", "s4", "s5", "s6"]
    assert len(await store.read_cursors([cursor("s0", "other")])) == 1
    await store.write_cursors({cursor(f"t{n}"): 1 for n in range(9)})
    kept = await store.read_cursors([cursor(f"t{n}") for n in range(9)])
    assert sorted(key.stream_id for key in kept) == ["t0", "t1", "t2", "t3", "t4"]


async def test_of_a_users_clients_the_oldest_go(store: Store) -> None:
    for n in range(3):
        await store.write_cursors({cursor("s", f"c{n}"): 1, cursor("t", f"c{n}"): 1})
    await store.write_cursors({cursor("s", "c0"): 2})
    await store.write_cursors({cursor("s", "c3"): 1, cursor("s", "c3", "somebody else"): 1})
    keys = [cursor(s, f"c{n}") for n in range(4) for s in ("s", "t")]
    kept = await store.read_cursors(keys)
    assert {key.client_id for key in kept} == {"c0", "c2", "c3"}
    assert len(kept) == 5


async def test_cursors_that_nobody_writes_any_more_are_swept(harness: Harness) -> None:
    store = harness.store
    keys = [
        CursorKey(user, client, workspace, stream)
        for user in ("B", "a", "ä")
        for client in ("c", "d")
        for workspace in ("v", "w")
        for stream in ("note:1", "workspace:w")
    ]
    assert keys == sorted(keys)

    async def sweep() -> list[CursorKey | None]:
        """Go over all of them; tell where each portion ended."""
        ends: list[CursorKey | None] = []
        while not ends or ends[-1] is not None:
            after = ends[-1] if ends else None
            ends.append(await store.sweep_cursors(after, limit=10, unused_s=90 * DAY_S))
        return ends

    assert await store.sweep_cursors(None, limit=10, unused_s=1) is None
    for key in keys[::-1]:
        await store.write_cursors({key: 1})
    await harness.age(80 * DAY_S)
    await store.write_cursors(dict.fromkeys(keys[::2], 1))
    await store.write_cursors({keys[1]: 2})
    assert await sweep() == [keys[9], keys[19], None]
    assert len(await store.read_cursors(keys)) == 24
    await harness.age(11 * DAY_S)
    assert await sweep() == [keys[9], keys[19], None]
    kept = [key for key in keys if key in keys[::2] or key == keys[1]]
    assert sorted(await store.read_cursors(keys)) == kept
    assert await sweep() == [kept[9], None]
    await harness.age(90 * DAY_S)
    await sweep()
    assert await store.read_cursors(keys) == {}
    await store.write_cursors({keys[0]: 1})
    assert await store.read_cursors(keys) == {keys[0]: 1}, "a swept cursor may begin again"


# Anything at once


async def test_x_seq_1_twenty_tasks_make_one_dense_log(store: Store) -> None:
    """Each appends what it thinks comes next; the fence lets one of them at a time be right."""
    w = await writer(store, "w")
    committed: list[str] = []

    async def push(count: int) -> None:
        while count:
            head = await head_of(store, "w")
            w.head_seq, w.chain, w.versions = head.head_seq, head.chain, {"note:1": head.head_seq}
            event = w.event("note:1")
            if await store.append([w.batch(event)]):
                committed.append(event.event_id)
                count -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(push, 5)
    log = await log_of(store, "w")
    assert [e.event_seq for e in log] == list(range(1, 101))
    assert sorted(e.event_id for e in log) == sorted(committed)
    assert log[0].recorded_at > START


async def test_a_process_that_another_one_replaced_acquires_nothing(store: Store) -> None:
    first, second = "00000000-0000-7000-8000-000000000001", "00000000-0000-7000-8000-000000000002"
    assert await store.beat("n", first, address=None, lease_s=60.0, first=True) is not None
    head = await store.acquire("w", "n", create=True, incarnation=first)
    assert head is not None
    assert head.owner == "n"
    assert await store.beat("n", second, address=None, lease_s=60.0, first=True) is not None
    refused = await store.acquire("w", "n", create=False, incarnation=first)
    assert refused is not None
    assert (refused.owner, refused.epoch) == (None, head.epoch)
    assert await store.acquire("new", "n", create=True, incarnation=first) is None
    taken = await store.acquire("w", "n", create=False, incarnation=second)
    assert taken is not None
    assert (taken.owner, taken.epoch) == ("n", head.epoch + 1)
    unknown = await store.acquire("w", "m", create=False, incarnation=first)
    assert unknown is not None
    assert unknown.owner == "n"
