"""Repeats of a key by a program whose commands have grown meanwhile (I5)."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
import pytest

from dalsegno.actors import World
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Domain, Reject
from tests.actors._world import running


class Lamp(msgspec.Struct, frozen=True):
    on: int = 0


class Switched(msgspec.Struct, frozen=True):
    pass


class Switch(msgspec.Struct, frozen=True):
    lamp_id: str
    by: str | None = None


class SwitchInColour(msgspec.Struct, frozen=True, tag="switch"):
    lamp_id: str
    by: str | None = None
    colour: str = "white"
    dim: list[int] = msgspec.field(default_factory=list)


def lamp_domain(command: Any) -> Domain[Any, Any, Any]:
    lamps: Domain[Any, Any, Any] = Domain("lamp", state=Lamp, commands=command, events=Switched)

    def switch(_lamp: Any, _command: Any) -> Switched:
        return Switched()

    switch.__annotations__ = {"_lamp": Lamp | None, "_command": command}
    lamps.decide(switch)

    @lamps.evolve
    def switched(lamp: Lamp | None, _event: Switched) -> Lamp:
        return Lamp(1 + (lamp.on if lamp else 0))

    return lamps


@pytest.mark.parametrize("by", [None, "ada"])
async def test_a_key_outlives_a_field_that_a_command_gets(
    store: MemoryStore, world: World, by: str | None
) -> None:
    async with running(store, world, domains=[lamp_domain(Switch)]) as before:
        first = await before.workspace().send(Switch("1", by), key="k")
    async with running(store, world, domains=[lamp_domain(SwitchInColour)]) as after:
        workspace = after.workspace()
        again = await workspace.send(SwitchInColour("1", by), key="k")
        assert (again.event_seq, again.repeated) == (first.event_seq, True)
        for other in (SwitchInColour("1", by, "red"), SwitchInColour("1", "eve", dim=[1])):
            with pytest.raises(Reject, match="STATE_CONFLICT"):
                await workspace.send(other, key="k")


async def test_a_key_of_a_release_before_is_answered(store: MemoryStore, world: World) -> None:
    """It recorded the fields that have their defaults as well."""
    async with running(store, world, domains=[lamp_domain(Switch)]) as actors:
        workspace = actors.workspace()
        await workspace.send(Switch("1"), key="k")
        ((scope, key), row) = next(iter(store._logs["w"].results.items()))
        whole = blake2b(b'switch\0{"lamp_id":"1","by":null}', digest_size=16).digest()
        stored = msgspec.structs.replace(row.stored, payload_hash=whole)
    store._logs["w"].results[scope, key] = msgspec.structs.replace(row, stored=stored)
    async with running(store, world, domains=[lamp_domain(Switch)]) as actors:
        assert (await actors.workspace().send(Switch("1"), key="k")).repeated
        with pytest.raises(Reject, match="STATE_CONFLICT"):
            await actors.workspace().send(Switch("1", "ada"), key="k")
