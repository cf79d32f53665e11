"""What the core knows of access is what domains declare."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Never

import msgspec
import pytest

from dalsegno.actors import Roles
from dalsegno.actors.domains.accounts import account_domains, spaces, users
from dalsegno.actors.domains.members import members
from dalsegno.actors.domains.notes import notes
from dalsegno.actors.ports import gate_refusal, role_in
from dalsegno.protocol import SYSTEM_WORKSPACE, Domain, DomainError, Event, Reject

ROLES = Roles([*account_domains, notes])


class Seat(msgspec.Struct, frozen=True):
    role: str


class Seated(msgspec.Struct, frozen=True):
    role: str


class Left(msgspec.Struct, frozen=True):
    pass


Seats = Domain[Seat, Never, Seated | Left]


def seats_domain(name: str = "seat", *, reserved: bool = False) -> Seats:
    seats = Domain(name, state=Seat, commands=Never, events=Seated | Left, reserved=reserved)

    @seats.role(ended_by=[Left])
    def role(seat: Seat) -> str:
        return seat.role

    return seats


def event(stream_id: str, type_: str) -> Event:
    return Event(
        workspace_id="w",
        event_seq=1,
        stream_id=stream_id,
        stream_seq=1,
        event_id="e",
        type=type_,
        type_version=1,
        payload="{}",
        actor_id=None,
        command_id="c",
        recorded_at=datetime(2030, 1, 1, tzinfo=UTC),
    )


def test_the_built_in_domains_declare_who_is_who() -> None:
    assert ROLES.domain_in("acme") is members
    assert ROLES.domain_in(SYSTEM_WORKSPACE) is users
    assert ROLES.founders is spaces
    assert "member" in repr(ROLES)


def test_a_domain_of_ones_own_may_decide_instead() -> None:
    seats = seats_domain()
    roles = Roles([seats])
    assert roles.domain_in("acme") is seats
    assert roles.domain_in(SYSTEM_WORKSPACE) is None
    assert roles.removed_by(event("seat:ada:1", "left")) == "ada:1"
    assert role_in(seats, 2, Seat("editor"), "ada", None) == "editor"
    assert role_in(seats, 2, None, "ada", "ada") is None, "what the log says counts"
    assert role_in(seats, 0, None, "ada", "ada") == "owner"
    assert role_in(seats, 0, None, "ada", "bob") is None


@pytest.mark.parametrize(
    ("stream_id", "type_", "user_id"),
    [
        ("member:ada", "member_removed", "ada"),
        ("member:ada", "member_role_updated", None),
        ("note:ada", "member_removed", None),
        ("member:ada", "note_created", None),
    ],
)
def test_only_the_event_of_that_domain_ends_access(
    stream_id: str, type_: str, user_id: str | None
) -> None:
    assert ROLES.removed_by(event(stream_id, type_)) == user_id


def test_two_domains_cannot_decide_the_same() -> None:
    with pytest.raises(DomainError, match="seat and chair both decide roles"):
        Roles([seats_domain(), seats_domain("chair")])
    Roles([seats_domain(), seats_domain("chair", reserved=True)])


def test_an_event_that_ends_access_is_the_domains_own() -> None:
    seats = Domain("seat", state=Seat, commands=Never, events=Seated)
    with pytest.raises(DomainError, match="has no event Left"):
        seats.role(ended_by=[Left])  # type: ignore[list-item]


def gate_domain(name: str) -> Seats:
    gates = Domain(name, state=Seat, commands=Never, events=Seated | Left)

    @gates.gate(closed_by=[Left])
    def gate(seat: Seat, asked: str | None) -> Reject | None:
        return None if asked is None or seat.role == "open" else Reject("SHUT")

    return gates


def test_one_entity_of_a_workspace_decides_what_may_happen_in_it() -> None:
    gates = gate_domain("door")
    roles = Roles([gates, seats_domain()])
    assert roles.gate_in("w") == {"door:main": gates}
    assert roles.gate_in(SYSTEM_WORKSPACE) == {}
    assert Roles([seats_domain()]).gate_in("w") == {}
    assert gate_refusal(gates, None, "note") is None, "there is no such entity yet"
    assert gate_refusal(gates, Seat("open"), "note") is None
    assert gate_refusal(gates, Seat("shut"), None) is None
    refusal = gate_refusal(gates, Seat("shut"), "note")
    assert refusal is not None
    assert refusal.code == "SHUT"
    assert roles.closing == {"left"}
    assert roles.closed_by(event("door:main", "left"))
    assert not roles.closed_by(event("seat:ada", "left"))
    assert roles.deciding == {"door", "seat"}


def test_two_gates_are_refused_and_events_of_others_too() -> None:
    with pytest.raises(DomainError, match="both decide gates"):
        Roles([gate_domain("door"), gate_domain("gate")])
    seats = seats_domain()
    with pytest.raises(DomainError, match="has no event Reject"):
        seats.gate(closed_by=[Reject])  # type: ignore[list-item]
