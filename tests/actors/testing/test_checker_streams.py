"""The checker on what was delivered and acknowledged: what trips it, and near misses."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from dalsegno.actors.testing import Followed, Verdict
from tests.actors._story import Story, W, key_of


@pytest.fixture
def story() -> Story:
    return Story()


# --------------------------------------------------------------------------------------- deliveries


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ((1, 2, 3, 4), []),
        ((), []),
        ((1, 2, 4), [Verdict.GAP]),
        ((2, 3, 4), [Verdict.GAP]),
        ((1, 2, 2, 3), [Verdict.STEP_BACK]),
        ((1, 2, 3, 1, 2, 3, 4), [Verdict.STEP_BACK]),
        ((1, 3, 2, 4), [Verdict.GAP, Verdict.STEP_BACK]),
    ],
)
def test_numbers_that_are_not_each_one_more(
    story: Story, numbers: tuple[int, ...], found: list[Verdict]
) -> None:
    for name in range(4):
        story.commit(f"m{name}")
    story.deliver(*numbers)
    assert story.verdicts() == found


def test_a_subscription_goes_on_behind_its_cursor(story: Story) -> None:
    for name in range(4):
        story.commit(f"m{name}")
    story.deliver(3, 4, cursor=2)
    assert story.check() == []
    story.deliver(2, 3, cursor=2)
    assert story.verdicts() == [Verdict.STEP_BACK]


def test_an_entity_s_stream_counts_by_itself(story: Story) -> None:
    followed = story.follow("box:b")
    for name in ("a", "b", "a", "b"):
        event = story.commit(f"m{name}", f"box:{name}")
        if name == "b":
            followed.delivered(event, is_workspace_stream=False)
    assert story.check() == []
    story.follow("box:b").delivered(story.log[3], is_workspace_stream=False)
    assert story.verdicts() == [Verdict.GAP]


def test_what_came_and_is_not_in_the_log_was_never_committed(story: Story) -> None:
    story.commit("m1")
    followed = story.follow()
    followed.delivered(story.log[0], is_workspace_stream=True)
    followed.saw(2, event_id="lost", event_seq=2)
    assert story.verdicts() == [Verdict.ABORTED_READ]


def test_what_came_and_was_replaced_was_never_committed_either(story: Story) -> None:
    """Published before its commit, which was refused; another took the number."""
    followed = story.follow()
    followed.saw(1, event_id="lost", event_seq=1)
    story.commit("m1")
    assert story.verdicts() == [Verdict.ABORTED_READ]
    story.deliver(1)
    assert story.verdicts() == [Verdict.ABORTED_READ, Verdict.INCONSISTENT_OFFSET]


@pytest.mark.parametrize(
    "fields",
    [
        {"chain": 7},
        {"payload": "{}"},
        {"event_seq": 3},
        {"event_seq": 2, "event_id": "event-1", "chain": None},
        {"event_seq": None, "event_id": "event-1", "chain": None},
    ],
)
def test_what_came_with_another_content_is_inconsistent(
    story: Story, fields: dict[str, Any]
) -> None:
    story.commit("m1")
    event = story.commit("m2")
    seen: dict[str, Any] = {
        "event_id": event.event_id,
        "event_seq": 2,
        "chain": event.chain,
    } | fields
    story.follow(cursor=1).saw(2, **seen)
    assert story.verdicts() == [Verdict.INCONSISTENT_OFFSET]


def test_what_a_message_does_not_tell_is_not_compared(story: Story) -> None:
    event = story.commit("m1")
    story.follow().saw(1, event_id=event.event_id)
    story.follow().saw(1, event_id=event.event_id, chain=f"{event.chain:016x}")
    assert story.check() == []


def test_an_event_of_another_entity_is_inconsistent(story: Story) -> None:
    event = story.commit("m1", "box:b")
    story.follow("box:a").delivered(event, is_workspace_stream=False)
    assert story.verdicts() == [Verdict.INCONSISTENT_OFFSET]


def test_two_readers_that_saw_two_events_at_one_number(story: Story) -> None:
    """Split brain: neither of the two needs to be in the log."""
    story.follow().saw(1, event_id="mine", event_seq=1)
    story.follow().saw(1, event_id="yours", event_seq=1)
    assert Counter(story.verdicts()) == {Verdict.ABORTED_READ: 2, Verdict.INCONSISTENT_OFFSET: 1}


# ------------------------------------------------------------------------------------------- unseen


def test_who_follows_has_all_when_all_has_settled(story: Story) -> None:
    followed = story.follow()
    first, second = story.write("m1"), story.commit("m2")
    followed.delivered(first, is_workspace_stream=True)
    assert story.check() == []
    story.recorder.settled()
    assert story.verdicts() == [Verdict.UNSEEN]
    followed.delivered(second, is_workspace_stream=True)
    assert story.check() == []


def test_who_left_before_or_came_after_needs_nothing(story: Story) -> None:
    gone, cut = story.follow(), story.follow(connection="cut")
    story.write("m1")
    gone.ended()
    story.recorder.connection_ended("cut", 1006)
    story.recorder.settled()
    story.follow()
    assert cut.name != gone.name
    assert story.check() == []


def test_only_the_first_end_of_a_known_subscription_counts(story: Story) -> None:
    story.follow().ended()
    event = story.write("m1")
    Followed(story.recorder, "unknown").delivered(event, is_workspace_stream=True)
    Followed(story.recorder, "unknown").ended()
    story.recorder.settled()
    story.recorder.connection_ended("socket")
    assert story.check() == []


def test_who_leaves_after_all_had_settled_had_to_have_it(story: Story) -> None:
    followed = story.follow()
    story.write("m1")
    story.recorder.settled()
    followed.ended()
    assert story.verdicts() == [Verdict.UNSEEN]


def test_what_is_asked_for_after_all_had_settled_is_not_due(story: Story) -> None:
    story.follow()
    story.recorder.settled()
    story.write("m1")
    assert story.check() == []


def test_an_entity_s_reader_has_its_part(story: Story) -> None:
    followed = story.follow("box:a")
    followed.delivered(story.write("m1"), is_workspace_stream=False)
    story.write("m2", "box:b")
    story.recorder.settled()
    assert story.check() == []
    story.follow("box:b", cursor=0)
    story.recorder.settled()
    assert story.verdicts() == [Verdict.UNSEEN]


def test_who_came_only_just_needs_nothing_yet(story: Story) -> None:
    story.write("m1")  # at 1 and 2
    story.follow()
    assert story.verdicts(seen_within_s=0.5) == []
    assert story.verdicts(seen_within_s=0) == [Verdict.UNSEEN]


def test_an_event_may_take_as_long_as_is_said(story: Story) -> None:
    story.follow()
    story.write("m1")  # at 2 and 3
    story.recorder.read("bob", W).ok()  # at 4 and 5
    assert story.verdicts(seen_within_s=3) == []
    assert story.verdicts(seen_within_s=2) == [Verdict.UNSEEN]
    assert story.verdicts(seen_within_s=0) == [Verdict.UNSEEN]
    story.recorder.connection_ended("socket")
    assert story.verdicts(seen_within_s=0) == []


# --------------------------------------------------------------------------------------- revocation


def test_nothing_above_the_removal_of_a_member(story: Story) -> None:
    followed = story.follow(user_id="u1")
    others = story.follow(user_id="u2")
    for event in (
        story.write("m1", "member:u1", type_="member_added"),
        story.write("m2", "member:u1", type_="member_removed"),
    ):
        followed.delivered(event, is_workspace_stream=True)
        others.delivered(event, is_workspace_stream=True)
    last = story.write("m3")
    others.delivered(last, is_workspace_stream=True)
    story.recorder.settled()
    assert story.check() == []
    followed.delivered(last, is_workspace_stream=True)
    assert story.verdicts() == [Verdict.AFTER_REVOCATION]


def test_a_member_again_sees_all_by_a_new_subscription_only(story: Story) -> None:
    old = story.follow(user_id="u1")
    story.write("m1", "member:u1", type_="member_added")
    story.write("m2", "member:u1", type_="member_removed")
    story.write("m3")
    back = story.ask("m4")
    new = story.follow(user_id="u1")
    story.commit("m4", "member:u1", type_="member_added")
    back.ok(4)
    for event in story.log:
        new.delivered(event, is_workspace_stream=True)
    assert story.check() == []
    for event in story.log:
        old.delivered(event, is_workspace_stream=True)
    assert story.verdicts() == [Verdict.AFTER_REVOCATION]


def test_a_delivery_that_tells_its_id_alone_is_placed_by_the_log(story: Story) -> None:
    followed = story.follow("box:a", user_id="u1")
    story.write("m1", "member:u1", type_="member_removed")
    followed.saw(1, event_id=story.write("m2").event_id)
    assert story.verdicts() == [Verdict.AFTER_REVOCATION]


def test_each_removal_counts(story: Story) -> None:
    story.write("m1", "member:u1", type_="member_added")
    story.write("m2", "member:u1", type_="member_removed")
    story.write("m3", "member:u1", type_="member_added")
    followed = story.follow(user_id="u1")
    story.write("m4", "member:u1", type_="member_removed")
    for event in story.log:
        followed.delivered(event, is_workspace_stream=True)
    assert story.check() == []
    followed.delivered(story.write("m5"), is_workspace_stream=True)
    assert story.verdicts() == [Verdict.AFTER_REVOCATION]


def test_a_member_whom_nobody_is_known_to_have_taken_back_may_see_all(story: Story) -> None:
    followed = story.follow(user_id="u1")
    story.commit("m1", "member:u1", type_="member_removed")
    story.commit("m2", "member:u1", type_="member_added")
    story.recorder.settled()
    assert story.verdicts() == [Verdict.UNSEEN]
    followed.delivered(story.log[0], is_workspace_stream=True)  # after which it may have been ended
    assert story.check() == []
    for event in story.log[1:]:
        followed.delivered(event, is_workspace_stream=True)
    assert story.check() == []


# --------------------------------------------------------------------------------------------- acks


def test_a_stored_cursor_that_moves_back_is_found(story: Story) -> None:
    story.stands_at(3)
    story.stands_at(3)
    story.stands_at(5)
    assert story.check() == []
    story.stands_at(4)
    assert story.verdicts() == [Verdict.ACK_REGRESS]


@pytest.mark.parametrize("durable", [True, False])
def test_a_cursor_that_moved_back_is_measured_by_where_it_was(story: Story, durable: bool) -> None:
    for cursor in (5, 3, 4):
        story.stands_at(cursor, durable=durable)
    found = story.check()
    assert [violation.verdict for violation in found] == [Verdict.ACK_REGRESS] * 2
    assert all(violation.exhibits[1:] == (story.history[1],) for violation in found)


def test_an_ack_that_was_accepted_is_kept(story: Story) -> None:
    for number in range(3):
        story.write(f"m{number}")
    story.recorder.ack(key_of(), 3).ok()
    story.stands_at(3)
    story.recorder.ack(key_of(), 2).failed("STALE_CURSOR", {"current_cursor": 3})
    story.recorder.ack(key_of(), 9).failed("CURSOR_AHEAD", {"latest_seq": 3})
    story.stands_at(3)
    assert story.check() == []
    story.recorder.ack(key_of(), 2).ok()
    assert story.verdicts() == [Verdict.ACK_REGRESS]


def test_a_refusal_that_tells_a_lower_cursor_is_found(story: Story) -> None:
    for number in range(5):
        story.write(f"m{number}")
    story.recorder.ack(key_of(), 5).ok()
    story.recorder.ack(key_of(), 2).failed("STALE_CURSOR", {"current_cursor": 4})
    assert story.verdicts() == [Verdict.ACK_REGRESS]


def test_an_ack_of_what_was_not_written_yet_is_found(story: Story) -> None:
    story.write("m1")
    for stream_id in (f"workspace:{W}", "box:a"):
        story.recorder.ack(key_of("c", stream_id), 0).ok()
        story.recorder.ack(key_of("c", stream_id), 1).ok()
        story.recorder.ack(key_of("c", stream_id), 2).failed("CURSOR_AHEAD", {"latest_seq": 1})
    under_way = story.recorder.ack(key_of("d"), 2)
    asked = story.ask("m2")
    under_way.ok()
    story.commit("m2")
    asked.unknown()
    assert story.check() == []
    for stream_id in (f"workspace:{W}", "box:a"):
        story.recorder.ack(key_of("c", stream_id), 3).ok()
    story.write("m3")
    assert story.verdicts() == [Verdict.ACK_AHEAD] * 2
    story.lose_tail(0)
    assert story.check() == []


def test_cursors_are_told_apart(story: Story) -> None:
    story.stands_at(5)
    story.recorder.cursor(key_of("d")).stands_at(1)
    story.recorder.cursor(key_of("c", "box:a")).stands_at(1)
    assert story.check() == []


def test_acks_under_way_are_in_any_order(story: Story) -> None:
    for number in range(3):
        story.write(f"m{number}")
    slow = story.recorder.cursor(key_of())
    story.recorder.ack(key_of(), 3).ok()
    slow.stands_at(0)
    assert story.check() == []


def test_in_the_end_the_cursors_stand_where_they_were(story: Story) -> None:
    story.stands_at(5)
    assert story.verdicts(cursors={key_of(): 5}) == []
    assert story.verdicts(cursors={key_of(): 4}) == [Verdict.ACK_REGRESS]
    assert story.verdicts(cursors={}) == [Verdict.ACK_REGRESS]


def test_a_cursor_that_is_gone_in_the_end_has_moved_back(story: Story) -> None:
    story.stands_at(1)
    assert story.verdicts(cursors={}) == [Verdict.ACK_REGRESS]


@pytest.mark.parametrize("unwritten_s", [3, 4])
def test_a_crash_forgets_what_was_not_written_and_nothing_else(
    story: Story, unwritten_s: float
) -> None:
    story.stands_at(3)  # at 1 and 2
    story.stands_at(5)  # at 3 and 4
    story.stands_at(6)  # at 5 and 6
    story.recorder.crashed(acks_unwritten_s=unwritten_s)  # at 7: since 4 or 3
    story.stands_at(3)
    assert story.check() == []
    story.stands_at(2)
    assert story.verdicts() == [Verdict.ACK_REGRESS]


def test_what_the_store_told_is_never_forgotten(story: Story) -> None:
    story.stands_at(5)
    story.stands_at(5, durable=True)
    story.recorder.crashed(acks_unwritten_s=100)
    story.stands_at(4)
    assert story.verdicts() == [Verdict.ACK_REGRESS]


def test_an_answer_that_a_crash_overtook_says_nothing(story: Story) -> None:
    story.stands_at(3)
    slow = story.recorder.cursor(key_of())
    story.recorder.crashed(acks_unwritten_s=100)
    slow.stands_at(7)
    story.stands_at(0)
    assert story.check() == []
