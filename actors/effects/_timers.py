"""Timers: what entities have asked for is sent to them once its time has come.

A node looks in the store, by an index, for what is due in workspaces that it owns or that nobody
does; nothing of a timer is kept in memory but that it is on its way.  What it finds is only a hint:
the command carries what its entity asked for, and in its place in the workspace's order it happens
if the entity asks for the same still.  So two nodes that find it send it twice, and it happens
once; a lock that was renewed does not lapse; and a node whose clock is wrong, or that was stopped
for an hour, sends late or in vain.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from dalsegno.actors.node import list_anew, relist, send
from dalsegno.actors.ports import PageBounds
from dalsegno.actors.workspace import Turn, load_entity
from dalsegno.protocol import SYSTEM, CorruptLogError, DalsegnoError, UnavailableError
from dalsegno.protocol.runs import runs

from ._attempts import Attempts
from ._woken import Woken

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.actors.ports import DueEntity, StoredEntity
    from dalsegno.protocol import Domain, Due

_log = logging.getLogger("dalsegno.timers")

_WOKEN = 4
"""Of the table of active workspaces, one in so many is there for timers alone, at most."""
_STALE_AT_ONCE = 16
"""Workspaces that are looked for in one query, where what an earlier program listed is stale."""
_STALE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class TimerStatistics:
    """The timers of a node at one moment."""

    fired: int
    """Commands that were sent, since the start."""
    firing: int
    """Those that are on their way."""
    stuck: int
    """Entities whose command was sent twice or more, and that ask for the same still."""
    woken: int
    """Workspaces that are active for their timers alone."""


class Timers:
    """Fires what is due in the workspaces of one node; see the module."""

    def __init__(self, directory: Directory, catalog: Catalog) -> None:
        node = directory.node
        self._directory = directory
        self._catalog = catalog
        self._node = node
        self._limits = node.limits
        self._domains: dict[str, Domain[Any, Any, Any]] = {
            name: domain for name, domain in catalog.domains.items() if domain.has_timers
        }
        self._place: DueEntity | None = None
        """Where the last look ended before everything was looked at."""
        self._firing: set[tuple[str, str]] = set()
        self._attempts = Attempts(limits=node.limits)
        self._woken = Woken(directory, share=_WOKEN)
        self._fired = 0

    def __repr__(self) -> str:
        return f"<Timers of {', '.join(self._domains)}, {len(self._firing)} on their way>"

    def statistics(self) -> TimerStatistics:
        """Return how they stand."""
        return TimerStatistics(
            self._fired, len(self._firing), self._attempts.stuck, len(self._woken)
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fire what is due until cancelled."""
        task_status.started()
        if not self._domains:
            await trio.sleep_forever()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_listed)
            while True:
                await trio.sleep(self._limits.timer_tick_s)
                self._woken.let_rest(self._may_rest)
                if self._may_look:
                    try:
                        await self._look(nursery)
                    except DalsegnoError as error:
                        _log.warning("what is due could not be looked for: %s", error)

    @property
    def _may_look(self) -> bool:
        return self._node.is_open and self._node.lease.is_held

    # ------------------------------------------------------------------------------ looking

    async def _look(self, nursery: trio.Nursery) -> None:
        """Fire what is due, as much as a tick may."""
        limits, now = self._limits, self._node.world.now()
        # One that does not answer has no more of them on their way than it may fire in a tick.
        counts = Counter(workspace_id for workspace_id, _ in self._firing)
        for _ in range(0, limits.timers_per_tick_max, limits.timers_read_max):
            page = await self._node.store.find_due(
                self._node.node_id,
                self._domains,
                until=now,
                after=self._place,
                limit=limits.timers_read_max,
            )
            chosen = self._chosen(page.entities, counts)
            if chosen:
                await self._fire(nursery, chosen)
            self._place = page.last
            if self._place is None:
                self._attempts.looked_at_everything()
                return

    def _chosen(self, found: Sequence[DueEntity], counts: Counter[str]) -> list[DueEntity]:
        """Return those that fire now; the others are found again."""
        now, chosen, left = trio.current_time(), [], self._limits.timers_firing_max
        left -= len(self._firing)
        for each in found:
            if left == 0:
                break
            if each.ids in self._firing or not self._attempts.may_fire(each, now):
                continue
            if counts[each.workspace_id] >= self._limits.timers_per_workspace_max:
                continue
            if counts[each.workspace_id] == 0 and not self._woken.wake(each.workspace_id):
                continue
            counts[each.workspace_id] += 1
            chosen.append(each)
            left -= 1
        return chosen

    def _may_rest(self, workspace_id: str) -> bool:
        """Return whether no timer of a workspace is on its way."""
        return all(workspace_id != each for each, _ in self._firing)

    async def _keep_listed(self) -> None:
        """Ask entities anew that an earlier version of their domain has asked, or has not.

        Not those of a later one, or two nodes would do so in turn for as long as both run.  It may
        take long, so no timer waits for it.
        """
        while True:
            await trio.sleep(self._limits.timer_tick_s)
            if not self._may_look:
                continue
            try:
                for domain in self._domains.values():
                    await self._list_anew(domain)
            except DalsegnoError as error:
                _log.warning("what has to be listed anew could not be looked for: %s", error)
            await trio.sleep(_STALE_EVERY_S)

    async def _list_anew(self, domain: Domain[Any, Any, Any]) -> None:
        """List a domain's entities anew in every workspace that needs it and may be woken.

        Raises:
            DalsegnoError: the store is away.

        """
        after = None
        while True:
            page = await self._node.store.find_stale(
                self._node.node_id,
                domain.name,
                domain.version,
                after=after,
                limit=_STALE_AT_ONCE,
            )
            for workspace_id in page.workspace_ids:
                if self._woken.wake(workspace_id):
                    try:
                        await list_anew(self._directory, workspace_id, domain)
                    except DalsegnoError as error:
                        _log.warning("%s: %r is not listed anew: %s", workspace_id, domain, error)
            after = page.last
            if after is None:
                return

    # ------------------------------------------------------------------------------- firing

    async def _fire(self, nursery: trio.Nursery, chosen: Sequence[DueEntity]) -> None:
        """Ask entities what they want done, and send it."""
        stored = await self._load(chosen)
        turn = Turn(self._limits.turn_s)
        for each in chosen:
            name, _, entity_id = each.stream_id.partition(":")
            domain = self._domains[name]
            try:
                entity = await load_entity(domain, stored[each.ids], turn)
                due = domain.due_of(entity.state, entity_id)
            except Exception:  # noqa: BLE001 - a domain is a user's code: this timer's alone
                self._note(each, "it cannot be asked", exc_info=True)
                continue
            self._firing.add(each.ids)
            nursery.start_soon(self._send, each, domain, due, stored[each.ids].version)

    async def _load(self, chosen: Sequence[DueEntity]) -> Mapping[tuple[str, str], StoredEntity]:
        """Load the states of entities; one that cannot be read is left out."""
        wanted = {each.ids: self._domains[_name_of(each)].version for each in chosen}
        try:
            return await self._node.store.load_many(wanted)
        except CorruptLogError:
            found: dict[tuple[str, str], StoredEntity] = {}
            for ids, version in wanted.items():
                try:
                    found.update(await self._node.store.load_many({ids: version}))
                except CorruptLogError as error:
                    _log.warning("%s %s: %s", *ids, error)
            return found

    async def _send(
        self, each: DueEntity, domain: Domain[Any, Any, Any], due: Due | None, version: int
    ) -> None:
        """Send what an entity asks for, or, where it asks for something else, correct its row."""
        workspace_id, stream_id = each.ids
        try:
            if due is None or due.at != each.due_at:
                await relist(self._directory, workspace_id, domain, [stream_id])
            else:
                self._fired += 1
                await send(
                    self._directory,
                    self._catalog,
                    workspace_id,
                    due.command,
                    principal=SYSTEM,
                    due=due,
                    causation=await self._cause(each, version),
                )
            self._note(each, "its command changes nothing of it")
        except UnavailableError as error:
            _log.info("%s %s: %s", workspace_id, stream_id, error)
            self._attempts.postpone(each, trio.current_time())
        except DalsegnoError as error:
            self._note(each, str(error))
        finally:
            self._firing.discard(each.ids)

    async def _cause(self, each: DueEntity, version: int) -> str | None:
        """Return the run that made an entity ask, so that its reactors know what led to it.

        Raises:
            UnavailableError: the store is away.

        """
        if not self._node.workers:
            return None
        last = PageBounds(from_seq=version, limit=1, bytes_max=1)
        found = await self._node.store.read_stream(*each.ids, last)
        causation = found[0].causation if found else None
        is_runs = causation is not None and causation.startswith(f"{runs.name}:")
        return causation if is_runs else None

    def _note(self, each: DueEntity, why: str, *, exc_info: bool = False) -> None:
        """Note that a timer fired, or could not, and say once why it is slowed down."""
        if self._attempts.fired(each, trio.current_time()):
            _log.warning("%s %s: its timer is slowed down: %s", *each.ids, why, exc_info=exc_info)


def _name_of(each: DueEntity) -> str:
    return each.stream_id.partition(":")[0]
