"""Crowds: much happens to one workspace in the same instant, around a moment that matters.

Operations at random moments seldom meet, and what breaks breaks where they do: a removal in the
middle of a batch, a reader that subscribes while that is published, an owner of the past that is
asked once more.  So a crowd chooses such a moment, and starts operations just before and behind it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from ._link import LAG_S
from ._load import Focus, focused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.protocol import Limits

    from ._choices import Choices
    from ._client import SimClient
    from ._faults import Faults
    from ._load import Load
    from ._node import Process, SimNode

_HAPPENS = (
    *("burst", "read", "repeat", "resubscribe", "subscribe") * 2,
    *("ack", "command", "group", "unsubscribe"),
)
"""What a crowd does, as far as the schedule has these operations."""
_ASKED_THERE = ("read", "read", "repeat", "group")
"""What a host's program does at a node of its choice."""
_WRITES = ("burst", "burst", "command", "command", "group")
"""What is on its way where commits have no answer."""
_LOOKS = ("burst", "read", "read", "subscribe")
"""What overtakes what where the database is slow."""
_GOES_ON = ("read", "read", "subscribe", "resubscribe", "command")
"""What a member does whose membership is about to end."""
_FAULTS = (
    "lag",
    "lag",
    "stall",
    "drop",
    "cut",
    "weather",
    "crash_within",
    "freeze_within",
    "drain",
)
"""The faults in the middle of a crowd, as far as the schedule has them."""
_CHANGES = ("-", "-", "-+", "+-", "-+-", "-+-+")
"""Removals and admissions of one member, in order, as fast as they can be sent."""
_PAUSES = (0.0, 0.0, 0.0, 0.01, 0.05)
_STEPS_BETWEEN = 3
"""Steps of the event loop between two commands that have to arrive in order."""
_GIVEN_UP = (0.5, 1.2, 2.0, 4.0)
"""How long commits have no answer, in multiples of the time after which they are given up."""
_COMES_BACK = 0.8
_LAGS = 0.4
_UNDER_LOAD = 0.6
_REPLACED, _SUPPLANTED_S = 0.35, 0.3
"""How many owners lose it to their own node's next process, and how soon: before a beat."""
_TICK_S = 0.5
"""How often a node looks for workspaces that are idle."""


class Crowd:
    """Makes crowds, of the operations and faults of a schedule."""

    def __init__(
        self,
        choices: Choices,
        load: Load,
        faults: Faults,
        *,
        clients: Sequence[SimClient],
        workspaces: Sequence[str],
        operations: Sequence[str],
        kinds: Sequence[str],
        limits: Limits,
    ) -> None:
        self._choices = choices
        self._load = load
        self._faults = faults
        self._clients = clients
        self._workspaces = workspaces
        self._happens = [name for name in _HAPPENS if name in operations]
        self._asked_there = [name for name in _ASKED_THERE if name in operations]
        self._goes_on = [name for name in _GOES_ON if name in operations]
        self._reads = [name for name in operations if name == "read"][:1]
        self._writes = [name for name in _WRITES if name in operations]
        self._looks = [name for name in _LOOKS if name in operations]
        self._acks = [name for name in operations if name == "ack"][:1]
        self._kinds = [kind for kind in _FAULTS if kind in kinds]
        self._can_replace = "replace" in kinds
        self._can_lag = "lag" in kinds
        self._limits = limits
        has_others = len(faults.nodes_but(None)) > 1
        moments: dict[str, tuple[bool, Callable[[str], Awaitable[None]]]] = {
            "removal": ("member" in operations and len(clients) > 1, self._removal),
            "fault": (bool(self._kinds), self._fault),
            "rest": ("idle" in operations, self._rest),
            "takeover": ("freeze" in kinds and "partition" in kinds, self._takeover),
            "inheritance": ("partition" in kinds and has_others, self._inheritance),
            "silence": ("partition" in kinds, self._silence),
            "look-ups": ("lag" in kinds, self._look_ups),
            "failover": ("failover" in kinds, self._failover),
        }
        weights = {"removal": 3, "takeover": 3, "silence": 3, "look-ups": 2}
        self._moments = [
            moment
            for name, (is_possible, moment) in moments.items()
            for _ in range(weights.get(name, 1) if is_possible else 0)
        ]

    async def gather(self) -> None:
        """Make a crowd around one of the moments that are possible here."""
        choices = self._choices
        workspace_id = choices.pick(self._workspaces)
        moment = choices.pick(self._moments) if self._moments else self._nothing
        with focused(Focus(workspace_id)):
            if self._can_lag and choices.chance(_LAGS):
                await self._faults.lag_of(workspace_id)
            await moment(workspace_id)

    # ------------------------------------------------------------------------------- moments

    async def _nothing(self, _workspace_id: str) -> None:
        await self._around(trio.lowlevel.checkpoint)

    async def _removal(self, workspace_id: str) -> None:
        """Change one member's membership, perhaps several times."""
        choices = self._choices
        others = self._clients[1:]
        near = [client for client in others if client.home == workspace_id]
        whose = choices.pick(near or others)
        user_id, changes = whose.user_id, choices.pick(_CHANGES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_up, Focus(workspace_id, client=whose))
            await self._around(partial(self._change, workspace_id, user_id, changes))
        if changes.endswith("-") and choices.chance(_COMES_BACK):
            await trio.sleep(choices.pick(_PAUSES))
            await self._load.change_member(workspace_id, user_id, stays=True)

    async def _follow_up(self, focus: Focus) -> None:
        """Have one client go on for a moment, whatever becomes of it."""
        with focused(focus):
            async with trio.open_nursery() as nursery:
                for _ in range(self._choices.integer(1, 3)):
                    await trio.sleep(self._choices.pick(_PAUSES))
                    self._start(nursery, self._goes_on, 1)

    async def _change(self, workspace_id: str, user_id: str, changes: str) -> None:
        async with trio.open_nursery() as nursery:
            for change in changes:
                send = partial(self._load.change_member, stays=change == "+")
                nursery.start_soon(send, workspace_id, user_id)
                for _ in range(_STEPS_BETWEEN):
                    await trio.lowlevel.checkpoint()

    async def _fault(self, _workspace_id: str) -> None:
        kind = self._choices.pick(self._kinds)
        await self._around(partial(self._faults.strike, kind))

    async def _rest(self, _workspace_id: str) -> None:
        """Do nothing until the workspace leaves memory, and come back at that moment."""
        await trio.sleep(self._limits.passivate_after_s + self._choices.uniform(0, _TICK_S))
        await self._around(trio.lowlevel.checkpoint)

    async def _failover(self, _workspace_id: str) -> None:
        """Promote a standby that has nothing of the last moment, some of it acknowledged."""
        self._faults.remember()
        await self._around(trio.lowlevel.checkpoint)
        async with trio.open_nursery() as nursery:
            self._start(nursery, self._acks, self._choices.integer(0, 3))
            await trio.sleep(self._choices.pick(_PAUSES))
            nursery.start_soon(self._around, partial(self._faults.strike, "failover"))

    async def _takeover(self, workspace_id: str) -> None:
        """Take a workspace over by another process, and go on asking the one that had it."""
        choices, faults = self._choices, self._faults
        owner = faults.owner_of(workspace_id)
        others = faults.nodes_but(owner)
        if owner is None or not others:
            await self._nothing(workspace_id)
            return
        old, focus = owner.process, self._focus_of(workspace_id)
        async with trio.open_nursery() as nursery:
            if self._can_replace and choices.chance(_REPLACED):
                back = faults.supplant(owner)
                await self._ask(focus, [owner.process], within_s=_SUPPLANTED_S)
            else:
                is_amid = choices.chance(_UNDER_LOAD)
                if is_amid:
                    await self._be_amid(nursery, owner)
                back = faults.cut_off(owner) if is_amid else faults.seclude(owner)
                await trio.sleep(self._limits.lease_s * choices.uniform(0.8, 1.3))
                successors = [node.process for node in others]
                await self._ask(focus, successors, within_s=self._limits.lease_s)
            nursery.start_soon(self._ask, focus, [old], 2.0, self._reads)
            await trio.sleep(choices.pick(_PAUSES))
            back()
            nursery.start_soon(self._ask, focus, [old])
            await self._around(trio.lowlevel.checkpoint)

    async def _inheritance(self, workspace_id: str) -> None:
        """Take over a workspace that rests, without its owner being told."""
        choices, faults = self._choices, self._faults
        owner = faults.owner_of(workspace_id)
        successors = [node.process for node in faults.nodes_but(owner)]
        if owner is None or not successors:
            await self._nothing(workspace_id)
            return
        await trio.sleep(self._limits.passivate_after_s + _TICK_S)
        back = faults.cut_off(owner)
        await trio.sleep(self._limits.lease_s * choices.uniform(0.8, 1.3))
        await self._ask(self._focus_of(workspace_id), successors, within_s=self._limits.lease_s)
        back()

    async def _look_ups(self, workspace_id: str) -> None:
        """Slow the database down, so that reads overtake commits, or are overtaken."""
        choices = self._choices
        owner = self._faults.owner_of(workspace_id)
        if owner is None:
            await self._nothing(workspace_id)
            return
        self._faults.slow_down(owner)
        async with trio.open_nursery() as nursery:
            for _ in range(choices.integer(2, 5)):
                self._start(nursery, self._looks, choices.integer(1, 3))
                await trio.sleep(choices.uniform(0, LAG_S))

    async def _silence(self, workspace_id: str) -> None:
        """Hold the answers to the owner's commits until long after it gave them up."""
        owner = self._faults.owner_of(workspace_id)
        if owner is None:
            await self._nothing(workspace_id)
            return
        async with trio.open_nursery() as nursery:
            await self._be_amid(nursery, owner)
            back = self._faults.cut_off(owner)
            self._start(nursery, self._happens, self._choices.integer(0, 2))
            await trio.sleep(self._limits.commit_deadline_s * self._choices.pick(_GIVEN_UP))
            back()

    async def _be_amid(self, nursery: trio.Nursery, owner: SimNode) -> None:
        """Start commands, and wait until one is on its way to a slow database."""
        self._faults.slow_down(owner)
        self._start(nursery, self._writes, self._choices.integer(1, 4))
        with trio.move_on_after(_TICK_S):
            await owner.process.link.wait_committing()

    # ------------------------------------------------------------------------------ the crowd

    async def _around(self, moment: Callable[[], Awaitable[object]]) -> None:
        """Start operations, the moment, and more operations; wait for all of them."""
        choices = self._choices
        async with trio.open_nursery() as nursery:
            self._start(nursery, self._happens, choices.integer(1, 3))
            await trio.sleep(choices.pick(_PAUSES))
            nursery.start_soon(moment)
            self._start(nursery, self._happens, choices.integer(1, 3))
            await trio.sleep(choices.pick(_PAUSES))
            self._start(nursery, self._happens, choices.integer(0, 2))

    def _focus_of(self, workspace_id: str) -> Focus:
        """Choose for whom a host's program asks: one user, who knows what it has done, or any."""
        near = [client for client in self._clients if client.home == workspace_id]
        one = self._choices.pick([None, *near]) if near else None
        return Focus(workspace_id, client=one)

    async def _ask(
        self,
        focus: Focus,
        processes: Sequence[Process],
        within_s: float = 2.0,
        names: Sequence[str] | None = None,
    ) -> None:
        """Have a host's program ask some processes; wait a while for its answers."""
        with trio.move_on_after(within_s), focused(replace(focus, processes=processes)):
            async with trio.open_nursery() as nursery:
                names = self._asked_there if names is None else names
                self._start(nursery, names, self._choices.integer(1, 4))

    def _start(self, nursery: trio.Nursery, names: Sequence[str], count: int) -> None:
        for _ in range(count if names else 0):
            nursery.start_soon(getattr(self._load, self._choices.pick(names)))
