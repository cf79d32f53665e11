"""Commits: what they write, and what refuses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from dalsegno.actors.ports import BatchRejectedError, SnapshotWrite
from dalsegno.protocol import SEQ_MAX

from ._writing import START, acquired, between, entity, head_of, log_of, result, writer

if TYPE_CHECKING:
    from dalsegno.actors.ports import Store

    from ._harness import StoreHarness


class AppendContract:
    """Commits: what they write, and what refuses them."""

    async def test_x_per_6_an_event_comes_back_as_it_was_written(self, store: Store) -> None:
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
        assert await store.read_stream("w", event.stream_id, between(1, 1)) == [event]

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
    async def test_a_payload_is_kept_byte_for_byte(self, store: Store, payload: str) -> None:
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

    async def test_x_seq_2_streams_count_on_their_own(self, store: Store) -> None:
        w = await writer(store, "w")
        batch = w.batch(*(w.event(f"note:{n % 2}") for n in range(6)))
        assert list(await store.append([batch])) == ["w"]
        log = await log_of(store, "w")
        assert [e.event_seq for e in log] == [1, 2, 3, 4, 5, 6]
        assert [e.stream_seq for e in log if e.stream_id == "note:0"] == [1, 2, 3]
        assert [e.stream_seq for e in log if e.stream_id == "note:1"] == [1, 2, 3]

    async def test_one_call_commits_the_batches_of_many_workspaces(self, store: Store) -> None:
        writers = [await writer(store, f"w{n}") for n in range(5)]
        won = await store.append([w.batch(w.event("note:1"), w.event("note:2")) for w in writers])
        assert sorted(won) == [f"w{n}" for n in range(5)]
        for w in writers:
            assert [e.stream_id for e in await log_of(store, w.workspace_id)] == [
                "note:1",
                "note:2",
            ]

    async def test_what_is_sent_without_waiting_commits_the_same(self, store: Store) -> None:
        good, bad = await writer(store, "good"), await writer(store, "bad")
        for number in range(1, 4):
            sent = good.batch(good.event("note:1"))
            refused = msgspec.structs.replace(bad.batch(bad.event("note:1")), epoch=bad.epoch + 1)
            appending = store.append_nowait([sent, refused])
            if appending is None:  # something had to be waited for
                won = await store.append([sent, refused])
            else:
                won = await appending.outcome()
            assert list(won) == ["good"]
            assert [e.event_seq for e in await log_of(store, "good")] == [*range(1, number + 1)]
        assert await log_of(store, "bad") == []

    async def test_an_empty_call_commits_nothing(self, store: Store) -> None:
        assert not await store.append([])

    @pytest.mark.parametrize(
        "fault", ["epoch below", "epoch above", "head", "halted", "absent", "key"]
    )
    async def test_a_batch_that_is_refused_leaves_its_neighbour_alone(
        self, store: Store, fault: str
    ) -> None:
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
        (item,) = (await store.list_entities("bad", "note", limit=10)).items
        assert (item.version, item.title) == (1, None)
        assert not await store.find_results("bad", [(results[0].scope, "k2")])
        assert await store.load_entity_at("bad", "note:1", 2, 1) is None

    async def test_the_fenced_owner_stays_out_and_the_new_one_goes_on(self, store: Store) -> None:
        old = await writer(store, "w", "old")
        await store.append([old.batch(old.event("note:1"))])
        new = await writer(store, "w", "new")
        new.head_seq, new.chain, new.versions = old.head_seq, old.chain, dict(old.versions)
        assert not await store.append([old.batch(old.event("note:1"))])
        event = new.event("note:1")
        assert list(await store.append([new.batch(event)])) == ["w"]
        assert (await log_of(store, "w"))[1:] == [event]

    async def test_x_seq_5_a_refused_batch_uses_up_no_number(self, store: Store) -> None:
        w = await writer(store, "w")
        w.epoch += 1
        assert not await store.append([w.batch(w.event("note:1"))])
        w.epoch, w.head_seq, w.versions, w.chain = 1, 0, {}, 0
        assert await store.append([w.batch(w.event("note:1"))])
        assert (await head_of(store, "w")).head_seq == 1

    @pytest.mark.parametrize("k", [1, 7, 300])
    async def test_x_per_10_a_batch_is_there_whole_and_contiguous(
        self, store: Store, k: int
    ) -> None:
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
        self, store: Store, spoil: dict[str, object]
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

    async def test_bad_data_beside_an_event_is_refused_too(self, store: Store) -> None:
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

    async def test_x_seq_8_the_last_number_can_be_used_and_does_not_wrap(
        self, harness: StoreHarness
    ) -> None:
        store = harness.store
        w = await writer(store, "w")
        await harness.put_head("w", SEQ_MAX - 1)
        w.head_seq = SEQ_MAX - 1
        last = w.event("note:1")
        assert await store.append([w.batch(last)])
        assert (await head_of(store, "w")).head_seq == SEQ_MAX
        assert await store.read_events("w", between(1, SEQ_MAX)) == [last]
        with pytest.raises(BatchRejectedError):
            await store.append([w.batch(w.event("note:1"))])
        assert (await head_of(store, "w")).head_seq == SEQ_MAX

    async def test_an_event_of_an_unknown_type_is_as_good_as_any(self, store: Store) -> None:
        w = await writer(store, "w")
        event = w.event("martian:1", type="landed", type_version=99)
        assert await store.append([w.batch(event, entities=())])
        assert await log_of(store, "w") == [event]

    async def test_every_kind_of_event_that_was_appended_is_known(self, store: Store) -> None:
        assert await store.event_types() == set()
        w, v = await writer(store, "w"), await writer(store, "v")
        await store.append([w.batch(w.event("note:1"), w.event("note:2", type_version=2))])
        await store.append([v.batch(v.event("note:1"), v.event("run:1:2", type="run_started"))])
        assert await store.event_types() == {
            ("note", "note_patched", 1),
            ("note", "note_patched", 2),
            ("run", "run_started", 1),
        }

    async def test_x_seq_1_twenty_tasks_make_one_dense_log(self, store: Store) -> None:
        """Each appends what it takes to be next; the fence lets only one at a time be right."""
        w = await writer(store, "w")
        committed: list[str] = []

        async def push(count: int) -> None:
            while count:
                head = await head_of(store, "w")
                w.head_seq, w.chain, w.versions = (
                    head.head_seq,
                    head.chain,
                    {"note:1": head.head_seq},
                )
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
