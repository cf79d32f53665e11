"""What reactors make of events: which runs they ask for."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import trio
from cachetools import LRUCache

from dalsegno.actors.node import look_at
from dalsegno.actors.ports import BEGINNING
from dalsegno.actors.workspace import Turn
from dalsegno.protocol import SYSTEM, Buckets, Reject, RunFor, UnavailableError, run_id_for
from dalsegno.protocol.runs import Trigger, TriggerRun, runs

from ._reading import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dalsegno.actors.node import Catalog, Directory
    from dalsegno.protocol import Cursor, Domain, Event, Place, Rate, Reactor, Snapshot

_log = logging.getLogger("dalsegno.reactors")

_TRIES = 3
"""How often a reactor that is too slow is asked about an event."""
_STATES_MAX = 100
"""Entities of one page whose states are folded on; beyond that each is loaded."""
_LISTS_MAX = 16
"""Lists that are kept for the events of one page, each of at most `Limits.list_bytes_max`."""


class ReactorTable:
    """The reactors of a node, by what they are told of, and what became of that."""

    def __init__(self, reactors: Iterable[Reactor]) -> None:
        self.reactors = tuple(reactors)
        self.names = tuple(each.name for each in self.reactors)
        self.asked = 0
        """Runs that were asked for, those included that were there."""
        self.failed = 0
        """Events of which a reactor could not be told, or made no sense: they asked for none."""
        self.replaced = 0
        """Workspaces whose history was found to be another."""
        self._of: dict[tuple[str, str], list[Reactor]] = {}
        for each in self.reactors:
            for type_ in sorted(each.events):
                self._of.setdefault((each.domain, type_), []).append(each)
        self._types = {type_ for _, type_ in self._of}
        self.stateful = {each.domain for each in self.reactors if each.takes_state}

    def __repr__(self) -> str:
        return f"<ReactorTable {', '.join(self.names)}>"

    def concerns(self, event: Event) -> bool:
        """Return whether somebody is told of an event."""
        return event.type in self._types and bool(self.of(event))

    def of(self, event: Event) -> Sequence[Reactor]:
        """Return who is told of an event."""
        return self._of.get((event.stream_id.partition(":")[0], event.type), ())


class Reaction(Reading):
    """An event, as a reactor that asks for runs sees it, and what it may read besides.

    It has the program's own rights.
    """

    def __init__(
        self,
        directory: Directory,
        catalog: Catalog,
        workspace_id: str,
        record: Event,
        *,
        rates: _Rates,
        table: ReactorTable,
        lists: _Lists,
    ) -> None:
        super().__init__(directory, catalog, workspace_id, SYSTEM)
        self.record = record
        """The event as it stands in the log."""
        self._turn = Turn(directory.node.limits.turn_s)
        self._rates = rates
        self._table = table
        self._lists = lists

    def __repr__(self) -> str:
        return f"<Reaction to event {self.record.event_seq} of {self.workspace_id}>"

    async def state(self) -> Any:  # noqa: ANN401 - the domain's
        """Return the state of the event's entity right after it, not now; None where it ended.

        Raises:
            UnavailableError: the store is away.

        """
        return await self.state_at(self.record)

    async def snapshot(
        self,
        domain: Domain[Any, Any, Any],
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int = 100,
    ) -> Snapshot[Any]:
        """List entities with their states, as `Workspace.snapshot` does.

        Events that are told together, one after the other, are given the same list, which is of
        after all of them: where many are, it is not read for each.

        Raises:
            Reject: ``BAD_REQUEST`` for what cannot be a key.
            UnavailableError: the store is away.

        """
        asked = domain.name, key, after, limit
        if asked not in self._lists:
            self._lists[asked] = await super().snapshot(domain, key=key, after=after, limit=limit)
        return self._lists[asked]

    async def pause(self) -> None:
        """Yield to other tasks if this one has run for long; for reactors that compute."""
        await self._turn.pause()

    def spend(self, rate: Rate, key: str) -> bool:
        """Count the event for a key, at the time that the log has for it; return whether it may be.

        A reactor that is told of the event again is answered in the same way.  The counts are this
        node's: after a restart, or on another node, a key begins anew.
        """
        return self._rates.spend(rate, key, self.record)

    def fail(self, what: str, error: Exception) -> None:
        """Count and log that something of the event failed, as where a reactor raises.

        It is for one that asks for several runs, of which the others are asked for.
        """
        self._table.failed += 1
        where = f"{self.workspace_id}: event {self.record.event_seq}"
        _log.warning("%s asks for no run of %s", where, what, exc_info=error)


_Lists: TypeAlias = "LRUCache[tuple[str, str | None, Place, int], Snapshot[Any]]"


class _Rates:
    """What the events of a workspace were counted for."""

    def __init__(self, kept_max: int) -> None:
        self._buckets = Buckets(kept_max)
        self._answers: LRUCache[tuple[str, str, int], bool] = LRUCache(kept_max)
        """Of the events last told, which may be told again."""

    def spend(self, rate: Rate, key: str, record: Event) -> bool:
        asked = rate.name, key, record.event_seq
        if asked not in self._answers:
            now = record.recorded_at.timestamp()
            self._answers[asked] = self._buckets.spend(rate, key, now).wait_s == 0
        return self._answers[asked]


class Reactions:
    """What the reactors of one workspace make of a page of its events."""

    def __init__(
        self, directory: Directory, catalog: Catalog, workspace_id: str, table: ReactorTable
    ) -> None:
        self._directory = directory
        self._catalog = catalog
        self._limits = directory.node.limits
        self._workspace_id = workspace_id
        self._table = table
        self._rates = _Rates(self._limits.rates_kept_max)
        self._lists: _Lists = LRUCache(_LISTS_MAX)

    def __repr__(self) -> str:
        return f"<Reactions of {self._table!r} in {self._workspace_id}>"

    async def to(
        self, events: Sequence[Event], began: Mapping[str, Cursor]
    ) -> Sequence[TriggerRun]:
        """Return the runs that a page asks for, in order.

        Args:
            events: the page.
            began: after which number each reactor is told of anything.

        Raises:
            UnavailableError: the store is away: ask again.

        """
        states = _States(self._directory, self._catalog, self._workspace_id)
        self._lists = LRUCache(_LISTS_MAX)
        asked: list[TriggerRun] = []
        turn = Turn(self._limits.turn_s)
        for event in events:
            await turn.pause()
            if event.stream_id.partition(":")[0] in self._table.stateful:
                states.pass_by(event)
            for reactor in self._table.of(event):
                if event.event_seq > began[reactor.name].seq:
                    chosen = await self._chosen(reactor, event, states)
                    asked += [_trigger(reactor, event, each) for each in chosen]
        return asked

    async def _chosen(self, reactor: Reactor, event: Event, states: _States) -> Sequence[RunFor]:
        """Return what one reactor asks for because of one event; nothing where that fails.

        Too slow is no failure the first time: it may be the store that was.
        """
        try:
            for _ in range(_TRIES - 1):
                with suppress(trio.TooSlowError):
                    return await self._choose(reactor, event, states)
            return await self._choose(reactor, event, states)
        except UnavailableError:
            raise
        except Exception:  # noqa: BLE001 - a reactor is a user's code: this event's alone
            self._table.failed += 1
            _log.warning(
                "%s: event %d asks for no run of %s",
                self._workspace_id,
                event.event_seq,
                reactor.name,
                exc_info=True,
            )
            return ()

    async def _choose(self, reactor: Reactor, event: Event, states: _States) -> Sequence[RunFor]:
        domain = self._catalog.domains[reactor.domain]
        known = domain.decode(event.type, event.type_version, event.payload)
        if known is None:
            return ()
        if reactor.when is not None:
            given = (await states.at(event), known) if reactor.takes_state else (known,)
            if not reactor.when(*given):
                return ()
        if reactor.choose is None:
            return (RunFor(worker=reactor.name),)
        reaction = Reaction(
            self._directory,
            self._catalog,
            self._workspace_id,
            event,
            rates=self._rates,
            table=self._table,
            lists=self._lists,
        )
        with trio.fail_after(self._limits.reaction_deadline_s):
            chosen = await reactor.choose(reaction, known)
        if not isinstance(chosen, (list, tuple)):
            raise TypeError("a reactor returns RunFor, several or none")
        if len(chosen) > self._limits.runs_per_event_max:
            raise Reject("BAD_REQUEST", f"at most {self._limits.runs_per_event_max} runs an event")
        if any(type(each) is not RunFor for each in chosen):
            raise TypeError("a reactor returns RunFor, several or none")
        return chosen


class _States:
    """The states of entities at the events of one page: loaded once, then folded on."""

    def __init__(self, directory: Directory, catalog: Catalog, workspace_id: str) -> None:
        self._directory = directory
        self._catalog = catalog
        self._workspace_id = workspace_id
        self._known: dict[str, tuple[int, Any]] = {}

    def pass_by(self, event: Event) -> None:
        """Fold an event, where the state before it is known."""
        before = self._known.get(event.stream_id)
        if before is None or before[0] != event.stream_seq - 1:
            return
        domain = self._catalog.domains[event.stream_id.partition(":")[0]]
        try:
            known = domain.decode(event.type, event.type_version, event.payload)
            state = before[1] if known is None else domain.evolve_by(before[1], known)
        except Exception:  # noqa: BLE001 - whoever needs it loads it, and hears why that fails
            del self._known[event.stream_id]
        else:
            self._known[event.stream_id] = event.stream_seq, state

    async def at(self, event: Event) -> Any:  # noqa: ANN401 - the domain's
        """Return the state of an event's entity right after it.

        Raises:
            UnavailableError: the store is away.

        """
        name, _, entity_id = event.stream_id.partition(":")
        known = self._known.get(event.stream_id)
        if known is None or known[0] != event.stream_seq:
            entity = await look_at(
                self._directory,
                self._catalog,
                self._workspace_id,
                self._catalog.domains[name],
                entity_id,
                event.stream_seq,
                principal=SYSTEM,
            )
            known = entity.version, entity.state
            if len(self._known) < _STATES_MAX or event.stream_id in self._known:
                self._known[event.stream_id] = known
        return known[1]


def _trigger(reactor: Reactor, event: Event, asked: RunFor) -> TriggerRun:
    return TriggerRun(
        run_id=run_id_for(reactor.name, asked.key, asked.trigger_id or event.event_id),
        worker=asked.worker,
        trigger=Trigger(
            stream_id=event.stream_id,
            event_seq=event.event_seq,
            version=event.stream_seq,
            event_id=event.event_id,
        ),
        cause=cause_of(event),
        depth_max=reactor.depth_max,
        input=asked.input,
        labels=asked.labels,
        deadline_s=asked.deadline_s,
        requested_by=asked.requested_by,
    )


def cause_of(event: Event) -> str | None:
    """Return the run that made an event, or whose event it is; None where there is none."""
    for named in (event.causation, event.stream_id):
        if named is not None and named.startswith(f"{runs.name}:"):
            return named.partition(":")[2]
    return None
