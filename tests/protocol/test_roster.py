"""Who is present: seats that are taken, lost, taken over and given up, and the list they make."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol import (
    Limits,
    OverloadedError,
    PresenceChange,
    Reject,
    Roster,
    Seat,
)
from dalsegno.protocol.dialects import GENERIC
from tests._presence import Seen

BEGAN = datetime(2030, 1, 2, tzinfo=UTC)
LINGER_S = Limits().presence_linger_s


def at(now: float) -> datetime:
    return BEGAN + timedelta(seconds=now)


class Table:
    """A roster, with a clock and ids that count."""

    def __init__(self, **limits: Any) -> None:
        self.now = 0.0
        self.limits = Limits(**limits)
        self.roster = Roster("w", "e", at=BEGAN, settles_at=LINGER_S, limits=self.limits)
        self.ids = itertools.count(1)

    def sit(
        self, user: str, client: str = "c", tab: str | None = None, state: bytes = b"null"
    ) -> Seat:
        seat, _ = self.roster.sit(
            user, client, tab, state, seat_id=str(next(self.ids)), since=at(self.now)
        )
        return seat

    def advance(self, seconds: float = 0.0) -> PresenceChange | None:
        self.now += seconds
        return self.roster.advance(self.now, at(self.now))

    def settle(self) -> None:
        self.advance(LINGER_S)


def names(change: PresenceChange | None) -> tuple[list[str], list[str], list[str]]:
    assert change is not None
    return (
        [user.user_id for user in change.joined],
        [user.user_id for user in change.changed],
        [*change.left],
    )


def test_users_join_with_their_first_connection_and_leave_with_their_last() -> None:
    table = Table()
    table.settle()
    one, other = table.sit("ada"), table.sit("ada", "d")
    bob = table.sit("bob")
    assert names(table.advance()) == (["ada", "bob"], [], [])
    assert table.advance() is None
    table.roster.leave(one)
    assert names(table.advance()) == ([], ["ada"], [])
    table.roster.leave(other)
    table.roster.leave(bob)
    assert names(table.advance()) == ([], [], ["ada", "bob"])
    table.roster.leave(other)
    assert table.advance() is None, "given up once"
    assert table.roster.listed.rev == 4
    assert repr(table.roster) == "<Roster of w, 0 seats, 0 users>"


def test_what_comes_and_goes_between_two_changes_is_not_told() -> None:
    table = Table()
    table.settle()
    table.roster.leave(table.sit("ada"))
    seat = table.sit("bob", state=b"1")
    table.roster.say(seat, b"2")
    change = table.advance()
    assert names(change) == (["bob"], [], [])
    assert change is not None
    assert bytes(change.joined[0].connections[0].state) == b"2"
    table.roster.say(seat, b"3")
    table.roster.say(seat, b"2")
    assert table.advance() is None, "as it was"
    table.roster.leave(seat)
    table.sit("bob", state=b"2")
    assert names(table.advance()) == ([], ["bob"], []), "another connection, since later"


def test_who_is_lost_stays_for_a_while_and_leaves_then() -> None:
    table = Table()
    table.settle()
    seat = table.sit("ada")
    table.advance()
    table.roster.lose(seat, table.now)
    assert table.roster.due == table.now + LINGER_S
    assert table.advance(LINGER_S - 0.1) is None
    table.roster.lose(seat, table.now)  # once is enough
    assert names(table.advance(0.1)) == ([], [], ["ada"])
    assert table.roster.due == math.inf


@pytest.mark.parametrize("tab", [None, "t"])
def test_who_returns_in_time_takes_its_place_over_without_a_word(tab: str | None) -> None:
    table = Table()
    table.settle()
    table.sit("zoe")
    old = table.sit("ada", tab=tab, state=b"1")
    table.advance()
    table.roster.lose(old, table.now)
    table.advance(1.0)
    new = table.sit("ada", tab=tab, state=b"1")
    assert new.id == old.id
    assert table.advance() is None
    table.roster.leave(old)
    table.roster.say(old, b"2")
    table.roster.lose(old, table.now)
    assert table.advance(2 * LINGER_S) is None, "the old one counts no longer"
    table.roster.say(new, b"2")
    assert names(table.advance()) == ([], ["ada"], [])


def test_a_tab_takes_its_place_over_before_the_old_connection_is_found_lost() -> None:
    table = Table()
    old = table.sit("ada", tab="t")
    assert table.sit("ada", tab="u").id != old.id
    assert table.sit("ada", "d", tab="t").id != old.id
    assert table.sit("bob", tab="t").id != old.id
    assert table.sit("ada", tab="t").id == old.id


def test_without_a_tab_a_second_connection_is_one_more() -> None:
    table = Table()
    old = table.sit("ada")
    assert table.sit("ada").id != old.id
    assert table.roster.seats == 2


def test_of_too_many_states_the_last_counts_a_second_later() -> None:
    table = Table()
    table.settle()
    seat = table.sit("ada", state=b"0")
    table.advance()
    table.roster.say(seat, b"1", late_at=table.now)
    table.now += 0.5
    table.roster.say(seat, b"2", late_at=table.now)
    assert table.advance(0.4) is None
    assert table.roster.due == pytest.approx(table.now + 0.1)
    change = table.advance(0.2)
    assert change is not None
    assert bytes(change.changed[0].connections[0].state) == b"2"
    table.roster.say(seat, b"3", late_at=table.now)
    table.roster.say(seat, b"4")
    assert names(table.advance()) == ([], ["ada"], [])
    assert table.advance(2.0) is None, "what was said since counts"


def test_who_loses_its_access_is_gone_with_all_that_was_lost() -> None:
    table = Table()
    table.settle()
    seats = [table.sit("ada", each) for each in "abc"]
    table.sit("bob")
    table.advance()
    table.roster.lose(seats[0], table.now)
    table.roster.remove("ada")
    table.roster.remove("nobody")
    assert names(table.advance()) == ([], [], ["ada"])
    assert table.advance(2 * LINGER_S) is None
    table.roster.remove(None)
    assert names(table.advance()) == ([], [], ["bob"])


def test_it_settles_once_everybody_has_had_the_time_to_come() -> None:
    table = Table()
    table.sit("ada")
    change = table.advance()
    assert change is not None
    assert not change.settled
    assert table.roster.due == LINGER_S
    change = table.advance(LINGER_S)
    assert change is not None
    assert (change.settled, change.joined, change.changed, change.left) == (True, [], [], [])
    assert table.roster.due == math.inf


def test_of_many_the_newest_are_shown_and_of_very_many_nobody() -> None:
    table = Table(presence_shown_max=2, presence_listed_max=4)
    table.settle()
    seats = [table.sit(each) for each in "abc"]
    change = table.advance()
    assert change is not None
    assert names(change) == (["b", "c"], [], [])
    assert change.total == 3
    table.sit("d")
    assert names(table.advance()) == (["d"], [], ["b"])
    table.roster.leave(seats[2])
    assert names(table.advance()) == (["b"], [], ["c"])
    table.sit("e")
    table.sit("f")
    change = table.advance()
    assert names(change) == ([], [], ["b", "d"])
    table.sit("g")
    change = table.advance()
    assert change is not None
    assert (change.total, change.joined, change.left) == (6, [], []), "only how many there are"


def test_what_is_shown_has_a_length() -> None:
    state = b'"' + 400 * b"x" + b'"'
    table = Table(presence_bytes_max=1_200)
    table.settle()
    for each in "abcd":
        table.sit(each, state=state)
    assert names(table.advance()) == (["c", "d"], [], [])
    alone = Table(presence_bytes_max=10)
    alone.settle()
    alone.sit("a", state=state)
    alone.sit("b", state=state)
    assert names(alone.advance()) == (["b"], [], []), "but one is"


def test_connections_have_bounds_and_who_was_lost_gives_way() -> None:
    table = Table(presence_connections_max=4, presence_connections_per_user_max=3)
    seats = [table.sit("ada", each) for each in "abc"]
    with pytest.raises(Reject) as refused:
        table.sit("ada", "d")
    assert refused.value.code == "BAD_REQUEST"
    table.roster.lose(seats[1], 0.0)
    table.sit("ada", "d")
    table.sit("bob")
    with pytest.raises(OverloadedError):
        table.sit("eve")
    table.roster.lose(seats[0], 0.0)
    table.sit("eve")
    assert table.roster.seats == 4
    table.advance()
    shown = {user.user_id: len(user.connections) for user in table.roster.listed.users}
    assert shown == {"ada": 2, "bob": 1, "eve": 1}


# ------------------------------------------------------------------------------------- the model


@dataclass
class Guest:
    """A connection, as the rules have it."""

    id: str
    client: str
    tab: str | None
    state: int
    gone_at: float = math.inf


@dataclass
class Party:
    """The rules of presence, said once more, and by somebody with more time."""

    limits: Limits
    guests: dict[str, list[Guest]] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)

    def come(
        self, user: str, client: str, tab: str | None, state: int, id_: str, now: float
    ) -> str:
        here = self.guests.setdefault(user, [])
        for guest in here:
            is_lost = guest.gone_at < math.inf
            if (guest.client, guest.tab) == (client, tab) and (is_lost or tab is not None):
                guest.state, guest.gone_at = state, math.inf
                return guest.id
        if not here:
            self.since[user] = now
        here.append(Guest(id_, client, tab, state))
        return id_

    def go(self, user: str, id_: str) -> None:
        self.guests[user] = [guest for guest in self.guests[user] if guest.id != id_]
        if not self.guests[user]:
            del self.guests[user]

    def sweep(self, now: float) -> None:
        for user in [*self.guests]:
            self.guests[user] = [guest for guest in self.guests[user] if guest.gone_at > now]
            if not self.guests[user]:
                del self.guests[user]

    def shown(self) -> dict[str, list[tuple[str, int]]]:
        users = [*self.guests][-self.limits.presence_shown_max :]
        if len(self.guests) > self.limits.presence_listed_max:
            users = []
        return {user: [(guest.id, guest.state) for guest in self.guests[user]] for user in users}


USERS, CLIENTS, TABS = (
    st.sampled_from("abcdef"),
    st.sampled_from("xy"),
    st.sampled_from([None, "t"]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), USERS, CLIENTS, TABS, st.integers(0, 2)),
        st.tuples(st.sampled_from(["go", "lose"]), st.integers(0, 20)),
        st.tuples(st.just("say"), st.integers(0, 20), st.integers(0, 2)),
        st.tuples(st.just("remove"), USERS),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 4.9, 5.0])),
        st.tuples(st.just("tell")),
    ),
    max_size=60,
)


@given(steps=STEPS, missed=st.sets(st.integers(0, 40)))
def test_a_client_that_takes_lists_and_changes_knows_who_is_present(
    steps: list[tuple[Any, ...]], missed: set[int]
) -> None:
    """Whatever happens in between, and whichever changes it misses, if it asks again then."""
    table = Table(presence_shown_max=3, presence_listed_max=4)
    party, seen = Party(table.limits), Seen()
    seats: dict[str, Seat] = {}
    told = itertools.count()

    def hear(shown: bytes) -> bool:
        return seen.hear(msgspec.json.decode(shown))

    hear(GENERIC.presence(table.roster.listed, None, None))

    def tell() -> None:
        party.sweep(table.now)
        change = table.advance()
        if change is not None and next(told) not in missed:
            assert change.rev == table.roster.listed.rev
            if not hear(GENERIC.presence_diff(change)):
                assert hear(GENERIC.presence(table.roster.listed, None, None))
        elif seen.rev != table.roster.listed.rev:
            return  # it has missed something, and does not know
        assert seen.total == len(party.guests) == table.roster.total
        assert seen.settled is (table.now >= LINGER_S)
        assert {
            user: [(each["id"], each["state"]) for each in one["connections"]]
            for user, one in seen.users.items()
        } == party.shown()
        assert all(
            datetime.fromisoformat(one["since"]) == at(party.since[user])
            for user, one in seen.users.items()
        )

    def known(index: int) -> Seat | None:
        """A seat that is one still; None: there is none."""
        here = [
            seats[guest.id]
            for guests in party.guests.values()
            for guest in guests
            if guest.gone_at == math.inf
        ]
        return here[index % len(here)] if here else None

    for what, *given_ in steps:
        match what, given_:
            case "come", [user, client, tab, state]:
                seat = table.sit(user, client, tab, str(state).encode())
                its = party.come(user, client, tab, state, seat.id, table.now)
                assert its == seat.id
                seats[seat.id] = seat
            case "go", [index] if (seat_ := known(index)) is not None:
                table.roster.leave(seat_)
                party.go(seat_.user_id, seat_.id)
            case "lose", [index] if (seat_ := known(index)) is not None:
                table.roster.lose(seat_, table.now)
                for guest in party.guests[seat_.user_id]:
                    if guest.id == seat_.id:
                        guest.gone_at = table.now + LINGER_S
            case "say", [index, state] if (seat_ := known(index)) is not None:
                table.roster.say(seat_, str(state).encode())
                for guest in party.guests[seat_.user_id]:
                    guest.state = state if guest.id == seat_.id else guest.state
            case "remove", [user]:
                table.roster.remove(user)
                party.guests.pop(user, None)
            case "wait", [seconds]:
                table.now += seconds
            case "tell", _:
                tell()
    tell()
    missed.clear()
    assert party.come("z", "x", None, 0, table.sit("z", "x", state=b"0").id, table.now)
    tell()
    assert seen.rev == table.roster.listed.rev, "whatever it has missed"
