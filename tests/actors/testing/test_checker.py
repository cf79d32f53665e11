"""The checker: for each verdict what trips it, and a near miss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest

from dalsegno.actors import Receipt
from dalsegno.actors.testing import (
    Answered,
    Recorder,
    Report,
    RolledBack,
    RunRule,
    Verdict,
    check,
    dump_record,
    load_history,
    merge_histories,
)
from dalsegno.protocol import Event, OutcomeUnknownError, OverloadedError, Reject
from tests.actors._story import Model, Story, W, conflict, head_at, key_of, relinked, replaced


@pytest.fixture
def story() -> Story:
    return Story()


# ------------------------------------------------------------------------------------------ effects


def test_what_was_acknowledged_and_is_there_is_fine(story: Story) -> None:
    story.write("m1")
    story.write("m2", "box:b")
    assert story.check() == []


def test_an_acknowledged_command_that_is_not_in_the_log_is_a_lost_write(story: Story) -> None:
    asked = story.ask("m1")
    asked.ok(1, 1)
    (violation,) = story.check()
    assert violation.verdict is Verdict.LOST_WRITE
    assert "m1" in violation.sentence


def test_a_log_that_was_not_given_has_nothing(story: Story) -> None:
    story.write("m1")
    found = check(story.history, {})
    assert [violation.verdict for violation in found] == [Verdict.LOST_WRITE]


def test_a_group_is_one_effect(story: Story) -> None:
    asked = story.ask("m1", events_min=2, events_max=2, is_group=True)
    story.commit("m1", command_id="c")
    story.commit("m1", "box:b", command_id="d")
    asked.ok(2, 1, stream_id="box:b")
    assert story.check() == []


def test_half_a_group_is_a_lost_write(story: Story) -> None:
    asked = story.ask("m1", events_min=2, events_max=2, is_group=True)
    story.commit("m1", command_id="c")
    asked.ok(1, 1)
    assert story.verdicts() == [Verdict.LOST_WRITE]


def test_a_group_with_something_in_between_is_several_effects(story: Story) -> None:
    asked = story.ask("m1", events_min=2, events_max=2, is_group=True)
    story.commit("m1", command_id="c")
    story.write("m2", "box:c")
    story.commit("m1", "box:b", command_id="d")
    asked.ok(3, 1, stream_id="box:b")
    assert Verdict.DUPLICATE in story.verdicts()


def test_half_a_command_is_a_lost_write(story: Story) -> None:
    asked = story.ask("m1", events_min=2)
    story.commit("m1", command_id="c")
    asked.ok(1, 1)
    assert story.verdicts() == [Verdict.LOST_WRITE]
    story.commit("m1", command_id="c", seconds=1)
    assert Verdict.LOST_WRITE not in story.verdicts()


def test_a_command_that_changes_nothing_needs_no_event(story: Story) -> None:
    story.write("m1")
    story.ask("m2", events_min=0).ok(1, 1)
    story.ask("m3", events_min=0).ok()
    assert story.check() == []


def test_a_command_that_changed_nothing_saw_what_was_known_and_no_more(story: Story) -> None:
    story.write("m1")
    story.write("m2")
    story.ask("m3", events_min=0).ok(1)
    story.ask("m4", events_min=0).ok(3)
    assert story.verdicts() == [Verdict.STALE_READ, Verdict.ABORTED_READ]


def test_a_repeat_of_one_that_changed_nothing_saw_what_the_first_saw(story: Story) -> None:
    story.write("m1")
    story.ask("m2", events_min=0).unknown()
    story.write("m3")
    story.ask("m2", events_min=0).ok(1)
    story.ask("m4", events_min=0).ok(1, repeated=True)
    assert story.check() == []


@pytest.mark.parametrize("outcome", ["unknown", "open"])
@pytest.mark.parametrize("is_there", [True, False])
def test_of_an_unknown_outcome_both_are_fine(story: Story, outcome: str, is_there: bool) -> None:
    asked = story.ask("m1")
    if is_there:
        story.commit("m1")
    if outcome == "unknown":
        asked.failed("OUTCOME_UNKNOWN")
    assert story.check() == []


def test_a_command_with_effects_of_two_commands_is_a_duplicate(story: Story) -> None:
    asked = story.ask("m1")
    story.commit("m1")
    asked.unknown()
    again = story.ask("m1")
    again.ok(1, 1)
    assert story.check() == []
    story.commit("m1")
    assert story.verdicts() == [Verdict.DUPLICATE]


def test_a_command_in_two_commits_is_a_duplicate(story: Story) -> None:
    asked = story.ask("m1")
    story.commit("m1", command_id="c")
    story.commit("m2", "box:b")
    story.commit("m1", command_id="c")
    asked.ok(3, 2)
    assert story.verdicts() == [Verdict.DUPLICATE]


def test_a_command_in_two_commits_that_follow_each_other_is_a_duplicate(story: Story) -> None:
    story.commit("m1", command_id="c", seconds=1)
    story.commit("m1", command_id="c", seconds=2)
    assert story.verdicts() == [Verdict.DUPLICATE]


def test_a_command_with_several_events_in_one_commit_is_none(story: Story) -> None:
    asked = story.ask("m1", stream_id="box:a", events_max=2)
    story.commit("m1", command_id="c", seconds=1)
    story.commit("m1", command_id="c", seconds=1)
    asked.ok(2, 2)
    assert story.check() == []


def test_more_events_than_a_command_leads_to_are_a_duplicate(story: Story) -> None:
    asked = story.ask("m1", events_max=1)
    story.commit("m1", command_id="c", seconds=1)
    story.commit("m1", command_id="c", seconds=1)
    asked.ok(2, 2)
    assert story.verdicts() == [Verdict.DUPLICATE]


def test_an_event_that_is_there_twice_is_a_duplicate(story: Story) -> None:
    first = story.commit("m1")
    story.log.append(replaced(first, event_seq=2, stream_seq=2, command_id="other"))
    story.log[:] = relinked(story.log)
    assert story.verdicts() == [Verdict.DUPLICATE]


def test_what_failed_and_is_in_the_log_is_a_ghost(story: Story) -> None:
    asked = story.ask("m1")
    story.commit("m1")
    asked.failed("OVERLOADED")
    assert story.verdicts() == [Verdict.GHOST_FAIL]


def test_what_failed_once_and_is_there_by_another_attempt_is_none(story: Story) -> None:
    story.ask("m1").failed("OVERLOADED")
    asked = story.ask("m1")
    story.commit("m1")
    asked.unknown()
    assert story.check() == []


# ----------------------------------------------------------------------------------------- receipts


@pytest.mark.parametrize(("event_seq", "version"), [(2, 1), (1, 2), (2, None), (None, 2)])
def test_a_receipt_that_the_log_contradicts_is_wrong(
    story: Story, event_seq: int | None, version: int | None
) -> None:
    asked = story.ask("m1", stream_id="box:a")
    story.commit("m1")
    story.commit("m2", "box:b")
    asked.ok(event_seq, version)
    assert story.verdicts() == [Verdict.WRONG_RECEIPT]


@pytest.mark.parametrize(("event_seq", "version"), [(1, 1), (1, None), (None, 1), (None, None)])
def test_what_a_receipt_does_not_tell_is_not_wrong(
    story: Story, event_seq: int | None, version: int | None
) -> None:
    asked = story.ask("m1", stream_id="box:a")
    story.commit("m1")
    asked.ok(event_seq, version)
    assert story.check() == []


def test_a_command_without_a_marker_is_found_by_its_id(story: Story) -> None:
    asked = story.ask(None)
    story.commit(None, command_id="c")
    receipt = Receipt(workspace_id=W, event_seq=1, stream_id="box:a", version=1, command_id="c")
    asked.receipt(receipt)
    assert story.check() == []
    other = story.ask(None)
    other.receipt(msgspec.structs.replace(receipt, event_seq=2, version=2, command_id="d"))
    assert story.verdicts() == [Verdict.LOST_WRITE]


def test_a_receipt_of_a_command_that_is_not_there_is_wrong(story: Story) -> None:
    asked = story.ask("m1")
    story.commit("m1", command_id="c")
    asked.ok(1, 1, command_id="d")
    assert story.verdicts() == [Verdict.WRONG_RECEIPT]


def test_the_version_of_an_entity_that_a_command_did_not_change_is_not_judged(story: Story) -> None:
    asked = story.ask("m1", stream_id="box:a")
    story.commit("m1", "box:b")
    asked.ok(1, 7)
    assert story.check() == []


def test_another_marker_finds_what_the_payload_names(story: Story) -> None:
    asked = story.ask('{"n":1}')
    story.commit(None)
    asked.ok(1, 1)
    assert story.verdicts() == [Verdict.LOST_WRITE]
    assert story.verdicts(marker_of=lambda event: event.payload) == []


# ---------------------------------------------------------------------------------------- real time


def test_a_number_below_one_that_was_known_before_is_out_of_order(story: Story) -> None:
    late = story.commit("m2")
    asked = story.ask("m1")
    story.commit("m1", "box:b")
    asked.ok(2, 1)
    asked = story.ask("m2")
    asked.ok(late.event_seq, 1)
    (violation,) = story.check()
    assert violation.verdict is Verdict.REAL_TIME
    assert [type(exhibit).__name__ for exhibit in violation.exhibits] == [
        "CommandSent",
        "Event",
        "Answered",
    ]


def test_concurrent_commands_stand_in_any_order(story: Story) -> None:
    first, second = story.ask("m1"), story.ask("m2")
    story.commit("m2")
    story.commit("m1")
    first.ok(2)
    second.ok(1)
    assert story.check() == []


def test_a_delivery_tells_the_time_as_well(story: Story) -> None:
    followed = story.follow(cursor=1)
    early = story.commit("m2")
    event = story.commit("m1")
    followed.delivered(event, is_workspace_stream=True)
    asked = story.ask("m2")
    asked.ok(early.event_seq)
    assert story.verdicts() == [Verdict.REAL_TIME]


def test_what_was_seen_before_it_was_asked_for_is_out_of_order(story: Story) -> None:
    event = story.commit("m1")
    story.deliver(1)
    story.ask("m1").ok(event.event_seq, 1)
    assert story.verdicts() == [Verdict.REAL_TIME]


def test_the_log_tells_the_number_that_a_receipt_does_not(story: Story) -> None:
    early = story.commit("m2")
    asked = story.ask("m1")
    story.commit("m1")
    asked.ok()
    story.ask("m2").ok(early.event_seq)
    assert story.verdicts() == [Verdict.REAL_TIME]


def test_a_number_that_nothing_has_is_not_known(story: Story) -> None:
    story.ask("m1").ok(1, 1)
    story.write("m2")
    assert story.verdicts() == [Verdict.LOST_WRITE]


def test_a_repeat_has_the_number_of_its_first_attempt(story: Story) -> None:
    asked = story.ask("m1")
    story.commit("m1", command_id="c")
    asked.unknown()
    story.write("m2")
    story.ask("m1").ok(1, 1)
    story.ask("m3").ok(1, 1, command_id="c", repeated=True)  # by the key alone: another marker
    assert story.check() == []


# --------------------------------------------------------------------------------------- rejections


def test_a_conflict_with_a_version_that_never_was_is_a_phantom(story: Story) -> None:
    story.write("m1")
    conflict(story.ask("m2", stream_id="box:a"), 1)
    assert story.check() == []
    conflict(story.ask("m3", stream_id="box:a"), 2)
    assert story.verdicts() == [Verdict.PHANTOM_REJECT]


def test_a_rejection_of_what_was_lost_and_came_later_by_another_is_a_phantom(story: Story) -> None:
    """The commit that it saw was lost; a later command brought the same version."""
    asked = story.ask("m1", stream_id="box:a")
    conflict(story.ask("m2", stream_id="box:a"), 1)
    asked.failed("STORE_UNAVAILABLE")
    story.write("m3")
    assert story.verdicts() == [Verdict.PHANTOM_REJECT]


def test_a_rejection_of_what_was_under_way_is_none(story: Story) -> None:
    asked, rejected = story.ask("m1", stream_id="box:a"), story.ask("m2", stream_id="box:a")
    event = story.commit("m1")
    conflict(rejected, 1)
    asked.ok(event.event_seq, 1)
    assert story.check() == []


def test_a_rejection_by_an_old_state_is_a_phantom(story: Story) -> None:
    story.write("m1")
    story.write("m2")
    conflict(story.ask("m3", stream_id="box:a"), 1)
    assert story.verdicts() == [Verdict.PHANTOM_REJECT]


def test_a_conflict_with_nothing_is_fine_where_nothing_is_known(story: Story) -> None:
    rejected = story.ask("m2", stream_id="box:a")
    story.write("m1")
    conflict(rejected, 0)
    assert story.check() == []


def test_other_rejections_are_not_judged(story: Story) -> None:
    story.ask("m1", stream_id="box:a").failed("STATE_CONFLICT", {"current_version": 9})
    story.ask("m2", stream_id="box:a").failed("VERSION_CONFLICT")
    conflict(story.ask("m3"), 9)
    assert story.check() == []


# --------------------------------------------------------------------------------------- unanswered


def test_who_still_waits_when_all_has_settled_is_unanswered(story: Story) -> None:
    story.ask("m1")
    story.recorder.read("bob", W)
    assert story.check() == []
    story.recorder.settled()
    assert story.verdicts() == [Verdict.UNANSWERED, Verdict.UNANSWERED]


def test_who_gave_up_or_asked_later_is_not(story: Story) -> None:
    story.ask("m1").unknown()
    story.recorder.settled()
    story.ask("m2")
    assert story.check() == []


# -------------------------------------------------------------------------------------------- reads


def test_a_read_of_less_than_it_needs_is_stale(story: Story) -> None:
    story.write("m1")
    story.write("m2")
    story.recorder.read("bob", W, min_seq=2).ok(2)
    story.recorder.read("bob", W, min_seq=2, stream_id="box:a").ok(version=2)
    story.recorder.read("bob", W, min_seq=2, stream_id="box:a").ok(2)
    assert story.check() == []
    story.recorder.read("bob", W, min_seq=2).ok(1)
    story.recorder.read("bob", W, min_seq=2, stream_id="box:a").ok(version=1)
    assert story.verdicts() == [Verdict.STALE_READ, Verdict.STALE_READ]


def test_a_read_that_needs_nothing_of_an_entity_may_show_an_older_one(story: Story) -> None:
    story.write("m1")
    story.write("m2", "box:b")
    story.write("m3")
    story.recorder.read("bob", W, min_seq=2, stream_id="box:a").ok(version=1)
    story.recorder.read("bob", W, min_seq=2, stream_id="box:a").failed(OverloadedError())
    assert story.check() == []


def test_a_client_reads_what_it_has_a_receipt_for(story: Story) -> None:
    story.write("m1")
    for client, version in (("bob", 0), ("alice", 1)):
        story.recorder.read(client, W, stream_id="box:a").ok(version=version)
    assert story.check() == []
    story.ask("m2").unknown()
    story.commit("m2")
    story.recorder.read("alice", W, stream_id="box:a").ok(version=1)
    assert story.check() == []
    story.recorder.read("alice", W, stream_id="box:a").ok(version=0)
    assert story.verdicts() == [Verdict.STALE_READ]
    story.lose_tail(0)
    assert story.check() == []


def test_a_receipt_is_worth_nothing_where_its_event_was_lost(story: Story) -> None:
    story.commit("m1")
    story.commit("m2")
    story.ask("m3", events_min=0).ok(2, 2, stream_id="box:a")
    story.lose_tail(1)
    story.commit("m4")
    story.recorder.read("alice", W, stream_id="box:a").ok(version=1)
    assert story.check() == []


def test_what_a_removed_user_wrote_is_found(story: Story) -> None:
    for marker in ("m1", "m2", "m3", "m4"):
        story.ask(marker, user_id="u").unknown()
    story.commit("m1", "member:u", type_="member_removed", command_id="c")
    story.commit("m1", "box:b", command_id="c", seconds=1)  # it removed itself
    story.commit("m0", "member:v", type_="member_removed")
    story.commit("m0", "member:u", type_="member_added")
    story.commit("m2")
    assert story.check() == []
    story.commit("m0", "member:u", type_="member_removed")
    story.commit("host", "box:c")  # for the same user, perhaps: nobody said by which role
    assert story.check() == []
    story.commit("m3")
    story.commit("m4", "member:u", type_="member_added")
    assert story.verdicts() == [Verdict.AFTER_REVOCATION] * 2


def test_a_read_of_what_never_was_is_aborted(story: Story) -> None:
    story.write("m1")
    story.recorder.read("bob", W).ok(2)
    story.recorder.read("bob", W, stream_id="box:a").ok(version=2)
    story.recorder.read("bob", W, stream_id="box:b").ok(version=1)
    assert story.verdicts() == [Verdict.ABORTED_READ] * 3


def test_a_read_of_what_was_asked_for_only_later_is_aborted(story: Story) -> None:
    story.recorder.read("bob", W, stream_id="box:a").ok(version=1)
    story.write("m1")
    assert story.verdicts() == [Verdict.ABORTED_READ]


def test_a_read_of_what_was_written_after_a_removal_is_found(story: Story) -> None:
    story.write("m1")
    story.write("m2", "member:u", type_="member_removed")

    def read(version: int) -> None:
        story.recorder.read("u", W, stream_id="box:a", user_id="u").ok(version=version)

    read(1)
    story.recorder.read("host", W, stream_id="box:a").ok(version=1)
    assert story.check() == []
    story.write("m3")
    story.recorder.read("host", W, stream_id="box:a").ok(version=2)
    story.recorder.read("u", W, stream_id="box:a", user_id="u").failed(Reject("ROLE_FORBIDDEN"))
    assert story.check() == []
    read(2)
    assert story.verdicts() == [Verdict.AFTER_REVOCATION]


def test_a_read_by_who_may_have_been_a_member_again_is_fine(story: Story) -> None:
    story.write("m1", "member:u", type_="member_removed")
    story.write("m2")
    asked = story.ask("m3", stream_id="member:u")
    story.recorder.read("u", W, stream_id="box:a", user_id="u").ok(version=1)
    story.commit("m3", "member:u", type_="member_added")
    asked.unknown()
    assert story.check() == []


def test_a_stored_cursor_above_what_is_left_of_what_was_acked_is_found(story: Story) -> None:
    for marker in ("m1", "m2", "m3"):
        story.write(marker)
    for stream_id in (f"workspace:{W}", "box:a"):
        story.recorder.ack(key_of("c", stream_id), 3).ok()
    both = [key_of("c", f"workspace:{W}"), key_of("c", "box:a")]
    assert story.verdicts(cursors=dict.fromkeys(both, 3)) == []
    assert story.verdicts(cursors=dict.fromkeys(both, 4)) == [Verdict.ACK_AHEAD] * 2
    story.lose_tail(1)
    for marker in ("m4", "m5", "m6"):
        story.write(marker)
    assert story.verdicts(cursors=dict.fromkeys(both, 1)) == []
    assert story.verdicts(cursors=dict.fromkeys(both, 2)) == [Verdict.ACK_AHEAD] * 2


def test_an_epoch_that_goes_down_is_found(story: Story) -> None:
    for epoch in (1, 3, 3):
        story.recorder.read("o", W).head(head_at(0, epoch=epoch))
    assert story.verdicts(heads={W: head_at(0, epoch=3)}) == []
    assert story.verdicts(heads={W: head_at(0, epoch=2)}) == [Verdict.EPOCH_REGRESS]
    story.recorder.read("o", W).head(head_at(0, epoch=2))
    assert story.verdicts() == [Verdict.EPOCH_REGRESS]


def test_an_epoch_that_was_read_before_may_be_told_after(story: Story) -> None:
    slow = story.recorder.read("o", W)
    story.recorder.read("o", W).head(head_at(0, epoch=2))
    slow.head(head_at(0, epoch=1))
    assert story.check() == []


# -------------------------------------------------------------------------------------- a lost tail


def lost(story: Story) -> Event:
    """Write three, of which the last two are lost; tell the second."""
    story.write("m1")
    second = story.write("m2")
    story.write("m3")
    story.lose_tail(1)
    return second


def test_what_was_lost_with_the_tail_is_excused(story: Story) -> None:
    followed = story.follow()
    story.stands_at(3)
    story.recorder.read("bob", W, stream_id="box:a", min_seq=0).ok(version=0)
    lost(story)
    followed.delivered(story.log[0], is_workspace_stream=True)
    story.stands_at(0)
    story.recorder.read("o", W).head(head_at(1))
    story.write("m4")
    story.recorder.settled()
    assert story.check() == []


def test_what_was_seen_of_the_tail_is_excused(story: Story) -> None:
    followed, entity = story.follow(), story.follow("box:a")
    story.write("m1")
    event = story.write("m2")
    for one, whole in ((followed, True), (entity, False)):
        one.delivered(story.log[0], is_workspace_stream=whole)
        one.delivered(event, is_workspace_stream=whole)
    story.recorder.read("bob", W).ok(2)
    story.recorder.read("bob", W, stream_id="box:a").ok(version=2)
    conflict(story.ask("m3", stream_id="box:a"), 2)
    story.ask("m4", events_min=0).ok(2)
    story.lose_tail(1)
    story.write("m5")
    story.deliver(1, 2)
    assert story.check() == []


def test_only_numbers_above_what_was_kept_are_excused(story: Story) -> None:
    """Also if a delivery has its number in an entity's stream alone."""
    for stream_id in ("box:b", "box:b", "box:a", "box:a"):
        story.write(f"m{len(story.log)}", stream_id)
    entity, whole = story.follow("box:a"), story.follow(cursor=2)
    entity.saw(1, event_id=story.log[2].event_id)
    entity.saw(2, event_id=story.log[3].event_id)
    story.lose_tail(3)
    assert story.check() == []
    whole.saw(3, event_id="never")
    assert story.verdicts() == [Verdict.ABORTED_READ]
    entity.saw(1, event_id="never")
    assert Counter(story.verdicts())[Verdict.ABORTED_READ] == 2


def test_what_was_under_way_meanwhile_is_excused(story: Story) -> None:
    story.write("m1")
    story.write("m2")
    asked = story.ask("m3", stream_id="box:a")
    read = story.recorder.read("bob", W)
    story.lose_tail(1)
    story.commit("m3")
    asked.ok(2, 2)
    read.ok(2)
    assert story.check() == []


def test_only_what_was_lost_is_excused(story: Story) -> None:
    lost(story)
    story.ask("m4").ok(2, 2)
    assert story.verdicts() == [Verdict.LOST_WRITE]
    story.log.clear()
    assert story.verdicts() == [Verdict.LOST_WRITE, Verdict.LOST_WRITE]


def test_what_comes_later_and_is_not_there_is_not_excused(story: Story) -> None:
    second = lost(story)
    story.follow(cursor=1).delivered(second, is_workspace_stream=True)
    assert story.verdicts() == [Verdict.ABORTED_READ]


def test_what_is_known_to_be_lost_may_come_later_and_then_nothing_else(story: Story) -> None:
    """From a node that has not noticed yet; what it sends next is of that history too."""
    story.write("m1")
    second = story.write("m2")
    story.lose_tail(1, is_known=True)
    followed = story.follow(cursor=1)
    followed.delivered(second, is_workspace_stream=True)
    assert story.check() == []
    story.commit("m3")
    followed.delivered(story.commit("m4"), is_workspace_stream=True)
    assert story.verdicts() == [Verdict.INCONSISTENT_OFFSET]


def test_who_goes_on_silently_in_another_history_is_found(story: Story) -> None:
    followed = story.follow()
    story.write("m1")
    second = story.write("m2")
    followed.delivered(story.log[0], is_workspace_stream=True)
    followed.delivered(second, is_workspace_stream=True)
    story.lose_tail(1)
    story.write("m3")
    followed.delivered(story.write("m4"), is_workspace_stream=True)
    assert story.verdicts() == [Verdict.INCONSISTENT_OFFSET]


# ---------------------------------------------------------------------------------------------- log


def test_a_dense_log_is_fine(story: Story) -> None:
    for name in "abab":
        story.commit(None, f"box:{name}")
    head = head_at(4, story.log[-1].chain)
    assert story.verdicts(heads={W: head}) == []
    assert story.verdicts(heads={W: head_at(3, story.log[-1].chain)}) == [Verdict.LOG_GAP]
    assert story.verdicts(heads={W: head_at(4)}) == [Verdict.LOG_GAP]
    assert check([], {}, heads={W: head_at(0)}) == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda log: log[1:],
        lambda log: [log[0], log[2]],
        lambda log: [log[0], replaced(log[1], event_seq=1), log[2]],
        lambda log: [log[0], replaced(log[1], stream_seq=3), log[2]],
        lambda log: [log[0], replaced(log[1], workspace_id="x"), log[2]],
    ],
)
def test_a_log_with_a_hole_is_found(
    story: Story, broken: Callable[[list[Event]], list[Event]]
) -> None:
    for _ in range(3):
        story.commit(None)
    story.log[:] = relinked(broken(story.log))
    assert set(story.verdicts()) == {Verdict.LOG_GAP}


def test_a_log_that_was_changed_breaks_the_chain_once(story: Story) -> None:
    for _ in range(3):
        story.commit(None)
    story.log[1] = replaced(story.log[1], payload="{}")
    assert story.verdicts() == [Verdict.LOG_GAP]


def test_time_steps_back(story: Story) -> None:
    story.commit(None, seconds=5)
    story.commit(None, seconds=5)
    assert story.check() == []
    story.commit(None, seconds=4)
    assert story.verdicts() == [Verdict.TIME_REGRESS]


RUNS = RunRule(
    started=frozenset({"run_started"}), terminal=frozenset({"run_succeeded", "run_failed"})
)


@pytest.mark.parametrize(
    ("types", "found"),
    [
        ("run_queued run_started run_succeeded", []),
        ("run_queued", []),
        ("run_queued run_failed", []),
        ("run_started", [Verdict.RUN_TERMINAL]),
        ("run_started run_succeeded run_failed", [Verdict.RUN_TERMINAL]),
        ("run_failed run_failed", [Verdict.RUN_TERMINAL]),
        ("run_started run_failed run_saved", [Verdict.RUN_TERMINAL]),
    ],
)
def test_a_run_that_started_ends_once(story: Story, types: str, found: list[Verdict]) -> None:
    story.commit(None, "running:r", type_="run_started")
    for type_ in types.split():
        story.commit(None, "run:r", type_=type_)
    assert story.verdicts(runs=RUNS) == found
    assert story.verdicts() == []


@pytest.mark.parametrize(
    ("over", "found"),
    [
        ("run_succeeded", [Verdict.RUN_TERMINAL]),
        ("run_cancelled", [Verdict.RUN_TERMINAL]),
        ("x", []),
    ],
)
def test_a_run_has_no_effect_after_its_end(story: Story, over: str, found: list[Verdict]) -> None:
    rule = RunRule(
        started=frozenset({"run_started"}),
        terminal=frozenset({"run_succeeded"}),
        cancelled=frozenset({"run_cancelled"}),
    )
    story.commit(None, "run:r", type_="run_started")
    story.commit(None, causation="run:r")
    story.commit(None, "run:r", type_=over)
    if over != "run_succeeded":
        story.commit(None, causation="run:r")
        story.commit(None, "run:r", type_="run_succeeded")
    else:
        story.commit(None, causation="run:r")
    assert story.verdicts(runs=rule) == found


# ------------------------------------------------------------------------------------- the recorder


def test_a_block_records_how_it_was_left(story: Story) -> None:
    with story.ask("m1") as asked:
        asked.ok(1, 1)
    story.commit("m1")
    for error in (OverloadedError(), OutcomeUnknownError(), Reject("NO"), KeyError()):
        with pytest.raises(type(error)), story.ask("m"):
            raise error
    with story.ask("m"):
        pass
    answers = [record for record in story.history if isinstance(record, Answered)]
    assert [(answer.outcome, answer.code) for answer in answers] == [
        ("ok", None),
        ("fail", "OVERLOADED"),
        ("unknown", "OUTCOME_UNKNOWN"),
        ("fail", "NO"),
        ("unknown", None),
        ("unknown", None),
    ]
    assert repr(story.recorder) == "<Recorder '', 12 records>"
    assert repr(asked) == "<Asked 1, answered>"
    assert repr(story.ask("m")) == "<Asked 7>"
    assert repr(story.follow()) == "<Followed 8>"


def test_a_history_is_written_line_by_line_and_read_again() -> None:
    story = Model(3).run(150)
    lines = b"".join(map(dump_record, story.history))
    assert load_history(lines) == story.history
    assert load_history(lines[:-2]) == story.history[:-1]
    assert load_history(b"") == []
    with pytest.raises(msgspec.MsgspecError):
        load_history(b"{}\n")


def test_several_processes_make_one_history() -> None:
    written: list[bytes] = []
    seconds = iter(range(100))
    first = Recorder(lambda: next(seconds), name="p1-", write=written.append)
    second = Recorder(lambda: next(seconds), name="p2-")
    asked = first.command("a", W, marker="m1")
    second.read("b", W).ok(0)
    asked.unknown()
    second.rolled_back(W, 0)
    history = merge_histories(load_history(b"".join(written)), second.history)
    assert [record.at for record in history] == [0, 1, 2, 3, 4]
    assert isinstance(history[-1], RolledBack)
    assert first.history == load_history(b"".join(written))


def test_a_violation_tells_its_story(story: Story) -> None:
    story.write("m1")
    story.ask("m2", stream_id="box:a").ok(2, 2)
    assert list(map(str, story.check())) == [
        "lost-write in w: command m2 of alice was acknowledged, and is not in the log\n"
        "    3.000000 CommandSent op=2 client=alice workspace_id=w marker=m2 stream_id=box:a\n"
        "    4.000000 Answered op=2 outcome=ok event_seq=2 version=2"
    ]
    story.log[0] = replaced(story.log[0], recorded_at=datetime(2031, 1, 1, tzinfo=UTC))
    assert "log 1: put on box:a (1), command command-1" in str(story.check()[0])


def test_a_report_counts_and_adds_up() -> None:
    story = Story()
    deliver_to = story.follow()
    deliver_to.delivered(story.write("m1"), is_workspace_stream=True)
    story.ask("m2").failed("OVERLOADED")
    story.ask("m3").unknown()
    story.ask("m4")
    story.recorder.ack(key_of(), 1).ok()
    story.recorder.read("bob", W).ok(1)
    report = Report.of(story.history, {W: story.log})
    assert str(report) == (
        "4 commands (1 fail, 1 ok, 1 open, 1 unknown), 1 events in 1 workspaces, "
        "1 deliveries by 1 subscriptions, 1 reads, 1 acks; failed: 1 OVERLOADED"
    )
    twice = report + report
    assert (twice.commands["ok"], twice.failures["OVERLOADED"], twice.events) == (2, 2, 2)
    assert str(Report()).startswith("0 commands (none)")
