"""The tails: dense, bounded together, the oldest commit of all evicted first; against a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.delivery._tail import Tail, Tails, event_bytes
from dalsegno.protocol import CHAIN_START, Event

BIG = 2**30


def event(workspace_id: str, seq: int, entity: str = "box:a", version: int | None = None) -> Event:
    return Event(
        workspace_id=workspace_id,
        event_seq=seq,
        stream_id=entity,
        stream_seq=seq if version is None else version,
        event_id="e",
        type="was_put",
        type_version=1,
        payload="{}",
        actor_id=None,
        command_id="c",
        recorded_at=datetime(2030, 1, 1, tzinfo=UTC),
    )


ONE = event_bytes(event("w", 1))


def extend(tails: Tails, tail: Tail, count: int) -> None:
    first = tail.last + 1
    tails.extend(tail, [event(tail.workspace_id, seq) for seq in range(first, first + count)])


def seqs(tail: Tail) -> list[int]:
    return [one.event_seq for one in tail.read(tail.last - len(tail) + 1, None, limit=99, **ALL)]


ALL = {"bytes_max": BIG}


def test_a_tail_is_read_from_any_number_that_it_holds() -> None:
    tails = Tails(bytes_max=BIG)
    tail = tails.find("w", 10, CHAIN_START)
    assert tail.read(11, None, limit=9, bytes_max=BIG) == []
    extend(tails, tail, 5)
    assert repr(tail) == "<Tail w 11…15>"
    assert [e.event_seq for e in tail.read(12, None, limit=3, bytes_max=BIG)] == [12, 13, 14]
    assert [e.event_seq for e in tail.read(14, None, limit=9, bytes_max=BIG)] == [14, 15]
    assert tail.read(10, None, limit=9, bytes_max=BIG) == []
    assert tail.read(16, None, limit=9, bytes_max=BIG) == []


def test_only_the_first_event_may_take_a_read_over_its_bytes() -> None:
    tails = Tails(bytes_max=BIG)
    tail = tails.find("w", 0, CHAIN_START)
    extend(tails, tail, 5)
    assert len(tail.read(1, None, limit=9, bytes_max=1)) == 1
    two = 2 * "{}".__sizeof__()
    assert len(tail.read(1, None, limit=9, bytes_max=two)) == 2
    assert len(tail.read(1, None, limit=9, bytes_max=two - 1)) == 1


def test_an_entitys_stream_is_known_from_the_first_version_that_is_here() -> None:
    tails = Tails(bytes_max=BIG)
    tail = tails.find("w", 0, CHAIN_START)
    names = ["box:a", "box:b", "box:a", "box:a"]
    versions = [7, 1, 8, 9]
    tails.extend(
        tail,
        [event("w", n + 1, name, versions[n]) for n, name in enumerate(names)],
    )
    assert [e.stream_seq for e in tail.read(8, "box:a", limit=9, bytes_max=BIG)] == [8, 9]
    assert tail.read(6, "box:a", limit=9, bytes_max=BIG) == []
    assert (tail.newest("box:a"), tail.newest("box:b"), tail.newest("box:c")) == (9, 1, None)
    found = tail.at(8, "box:a")
    assert found is not None
    assert found.event_seq == 3


def test_the_oldest_commit_of_all_workspaces_goes_first() -> None:
    tails = Tails(bytes_max=5 * ONE)
    idle, busy = tails.find("idle", 0, CHAIN_START), tails.find("busy", 0, CHAIN_START)
    extend(tails, idle, 1)
    extend(tails, busy, 2)
    extend(tails, idle, 1)
    extend(tails, busy, 1)
    assert (seqs(idle), seqs(busy)) == ([1, 2], [1, 2, 3])
    extend(tails, busy, 1)
    assert (seqs(idle), seqs(busy)) == ([2], [1, 2, 3, 4])
    extend(tails, busy, 1)
    assert (seqs(idle), seqs(busy)) == ([2], [3, 4, 5]), "a commit goes as a whole"
    extend(tails, busy, 3)
    assert (seqs(idle), seqs(busy)) == ([], [4, 5, 6, 7, 8])
    assert tails.statistics().workspaces == 1
    extend(tails, busy, 6)
    assert seqs(busy) == [], "alone over the bound"
    assert tails.statistics().bytes == 0
    extend(tails, idle, 1)
    assert seqs(idle) == [3]


def test_a_tail_is_taken_up_again_where_the_log_still_ends_there() -> None:
    tails = Tails(bytes_max=BIG)
    tail = tails.find("w", 0, CHAIN_START)
    extend(tails, tail, 3)
    assert tails.find("w", 3, CHAIN_START) is tail
    other = tails.find("w", 4, CHAIN_START)
    assert (len(other), other.last) == (0, 4)
    assert tails.statistics().bytes == 0
    assert repr(tails) == "<Tails of 0 workspaces, 0 bytes>"


@dataclass
class Model:
    """Commits in order: the workspace, and how many events."""

    commits: list[tuple[str, int, int]] = field(default_factory=list)
    last: dict[str, int] = field(default_factory=dict)


@given(
    bound=st.integers(0, 12),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4) | st.just(0)), max_size=40),
)
def test_whatever_is_published_and_forgotten_tails_are_what_is_left_of_the_newest(
    bound: int, steps: list[tuple[str, int]]
) -> None:
    tails = Tails(bytes_max=bound * ONE)
    held = {name: tails.find(name, 0, CHAIN_START) for name in "abc"}
    model = Model(last=dict.fromkeys("abc", 0))
    for name, count in steps:
        if count == 0:
            tails.forget(held[name])
            held[name] = tails.find(name, model.last[name], CHAIN_START)
            model.commits = [commit for commit in model.commits if commit[0] != name]
        else:
            extend(tails, held[name], count)
            model.commits.append((name, model.last[name] + 1, count))
            model.last[name] += count
        while sum(count for _, _, count in model.commits) > bound:
            model.commits.pop(0)
        for each, tail in held.items():
            kept = [
                n for who, first, c in model.commits if who == each for n in range(first, first + c)
            ]
            assert seqs(tail) == kept
            assert tail.newest("box:a") == (kept[-1] if kept else None)
            assert tail.last == model.last[each]
        assert tails.statistics().events == sum(count for _, _, count in model.commits)
        assert tails.statistics().bytes == tails.statistics().events * ONE


@pytest.mark.parametrize("text", ["{}", "ä" * 500, "語" * 500])
def test_an_event_is_counted_with_what_its_text_takes_in_memory(text: str) -> None:
    one = event("w", 1)
    assert event_bytes(one) >= 700
    longer = Event(
        **{name: getattr(one, name) for name in one.__struct_fields__} | {"payload": text}
    )
    assert event_bytes(longer) - event_bytes(one) >= len(text.encode()) // 2 - 10


def test_a_tail_of_another_history_is_not_taken_up() -> None:
    tails = Tails(bytes_max=BIG)
    tail = tails.find("w", 0, CHAIN_START)
    extend(tails, tail, 3)
    assert len(tails.find("w", 3, CHAIN_START + 1)) == 0
