"""What is due to a reader, from numbers alone: against a model, and case by case."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import Event, Publication, Reject, Subscription, workspace_stream

ENTITY = "box:a"


def event(event_seq: int, stream_seq: int | None = None) -> Event:
    return Event(
        workspace_id="w",
        event_seq=event_seq,
        stream_id=ENTITY,
        stream_seq=event_seq if stream_seq is None else stream_seq,
        event_id="e",
        type="was_put",
        type_version=1,
        payload="{}",
        actor_id=None,
        command_id="c",
        recorded_at=datetime(2030, 1, 1, tzinfo=UTC),
    )


def item(first: int, last: int) -> Publication:
    return Publication([event(seq) for seq in range(first, last + 1)], is_workspace_stream=True)


def live(sent: int = 0) -> Subscription:
    subscription = Subscription("w", workspace_stream("w"), start=sent)
    subscription.live = True
    return subscription


def numbers(due: object) -> list[int] | None:
    return None if due is None else [e.event_seq for e in due]  # type: ignore[attr-defined]  # events


def test_the_stream_of_the_workspace_is_told_from_an_entitys() -> None:
    assert live().is_workspace_stream
    assert not Subscription("w", ENTITY).is_workspace_stream


def test_what_follows_is_due_as_it_is() -> None:
    subscription, published = live(3), item(4, 6)
    assert subscription.offer(published) is published.events
    assert subscription.sent == 6


def test_what_was_sent_is_left_out() -> None:
    subscription = live(5)
    assert numbers(subscription.offer(item(4, 7))) == [6, 7]
    assert subscription.offer(item(2, 7)) is None
    assert subscription.sent == 7
    assert subscription.live


def test_a_gap_makes_it_fall_behind() -> None:
    subscription = live(3)
    assert subscription.offer(item(5, 6)) is None
    assert (subscription.live, subscription.missed, subscription.sent) == (False, True, 3)


def test_one_that_is_behind_takes_note_and_nothing_else() -> None:
    subscription = Subscription("w", ENTITY, start=2)
    assert subscription.offer(item(3, 4)) is None
    assert (subscription.missed, subscription.sent) == (True, 2)


def test_falling_behind_only_goes_back() -> None:
    subscription = live(9)
    subscription.fall_behind(12)
    assert subscription.sent == 9
    subscription.fall_behind(4)
    assert subscription.sent == 4


def test_an_entitys_reader_knows_how_far_there_is_to_go() -> None:
    subscription = Subscription("w", ENTITY)
    subscription.begin(2, 4)
    assert not subscription.reaches(99)
    subscription.offer(item(5, 6))
    assert subscription.take(item(3, 5)) == item(3, 5).events
    assert not subscription.reaches(99)
    subscription.take(item(6, 6))
    assert subscription.reaches(99), "whatever else the workspace has published"
    subscription.live = True
    subscription.offer(item(7, 9))
    subscription.fall_behind(6)
    assert not subscription.reaches(99)
    subscription.begin(6, 3)
    assert not subscription.reaches(99), "what it knows it does not forget"


def test_a_reader_of_the_workspace_goes_as_far_as_that_is_published_or_to_its_barrier() -> None:
    subscription = Subscription("w", workspace_stream("w"), start=3)
    assert subscription.reaches(3)
    assert not subscription.reaches(4)
    page = item(4, 9)
    subscription.revoke(5)
    assert numbers(subscription.take(page)) == [4, 5]
    assert subscription.reaches(9)
    assert numbers(subscription.take(item(6, 9))) == []
    assert subscription.sent == 5


def test_a_page_that_is_due_as_a_whole_is_not_copied() -> None:
    subscription, page = Subscription("w", workspace_stream("w")), item(1, 5)
    subscription.revoke(5)
    assert subscription.take(page) is page.events


def test_one_that_was_ended_says_why_again_and_again() -> None:
    subscription = live(3)
    subscription.check_not_ended()
    subscription.ended = Reject("GONE")
    for _ in range(2):
        with pytest.raises(Reject):
            subscription.check_not_ended()


def test_nothing_above_the_barrier_is_due() -> None:
    subscription = live(3)
    subscription.revoke(5)
    assert numbers(subscription.offer(item(4, 7))) == [4, 5]
    assert subscription.offer(item(8, 9)) is None
    assert subscription.sent == 5


def test_a_barrier_only_moves_down() -> None:
    subscription = live()
    subscription.revoke(5)
    subscription.revoke(7)
    assert subscription.last_visible == 5
    subscription.revoke(2)
    assert subscription.last_visible == 2


def test_an_entitys_barrier_is_a_number_of_the_workspace() -> None:
    subscription = Subscription("w", ENTITY)
    subscription.live = True
    subscription.revoke(20)
    published = Publication([event(10, 1), event(20, 2), event(30, 3)], is_workspace_stream=False)
    assert numbers(subscription.offer(published)) == [10, 20]
    assert subscription.sent == 2


def test_a_published_item_is_encoded_once_a_view() -> None:
    encoded: list[int] = []

    def view(events: Sequence[Event]) -> list[bytes]:
        encoded.extend(one.event_seq for one in events)
        return [b"x" for _ in events]

    def other_view(events: Sequence[Event]) -> list[bytes]:
        return [b"y%d" % one.event_seq for one in events]

    published = item(4, 5)
    assert (published.first, published.last) == (4, 5)
    assert published.frames(view) is published.frames(view)
    assert encoded == [4, 5]
    assert list(published.frames(other_view).texts) == [b"y4", b"y5"]


def test_the_repr_shows_the_place() -> None:
    subscription = live(3)
    assert repr(subscription) == "<Subscription workspace:w live at 3>"
    subscription.fall_behind(2)
    assert repr(subscription) == "<Subscription workspace:w behind at 2>"


@given(
    start=st.integers(0, 8),
    sizes=st.lists(st.integers(1, 4), max_size=8),
    lost=st.sets(st.integers(0, 7)),
    overflows=st.sets(st.integers(0, 7)),
    barrier=st.none() | st.tuples(st.integers(0, 7), st.integers(0, 30)),
)
def test_whatever_is_lost_the_reader_gets_each_event_once_in_order(
    start: int,
    sizes: list[int],
    lost: set[int],
    overflows: set[int],
    barrier: tuple[int, int] | None,
) -> None:
    subscription = Subscription("w", workspace_stream("w"), start=start)
    log: list[Event] = [event(seq) for seq in range(1, start + 1)]
    got: list[int] = []
    last_visible: int | None = None

    def catch_up() -> None:
        page = subscription.visible(log[subscription.sent :])
        got.extend(e.event_seq for e in page)
        if page:
            subscription.sent = page[-1].event_seq
        subscription.live = True

    catch_up()
    for index, size in enumerate(sizes):
        events = [event(len(log) + n) for n in range(1, size + 1)]
        log += events
        if barrier is not None and barrier[0] == index:
            # A barrier is set in the step that publishes its event, before it is offered.
            last_visible = max(len(log) - size, min(barrier[1], len(log)))
            subscription.revoke(last_visible)
        if index in lost:
            continue
        before = subscription.sent
        due = subscription.offer(Publication(events, is_workspace_stream=True))
        if due is not None and index in overflows:
            subscription.fall_behind(before)
        elif due is not None:
            got.extend(e.event_seq for e in due)
        if not subscription.live:
            catch_up()
    subscription.fall_behind(subscription.sent)
    catch_up()
    end = len(log) if last_visible is None else last_visible
    assert got == [*range(start + 1, end + 1)]


@pytest.mark.parametrize("workspace_id", ["w", "a.b-c_D"])
def test_the_name_of_a_workspaces_stream(workspace_id: str) -> None:
    assert workspace_stream(workspace_id) == f"workspace:{workspace_id}"
