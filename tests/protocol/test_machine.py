"""A state machine is its table: what is not in it is refused, and changes nothing."""

from __future__ import annotations

from enum import Enum

import pytest

from dalsegno.protocol import IllegalStepError, Machine


class Light(Enum):
    RED = "red"
    GREEN = "green"


class Event(Enum):
    GO = "go"
    STOP = "stop"


LIGHT = Machine("light", {Light.RED: {Event.GO: Light.GREEN}, Light.GREEN: {Event.STOP: Light.RED}})


def test_a_step_of_the_table_leads_to_its_state() -> None:
    assert LIGHT.step(Light.RED, Event.GO) is Light.GREEN
    assert LIGHT.step(Light.GREEN, Event.STOP) is Light.RED


def test_any_other_step_is_a_bug_with_a_name() -> None:
    with pytest.raises(IllegalStepError, match="light red: stop"):
        LIGHT.step(Light.RED, Event.STOP)
