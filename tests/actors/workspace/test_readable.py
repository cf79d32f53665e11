"""Nothing is committed that its own type cannot read back: it would halt the workspace for good."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.domains.notes import ApplyPatch, CreateNote, notes
from dalsegno.protocol import Domain, Limits, PatchOp
from tests.actors._boxes import Put
from tests.actors._world import DOMAINS, FaultyStore, check_log, refusal, running
from tests.tasks_domain import AddTask, Task, tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dalsegno.actors import World

DAY = datetime(2030, 1, 1, tzinfo=UTC)


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class Marked(Place, frozen=True):
    """A place with one more field, which a place may not have."""

    mark: str = "x"


class Labelled(msgspec.Struct, frozen=True):
    """A place may not know of ``label``, and may pass over it."""

    name: str


class Coloured(Labelled, frozen=True):
    colour: str = "red"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Every kind of promise that a type makes and Python does not keep."""

    count: int = 0
    number: float = 0.0
    perhaps: float | None = None
    level: Annotated[int, Meta(ge=0)] = 0
    text: Annotated[str, Meta(max_length=5)] = ""
    day: date = DAY.date()
    at: Annotated[datetime, Meta(tz=True)] = DAY
    role: Literal["owner", "viewer"] = "viewer"
    place: Place = Place("here")
    labelled: Labelled = Labelled("here")
    several: tuple[int, ...] = ()


class Measure(msgspec.Struct, frozen=True):
    meter_id: str
    what: str = "well"


class Meter(msgspec.Struct, frozen=True):
    last: Any
    """Whatever the event says, so that only the event's own type can refuse it."""
    level: Annotated[int, Meta(ge=0)] = 0


class Drained(msgspec.Struct, frozen=True):
    """An event that is well, of which a state comes that is not."""

    by: int


wrong: dict[str, dict[str, Any]] = {
    "a text in a number": {"count": "5"},
    "a flag in a number": {"count": True},
    "a fraction in a whole number": {"count": 1.5},
    "a number in a text": {"text": 5},
    "a text that is too long": {"text": "123456"},
    "a number below its bound": {"level": -1},
    "a time in a day": {"day": DAY},
    "a time without a zone": {"at": datetime(2030, 1, 1)},
    "a word that is none of them": {"role": "reviewer"},
    "none where none may be": {"count": None},
    "an infinity": {"number": math.inf},
    "an infinity where none may be": {"perhaps": math.inf},
    "not a number where none may be": {"perhaps": math.nan},
    "a subclass with one more field": {"place": Marked("here")},
    "a text in a list of numbers": {"several": ("1",)},
}
right: dict[str, dict[str, Any]] = {
    "well": {"number": -0.0, "several": (1, 2), "text": "null"},
    "another zone": {"at": datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=2)))},
    "a list for a tuple": {"several": [1, 2], "text": "null"},
    "a subclass whose field is passed over": {"labelled": Coloured("here")},
}

meters = Domain("meter", state=Meter, commands=Measure, events=Measured | Drained)


@meters.decide
def measure(_meter: Meter | None, command: Measure) -> Measured | Drained:
    if command.what == "drain":
        return Drained(5)
    return Measured(**(wrong | right)[command.what])


@meters.evolve
def measured(_meter: Meter | None, event: Measured) -> Meter:
    return Meter(msgspec.to_builtins(event), event.level)


@meters.evolve
def drained(meter: Meter, event: Drained) -> Meter:
    return Meter(meter.last, meter.level - event.by)


@pytest.mark.parametrize("what", wrong)
async def test_i10_an_event_that_could_not_be_read_is_refused_and_the_workspace_goes_on(
    what: str, store: FaultyStore, world: World
) -> None:
    async with running(store, world, domains=[*DOMAINS, meters]) as actors:
        workspace = actors.workspace()
        assert (await refusal(workspace, Measure("m", what))).code == "INTERNAL_ERROR"
        assert (await workspace.send(Measure("m"))).event_seq == 1
    async with running(store, world, domains=[*DOMAINS, meters]) as actors:
        assert (await actors.workspace().send(Measure("m"))).event_seq == 2
    await check_log(store)


@pytest.mark.parametrize("what", right)
async def test_what_is_folded_is_what_will_be_read(
    what: str, store: FaultyStore, world: World
) -> None:
    async with running(store, world, domains=[*DOMAINS, meters]) as actors:
        await actors.workspace().send(Measure("m", what))
        live = await actors.workspace().get(meters, "m")
    async with running(store, world, domains=[*DOMAINS, meters]) as actors:
        assert await actors.workspace().get(meters, "m") == live
    (event,) = await check_log(store)
    read = meters.decode(event.type, event.type_version, event.payload)
    assert live == Meter(msgspec.to_builtins(read), 0)


async def test_a_state_that_could_not_be_read_is_folded_from_the_log(
    store: FaultyStore, world: World
) -> None:
    limits = Limits(state_lag_events_max=1)
    async with running(store, world, limits=limits, domains=[*DOMAINS, meters]) as actors:
        await actors.workspace().send(Measure("m"))
        await actors.workspace().send(Measure("m", "drain"))
    async with running(store, world, limits=limits, domains=[*DOMAINS, meters]) as actors:
        meter = await actors.workspace().get(meters, "m")
        assert meter is not None
        assert meter.level == -5
        assert (await actors.workspace().send(Measure("m"))).event_seq == 3
    await check_log(store)


# ---------------------------------------------------------------------------------- at the door


@dataclass
class Odd:
    """What no decoder makes, and JSON writes all the same."""

    value: int = 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (AddTask("t", title=5), "BAD_REQUEST"),  # type: ignore[arg-type]
        (AddTask("t", title=None), "BAD_REQUEST"),  # type: ignore[arg-type]
        (AddTask(5, title="T"), "BAD_REQUEST"),  # type: ignore[arg-type]
        (AddTask("t", title=b"T"), None),  # type: ignore[arg-type]
        (AddTask("t", title={1, 2}), "BAD_REQUEST"),  # type: ignore[arg-type]
        (AddTask("t", title=object()), "BAD_REQUEST"),  # type: ignore[arg-type]
        (AddTask("t", title=Odd()), "BAD_REQUEST"),  # type: ignore[arg-type]
        (PutMember("u", role="reviewer"), "BAD_REQUEST"),
        (CreateNote("T", markdown=5), "BAD_REQUEST"),  # type: ignore[arg-type]
        (ApplyPatch("n", [PatchOp(retain=1)], base_version=math.inf), "BAD_REQUEST"),  # type: ignore[arg-type]
        (ApplyPatch("n", ["retain"], base_version=1), "INVALID_PATCH"),  # type: ignore[list-item]
        (Put("b", base_version=True), "BAD_REQUEST"),
    ],
)
async def test_a_programs_command_is_checked_as_one_from_the_network_is(
    command: Any, code: str | None, store: FaultyStore, world: World
) -> None:
    async with running(store, world, domains=[*DOMAINS, tasks]) as actors:
        if code is None:
            await actors.workspace().send(command)  # it is a text once it is written
        else:
            assert (await refusal(actors.workspace(), command)).code == code
        await actors.workspace().send(AddTask("another", "T"))
    async with running(store, world, domains=[*DOMAINS, tasks]) as actors:
        assert await actors.workspace().get(tasks, "another") == Task("T")


@pytest.mark.parametrize("beside", ["key", "correlation_id", "causation"])
@pytest.mark.parametrize("value", [5, b"x", ["x"], True])
async def test_what_stands_beside_a_command_is_text(
    beside: str, value: Any, store: FaultyStore, world: World
) -> None:
    async with running(store, world) as actors:
        error = await refusal(actors.workspace(), Put("b"), **{beside: value})
        assert error.code == "BAD_REQUEST"
        assert (await actors.workspace().send(Put("b"))).event_seq == 1


class Link(msgspec.Struct, frozen=True):
    link_id: str
    how: str


class Linked(msgspec.Struct, frozen=True):
    pass


links = Domain("link", state=Linked, commands=Link, events=Linked)


def _touched(command: Link) -> Sequence[Any]:
    others: dict[str, Any] = {"no id": [(links, 5)], "no pair": [5], "no domain": [("x", "y")]}
    return others[command.how]  # type: ignore[no-any-return]


@links.decide(touches=_touched)
def link(_linked: Linked | None, _command: Link) -> Linked:
    return Linked()


@links.evolve
def linked(_linked: Linked | None, event: Linked) -> Linked:
    return event


@pytest.mark.parametrize("how", ["no id", "no pair", "no domain", "raises"])
async def test_touches_that_names_nonsense_is_the_commands_own_fault(
    how: str, store: FaultyStore, world: World
) -> None:
    async with running(store, world, domains=[*DOMAINS, links]) as actors:
        assert (await refusal(actors.workspace(), Link("l", how))).code == "INTERNAL_ERROR"


# ------------------------------------------------------------------------------------ a way out


class Old(msgspec.Struct, frozen=True):
    title: str


async def test_a_log_that_an_earlier_release_spoiled_is_opened_by_an_upcast(
    store: FaultyStore, world: World
) -> None:
    """It halts, and opens by itself once a version of the code reads the event."""

    class Lax(msgspec.Struct, frozen=True):
        title: Any

    def domain(struct: type[msgspec.Struct], version: int) -> Domain[Any, Any, Any]:
        made = Domain("task", version=version, state=Old, commands=AddTask, events=struct)

        def add(_old: Old | None, command: AddTask) -> Any:
            return struct(5 if command.title == "five" else command.title)

        def fold(_old: Old | None, event: Any) -> Old:
            return Old(str(event.title))

        add.__annotations__ = {"_old": Old | None, "command": AddTask, "return": Any}
        fold.__annotations__ = {"_old": Old | None, "event": struct, "return": Old}
        made.decide(add)
        made.evolve(fold)
        return made

    Strict = msgspec.defstruct("Lax", [("title", str)], frozen=True)
    async with running(store, world, domains=[*DOMAINS, domain(Lax, 1)]) as actors:
        await actors.workspace().send(AddTask("t", "five"))
    async with running(store, world, domains=[*DOMAINS, domain(Strict, 1)]) as actors:
        assert (await refusal(actors.workspace(), AddTask("t", "x"))).code == "WORKSPACE_HALTED"
    mended = domain(Strict, 2)

    @mended.upcast("lax", 1)
    def _title_is_text(payload: dict[str, Any]) -> dict[str, Any]:
        return {**payload, "title": str(payload["title"])}

    async with running(store, world, domains=[*DOMAINS, mended]) as actors:
        assert await actors.workspace().get(mended, "t") == Old("5")
        assert (await actors.workspace().send(AddTask("t", "x"))).event_seq == 2
    assert notes.reads("lax", 1)  # another domain's: unknown, so it is passed over
    await check_log(store)
