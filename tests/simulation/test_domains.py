"""What the simulation tells of a domain: that it is impure, breaks its invariant, or is idle."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec
import pytest

from dalsegno.actors.testing import Ask, Choices, SeededChoices, Simulated, Verdict, simulate
from dalsegno.protocol import App, Context, Domain, Due, Event, Index, Reject, Role
from tests.actors._boxes import Fill, boxes


class Jar(msgspec.Struct, frozen=True):
    beans: dict[str, float]


class Add(msgspec.Struct, frozen=True):
    jar_id: str
    weight: float = 1.0


class Added(msgspec.Struct, frozen=True):
    bean_id: str
    weight: float


Decide = Callable[[Jar | None, Add, Context], Any]
Evolve = Callable[[Jar | None, Added], Jar]


def put(_jar: Jar | None, command: Add, context: Context) -> Added:
    return Added(context.new_id(), command.weight)


def hold(jar: Jar | None, event: Added) -> Jar:
    return Jar({**({} if jar is None else jar.beans), event.bean_id: event.weight})


def tried(decide: Decide, evolve: Evolve, **how: Any) -> Simulated:
    jars = Domain("jar", state=Jar, commands=Add, events=Added)
    jars.decide(decide)
    jars.evolve(evolve)

    def commands(choices: Choices) -> Ask:
        return Ask(Add(choices.pick("ab")), 1, 1)

    return simulate(
        SeededChoices(1),
        domains=[jars],
        commands=commands,
        faults=(),
        operations=("command",),
        steps=20,
        **how,
    )


def test_what_is_pure_is_sound_with_ids_of_its_own() -> None:
    done = tried(put, hold)
    assert done.is_sound, str(done)
    assert done.warnings == []


def _rolls_a_dice() -> tuple[Decide, Evolve]:
    dice = itertools.count()

    def decide(_jar: Jar | None, _command: Add, context: Context) -> Added:
        return Added(context.new_id(), next(dice))

    return decide, hold


def _folds_a_dice() -> tuple[Decide, Evolve]:
    dice = itertools.count()

    def evolve(_jar: Jar | None, event: Added) -> Jar:
        return Jar({event.bean_id: next(dice)})

    return put, evolve


def _refuses_now_and_then() -> tuple[Decide, Evolve]:
    dice = itertools.count()

    def decide(jar: Jar | None, command: Add, context: Context) -> Added:
        if next(dice) % 3 == 0:
            raise Reject("NOT_NOW")
        return put(jar, command, context)

    return decide, hold


def _fills_the_state_before() -> tuple[Decide, Evolve]:
    def evolve(jar: Jar | None, event: Added) -> Jar:
        jar = jar or Jar({})
        jar.beans[event.bean_id] = event.weight
        return jar

    return put, evolve


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (_rolls_a_dice, "decide is not pure: of the same it made"),
        (_folds_a_dice, "evolve is not pure: of the same it made"),
        (_refuses_now_and_then, "decide is not pure: of the same it made"),
        (_fills_the_state_before, "evolve is not pure: it changed what it was given"),
    ],
)
def test_what_is_not_is_found(make: Callable[[], tuple[Decide, Evolve]], named: str) -> None:
    done = tried(*make())
    assert not done.is_sound
    assert any(named in bug for bug in done.bugs), str(done)


def test_a_domain_that_refuses_nearly_everything_shows_little() -> None:
    def refuse(_jar: Jar | None, _command: Add, _context: Context) -> Added:
        raise Reject("NO")

    done = tried(refuse, hold)
    assert done.is_sound
    (warning,) = done.warnings
    assert "were accepted" in warning
    assert f"warning: {warning}" in str(done)


def test_an_invariant_of_ones_own_is_asked_of_every_state() -> None:
    def at_most_two(states: Mapping[str, Any]) -> str | None:
        full = [name for name, jar in states.items() if name[:4] == "jar:" and len(jar.beans) > 2]
        return f"{full[0]} is too full" if full else None

    assert tried(put, hold, invariant=lambda _: None).is_sound
    done = tried(put, hold, invariant=at_most_two)
    assert not done.is_sound
    for violation in done.violations:
        assert violation.verdict is Verdict.INVARIANT
        (last,) = violation.exhibits
        assert isinstance(last, Event)
        assert last.stream_seq == 3, "the first state that breaks it"
        assert f"is too full, after {last.event_seq}" in violation.sentence


def test_an_invariant_may_be_broken_within_a_command_or_a_group() -> None:
    def even(states: Mapping[str, Any]) -> str | None:
        odd = [name for name, box in states.items() if name[:4] == "box:" and box.puts % 2]
        return f"{odd[0]} is odd" if odd else None

    def twice(choices: Choices) -> Ask:
        return Ask(Fill(choices.pick("ab"), 2), 2, 2)

    how: dict[str, Any] = {"domains": [boxes], "steps": 20, "invariant": even}
    assert simulate(SeededChoices(1), commands=twice, **how).is_sound

    def once(choices: Choices) -> Ask:
        return Ask(Fill(choices.pick("ab"), 1), 1, 1)

    assert not simulate(SeededChoices(1), commands=once, **how).is_sound


class Alarm(msgspec.Struct, frozen=True):
    at: datetime


class Wind(msgspec.Struct, frozen=True):
    alarm_id: str


class Ring(msgspec.Struct, frozen=True):
    alarm_id: str


class Wound(msgspec.Struct, frozen=True):
    at: datetime


def test_what_was_due_and_did_not_happen_is_found() -> None:
    """A command that is refused when its time comes: nothing moves."""
    alarms = Domain("alarm", state=Alarm, commands=Wind | Ring, events=Wound)

    @alarms.decide
    def wind(_alarm: Alarm | None, _command: Wind, context: Context) -> Wound:
        return Wound(context.now)

    @alarms.decide
    def ring(alarm: Alarm, _command: Ring) -> Wound:
        raise Reject("BROKEN")

    @alarms.evolve
    def wound(_alarm: Alarm | None, event: Wound) -> Alarm:
        return Alarm(event.at)

    @alarms.due
    def due(alarm: Alarm, alarm_id: str) -> Due:
        return Due(alarm.at, Ring(alarm_id))

    app = App([alarms], roles={"winder": Role(commands=frozenset({"wind"}))})
    how: dict[str, Any] = {
        "commands": lambda _choices: Ask(Wind("a"), 1, 1),
        "faults": (),
        "operations": ("command",),
        "steps": 5,
    }
    assert simulate(SeededChoices(1), app, **how).is_sound, "nobody waits for it"
    done = simulate(SeededChoices(1), app, until="settled", **how)
    assert any("alarm:a was due at" in bug for bug in done.bugs), str(done)


def test_a_list_that_shows_what_was_not_committed_is_found() -> None:
    """Its index says something else each time."""
    jars = Domain("jar", state=Jar, commands=Add, events=Added)
    jars.decide(put)
    jars.evolve(hold)
    dice = itertools.count()
    jars.index(lambda _jar: Index(keys=(f"k{next(dice) % 3}",)))
    found = set()
    for seed in range(5):
        done = simulate(
            SeededChoices(seed),
            App([jars]),
            commands=lambda choices: Ask(Add(choices.pick("ab")), 1, 1),
            faults=(),
            operations=("command", "entities"),
            steps=40,
        )
        found |= {violation.verdict for violation in done.violations}
    assert found == {Verdict.LIST}
