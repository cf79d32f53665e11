"""A domain that does everything a domain may do, rightly and wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dalsegno.protocol import Context, Domain, Index, On, Past, Reject, Touched


class Box(msgspec.Struct, frozen=True):
    text: str
    puts: int = 1


class Put(msgspec.Struct, frozen=True):
    box_id: str | None
    text: str = ""
    base_version: int | None = None


class Burn(msgspec.Struct, frozen=True):
    box_id: str


class Expect(msgspec.Struct, frozen=True):
    """Refused unless the box holds this text; causes no event."""

    box_id: str
    text: str


class Fill(msgspec.Struct, frozen=True):
    box_id: str
    times: int


class Move(msgspec.Struct, frozen=True):
    box_id: str
    to_id: str


class Give(msgspec.Struct, frozen=True):
    """Changes another box only."""

    box_id: str
    to_id: str
    text: str


class Sneak(msgspec.Struct, frozen=True):
    """Changes a box that it did not name."""

    box_id: str
    to_id: str


class Restore(msgspec.Struct, frozen=True):
    box_id: str
    version: int


class Fail(msgspec.Struct, frozen=True):
    box_id: str


class Poison(msgspec.Struct, frozen=True):
    box_id: str


class Mislead(msgspec.Struct, frozen=True):
    """Its ``touches=`` raises."""

    box_id: str


class Refuse(msgspec.Struct, frozen=True):
    """Refused with details that are not JSON."""

    box_id: str


class WhoAmI(msgspec.Struct, frozen=True):
    box_id: str


class WasPut(msgspec.Struct, frozen=True):
    text: str


class WasBurned(msgspec.Struct, frozen=True):
    pass


class WasPoisoned(msgspec.Struct, frozen=True):
    pass


boxes = Domain(
    "box",
    state=Box,
    commands=(
        Put
        | Burn
        | Expect
        | Fill
        | Move
        | Give
        | Sneak
        | Restore
        | Fail
        | Poison
        | Mislead
        | Refuse
        | WhoAmI
    ),
    events=WasPut | WasBurned | WasPoisoned,
)


@boxes.decide
def _put(_box: Box | None, command: Put) -> WasPut:
    return WasPut(command.text)


@boxes.decide
def _burn(_box: Box, _command: Burn) -> WasBurned:
    return WasBurned()


@boxes.decide
def _expect(box: Box | None, command: Expect) -> None:
    if box is None or box.text != command.text:
        raise Reject("BOX_DIFFERS", found=None if box is None else box.text)


@boxes.decide
def _fill(_box: Box | None, command: Fill) -> Sequence[WasPut]:
    return [WasPut(str(n)) for n in range(command.times)]


def _target(command: Any) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    return [(boxes, command.to_id)]


@boxes.decide(touches=_target)
def _move(box: Box, command: Move, touched: Touched) -> Sequence[WasBurned | On[Any]]:
    if touched.get(boxes, command.to_id) is not None:
        raise Reject("BOX_TAKEN")
    return [WasBurned(), On(boxes, command.to_id, WasPut(box.text))]


@boxes.decide(touches=_target)
def _give(_box: Box | None, command: Give) -> On[Any]:
    return On(boxes, command.to_id, WasPut(command.text))


@boxes.decide
def _sneak(_box: Box | None, command: Sneak) -> Sequence[WasPut | On[Any]]:
    return [WasPut("mine"), On(boxes, command.to_id, WasPut("yours"))]


@boxes.decide(needs=lambda command: command.version)
def _restore(_box: Box | None, command: Restore, past: Past) -> WasPut:
    if past.state is None:
        raise Reject("BOX_NOT_FOUND", f"no version {command.version}")
    return WasPut(past.state.text)


@boxes.decide
def _fail(_box: Box | None, _command: Fail) -> WasPut:
    raise ZeroDivisionError("a bug in a decider")


@boxes.decide
def _poison(_box: Box | None, _command: Poison) -> WasPoisoned:
    return WasPoisoned()


def _mistaken(_command: Mislead) -> Sequence[tuple[Domain[Any, Any, Any], str]]:
    raise ZeroDivisionError("a bug in touches=")


@boxes.decide(touches=_mistaken)
def _mislead(_box: Box | None, _command: Mislead) -> None:
    return None


@boxes.decide
def _refuse(_box: Box | None, _command: Refuse) -> None:
    raise Reject("BOX_STRANGE", thing=object())


@boxes.decide(allow=("owner", "viewer"))
def _who_am_i(_box: Box | None, _command: WhoAmI, context: Context) -> WasPut:
    return WasPut(f"{context.principal.user_id} {context.role}")


@boxes.evolve
def _was_put(box: Box | None, event: WasPut) -> Box:
    return Box(event.text, 1 if box is None else box.puts + 1)


@boxes.evolve
def _was_burned(_box: Box, _event: WasBurned) -> Box | None:
    return None


@boxes.evolve
def _was_poisoned(_box: Box | None, _event: WasPoisoned) -> Box:
    raise ZeroDivisionError("a bug in an evolver")


@boxes.index
def _by_text(box: Box) -> Index:
    return Index(title=box.text or None)


@boxes.view
def _seen(event: WasPut | WasBurned | WasPoisoned, _box_id: str, _version: int) -> object:
    if isinstance(event, WasPut) and event.text == "a bug in the view":
        raise ZeroDivisionError(event.text)
    return None
