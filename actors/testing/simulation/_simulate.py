"""Simulation of whole nodes, many clients and every fault: in one thread, fast, deterministic.

A simulation runs several nodes on one store in one ``trio.run`` whose clock jumps.  Clients send,
read, follow, acknowledge, come and go, while links, processes, clocks and connections fail.  Then
everything is healed, what lasts has to converge, and the history is judged by the checker.

All decisions come from one source (`Choices`), so one seed is one schedule, to the last step.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import trio
import trio.testing

from dalsegno.actors._service import Service
from dalsegno.actors.domains.accounts import account_domains
from dalsegno.actors.domains.members import PutMember
from dalsegno.actors.ports import World
from dalsegno.actors.testing.checker import Recorder, RunRule
from dalsegno.protocol import App, Limits, OutcomeUnknownError, UnavailableError, workspace_stream
from dalsegno.protocol.runs import Transcript

from ._client import SimClient
from ._crowd import Crowd
from ._failover import FailoverStore
from ._faults import FAULTS, Faults
from ._gate import Gates
from ._invariant import check_invariant
from ._lists import check_due, check_lists
from ._load import Load
from ._node import SimClock, SimNode
from ._purity import called_twice
from ._result import judge

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from dalsegno.protocol import Domain, Event

    from ._choices import Choices
    from ._client import Wanted
    from ._invariant import Invariant
    from ._lists import Taken
    from ._load import Ask
    from ._result import Simulated

SIM_LIMITS = Limits(
    mailbox_commands_max=8,
    batch_commands_max=3,
    turn_s=0.0,
    entities_cached_max=3,
    state_lag_events_max=3,
    results_cached_max=3,
    mailbox_deadline_s=2.0,
    command_deadline_s=6.0,
    workspaces_active_max=20,
    passivate_after_s=1.0,
    activations_max=2,
    lease_s=2.0,
    lease_beat_s=0.5,
    service_failures_max=20,
    commit_deadline_s=2.0,
    locked_retries_max=5,
    answer_deadline_s=3.0,
    backoff_max_s=2.0,
    offers_per_yield=1,
    outbox_bytes_max=1_500,
    replies_bytes_max=8_192,
    page_events=3,
    page_bytes_max=2_048,
    tail_bytes_max=2_048,
    pages_bytes_max=2_048,
    subscribing_max=2,
    write_deadline_s=2.0,
    heartbeat_interval_s=1.0,
    client_timeout_s=6.0,
    ping_interval_s=2.0,
    pong_deadline_s=2.0,
    close_deadline_s=0.5,
    ack_flush_s=0.05,
    drain_deadline_s=1.0,
    timer_tick_s=0.2,
    timers_read_max=3,
    timers_per_tick_max=9,
    timers_per_workspace_max=2,
    timers_firing_max=4,
    runs_running_max=4,
    runs_waiting_max=4,
    runs_scan_s=2.0,
    reaction_deadline_s=3.0,
    places_every_s=0.5,
    run_end_deadline_s=0.5,
)
"""Bounds so small that short schedules reach them."""

_PATIENCE_S = 60.0
"""How long everything may take to come to rest after it was healed, in simulated time."""
_LOOK_S = 0.5
_LATE_S = 3.0
"""How late something that is due may be: a lease, and some ticks."""
_PAUSES = (0.0, 0.0, 0.0, 0.01, 0.1, 0.5, 1.0)
"""The pauses between two steps of a schedule, in seconds."""
_FAULTY = 0.25
"""How many steps are faults."""
_UNDER_LOAD = 0.5
"""How many faults strike under load."""
_REMEMBERED = 0.2
RUNS = RunRule(
    started=frozenset({"run_started"}),
    terminal=frozenset({"run_finished"}),
    cancelled=frozenset({"run_cancel_requested"}),
)
"""How the runs of workers are judged."""
OPERATIONS = (
    *("command",) * 6,
    *("crowd",) * 5,
    *("ack", "read", "subscribe") * 2,
    *("entities", "group", "burst", "member", "repeat"),
    *("resubscribe", "unsubscribe", "look_at_head", "idle"),
)
"""The steps that are not faults, each as likely as it is frequent here."""


def simulate(
    choices: Choices,
    app: App | None = None,
    *,
    domains: Sequence[Domain[Any, Any, Any]] = (),
    commands: Callable[[Choices], msgspec.Struct | Ask],
    nodes: int = 3,
    clients: int = 4,
    workspaces: int = 2,
    steps: int = 24,
    faults: Sequence[str] = FAULTS,
    operations: Sequence[str] = OPERATIONS,
    limits: Limits = SIM_LIMITS,
    invariant: Invariant | None = None,
    until: Literal["quiet", "settled"] = "quiet",
    later: Sequence[Domain[Any, Any, Any]] = (),
    make_service: Callable[..., Service] = Service,
) -> Simulated:
    """Run one schedule to its end and judge it.

    Args:
        choices: the source of decisions: `SeededChoices`, or `HypothesisChoices`.
        app: what the nodes serve; its workers have to draw what they do from ``choices``, or from
            something as repeatable.
        domains: the domains of the workspaces, besides accounts and members, for an app that has
            nothing else.
        commands: returns a command, by decisions of its own.
        nodes: how many there are.
        clients: how many there are; the first is the workspaces' owner, the others are editors.
        workspaces: how many there are.
        steps: how many operations and faults the schedule has.
        faults: the kinds of faults, all equally likely; empty for a schedule without.
        operations: the kinds of operations, equally likely; repeat one to make it likelier.
        limits: every bound.
        invariant: takes the states of all entities of a workspace that exist, by stream, and
            returns what is wrong with them, or None.  It is asked at the end, of every state that
            the log ever was in after a whole command or group.
        until: when it ends: once everybody has what was committed, or ``settled``, once what was
            due has happened as well.  A domain that is due for ever more never settles.
        later: another version of some domains, with the same commands: the fault ``deploy``
            restarts a node with it, or with the first one again.
        make_service: returns a node's actors.

    """
    app = App(domains) if app is None else app
    app.check(account_domains)
    everything = (*account_domains, *app.domains)
    simulation = _Simulation(
        choices,
        domains=everything,
        commands=commands,
        sizes=(nodes, clients, workspaces, steps),
        faults=faults,
        operations=operations,
        limits=limits,
        until=until,
        later=later,
        make_service=partial(
            make_service, roles=app.roles, workers=app.workers, reactors=app.reactors
        ),
        rule=RUNS if app.workers else None,
        reactors=[each.name for each in app.reactors],
    )
    clock = trio.testing.MockClock(autojump_threshold=0)
    with (
        _Errors(only_raised="failover" in faults) as errors,
        called_twice((*everything, *later)) as impure,
        choices.scheduling(),
    ):
        trio.run(simulation.run, clock=clock, instruments=[Gates()])
    done = simulation.result([*impure, *errors.messages])
    if "failover" not in faults:
        done.violations.extend(check_lists(simulation.taken, done.log))
    if invariant is not None:
        done.violations.extend(check_invariant(invariant, everything, done.log))
    return done


class _Simulation:
    """One schedule."""

    def __init__(
        self,
        choices: Choices,
        *,
        domains: Sequence[Domain[Any, Any, Any]],
        commands: Callable[[Choices], msgspec.Struct | Ask],
        sizes: tuple[int, int, int, int],
        faults: Sequence[str],
        operations: Sequence[str],
        limits: Limits,
        until: str,
        later: Sequence[Domain[Any, Any, Any]],
        make_service: Callable[..., Service],
        rule: RunRule | None,
        reactors: Sequence[str],
    ) -> None:
        self._rule = rule
        self._reactors = reactors
        self._choices = choices
        self._domains = domains
        self._until = until
        newer = {domain.name: domain for domain in later}
        self._later = [newer.get(domain.name, domain) for domain in domains]
        self.taken: Sequence[Taken] = ()
        """The lists that were read."""
        self._make_command = commands
        self._node_count, self._client_count, workspaces, self._steps = sizes
        self._workspaces = [f"w{number}" for number in range(workspaces)]
        self._kinds = faults
        self._operations = operations
        self._limits = limits
        self._make_service = make_service
        self._counts: Counter[str] = Counter()
        self._noise = choices.noise()
        self._recorder = Recorder(trio.current_time)
        self._right = SimClock()
        world = World(
            now=self._right.now,
            random=self._noise.random,
            new_id=self._recorder.new_id,
            new_salt=lambda: bytes(16),
        )
        self._store = FailoverStore(world, limits=limits)
        self._log: dict[str, list[Event]] | None = None
        """The logs, once all had come to rest."""
        self._nodes: list[SimNode] = []
        self._clients: list[SimClient] = []
        self._under_way = 0
        """The number of operations that have not ended."""
        self._complaints: list[str] = []
        """What clients saw that is wrong unless a history was lost."""
        self._stuck: list[str] = []
        """What did not come to rest."""
        self._lasted_s = 0.0

    async def run(self) -> None:
        """Run the schedule."""
        async with trio.open_nursery() as nursery:
            self._nodes += [self._node(f"n{n}", nursery) for n in range(self._node_count)]
            await self._create_workspaces()
            self._clients += [self._client(number) for number in range(self._client_count)]
            for client in self._clients:
                nursery.start_soon(client.run)
            faults = self._faults(nursery)
            load = self._load()
            self.taken = load.taken
            try:
                await self._interleave(load, faults, nursery)
                faults.heal()
                await self._settle(faults)
                self._lasted_s = trio.current_time()
            finally:
                faults.thaw()
            nursery.cancel_scope.cancel()

    def result(self, bugs: list[str]) -> Simulated:
        """Judge the history and return the result."""
        died = [f"{node!r} died: {error!r}" for node in self._nodes for error in node.failures]
        if "failover" not in self._kinds:
            died += self._complaints
        return judge(
            self._recorder.history,
            self._store.logs() if self._log is None else self._log,
            cursors=self._store.cursors(),
            bugs=[*bugs, *died, *self._stuck],
            faults=self._counts,
            runs=self._rule,
            steps=sum(node.steps for node in self._nodes),
            lasted_s=self._lasted_s,
        )

    # -------------------------------------------------------------------------------- parts

    def _node(self, node_id: str, nursery: trio.Nursery) -> SimNode:
        return SimNode(
            node_id,
            self._store,
            self._domains,
            nursery=nursery,
            noise=self._noise,
            limits=self._limits,
            faults=self._counts,
            recorder=self._recorder,
            make_service=self._make_service,
        )

    def _client(self, number: int) -> SimClient:
        return SimClient(
            f"c{number}",
            _user(number),
            home=self._workspaces[number % len(self._workspaces)],
            nodes=self._nodes,
            store=self._store,
            recorder=self._recorder,
            complaints=self._complaints,
            noise=self._noise,
            limits=self._limits,
            with_chains="failover" in self._kinds,
        )

    def _faults(self, nursery: trio.Nursery) -> Faults:
        return Faults(
            self._choices,
            store=self._store,
            nodes=self._nodes,
            clients=self._clients,
            nursery=nursery,
            recorder=self._recorder,
            limits=self._limits,
            counts=self._counts,
            versions=(self._domains, self._later),
        )

    def _load(self) -> Load:
        return Load(
            self._choices,
            store=self._store,
            clients=self._clients,
            nodes=self._nodes,
            workspaces=self._workspaces,
            domains=self._nodes[0].process.service.catalog.commands,
            commands=self._make_command,
            recorder=self._recorder,
            complaints=self._complaints,
        )

    def _crowd(self, load: Load, faults: Faults) -> Crowd:
        return Crowd(
            self._choices,
            load,
            faults,
            clients=self._clients,
            workspaces=self._workspaces,
            operations=self._operations,
            kinds=self._kinds,
            limits=self._limits,
        )

    # ------------------------------------------------------------------------------- phases

    async def _create_workspaces(self) -> None:
        """Create the workspaces, with every client a member."""
        process = self._nodes[0].process
        for workspace_id in self._workspaces:
            for number in range(self._client_count):
                command = PutMember(_user(number), "owner" if number == 0 else "editor")
                await process.send(workspace_id, command)

    async def _interleave(self, load: Load, faults: Faults, nursery: trio.Nursery) -> None:
        choices = self._choices
        for client in self._clients:
            client.want(client.home, workspace_stream(client.home), 0)
        crowd = self._crowd(load, faults)
        operations = [
            crowd.gather if name == "crowd" else getattr(load, name) for name in self._operations
        ]
        for _ in range(self._steps):
            if self._kinds and choices.chance(_FAULTY):
                await faults.strike(choices.pick(self._kinds))
                if "burst" in self._operations and choices.chance(_UNDER_LOAD):
                    nursery.start_soon(self._operate, load.burst)
            else:
                nursery.start_soon(self._operate, choices.pick(operations))
            if "failover" in self._kinds and choices.chance(_REMEMBERED):
                faults.remember()
            await trio.sleep(choices.pick(_PAUSES))

    async def _operate(self, operation: Callable[[], Awaitable[None]]) -> None:
        self._under_way += 1
        await operation()
        self._under_way -= 1

    async def _settle(self, faults: Faults) -> None:
        """Heal until all is quiet, or until patience has run out."""
        with trio.move_on_after(_PATIENCE_S):
            await self._wait_settled(faults)
            for workspace_id in self._workspaces:
                await self._touch(workspace_id)
            await self._wait_settled(faults, are_told=True)
        self._clients[0].note_unwritten()  # the stored cursors are looked at next
        if self._until == "settled":
            late = self._right.now() - timedelta(seconds=_LATE_S)
            self._stuck += check_due(self._domains, self._store.logs(), late)
        self._recorder.settled()
        self._log = self._store.logs()  # what fires while the nodes end, nobody is there to see
        for client in self._clients:
            for wanted in client.wanted.values():
                if not self._is_at_rest(wanted):
                    self._stuck.append(f"{client!r} does not get on with {wanted!r}")
                elif "failover" not in self._kinds:
                    self._check_transcript(client, wanted)

    def _check_transcript(self, client: SimClient, wanted: Wanted) -> None:
        """Check that who has followed a run has the text that whoever reads the log has."""
        if wanted.transcript is None or wanted.followed is None:
            return
        whole = Transcript()
        assert self._log is not None, "it is the end"
        for event in self._log.get(wanted.workspace_id, ()):
            if event.stream_id == wanted.stream_id:
                whole.read(event.type, msgspec.json.decode(event.payload))
        if whole.is_over and wanted.transcript.texts != whole.texts:
            self._stuck.append(f"{client!r} has {wanted.transcript!r} of {whole!r}")

    async def _wait_settled(self, faults: Faults, *, are_told: bool = False) -> None:
        """Wait until all is quiet, and where it is asked for, until nothing is due any more.

        Both at once: what was done may have been asked for by a command that came late.

        Args:
            faults: what is healed meanwhile.
            are_told: whether reactors have to be told of everything, too, as they will be where
                every workspace is served.

        """
        await self._wait_quiet(faults)
        while self._until == "settled" and self._is_asking(are_told=are_told):
            await self._wait_done(are_told=are_told)
            await self._wait_quiet(faults)

    async def _wait_quiet(self, faults: Faults) -> None:
        while not self._is_quiet():
            if not faults.are_held:
                faults.heal()
            await trio.sleep(_LOOK_S)

    async def _wait_done(self, *, are_told: bool) -> None:
        """Wait until what was due has happened, by clocks that are right again."""
        for node in self._nodes:
            node.clock.offset_s = 0.0
        while self._is_asking(are_told=are_told):  # noqa: ASYNC110 - in virtual time
            await trio.sleep(_LOOK_S)

    def _is_asking(self, *, are_told: bool) -> bool:
        """Return whether something is due, a run is not over, or a reactor is to be told."""
        if are_told and self._store.are_behind(self._workspaces, self._reactors):
            return True
        is_run_open = self._rule is not None and self._store.is_open(self._rule.prefix)
        return is_run_open or self._store.is_due(self._right.now())

    async def _touch(self, workspace_id: str) -> None:
        """Write once more to a workspace, wherever it is: it has to accept commands."""
        while True:
            for node in self._nodes:
                try:
                    await node.process.send(workspace_id, PutMember("last", "viewer"))
                except (UnavailableError, OutcomeUnknownError):
                    await trio.sleep(_LOOK_S)
                else:
                    return

    def _is_quiet(self) -> bool:
        return (
            self._under_way == 0
            and all(node.is_up for node in self._nodes)
            and all(client.cable is not None for client in self._clients)
            and all(self._is_at_rest(w) for c in self._clients for w in c.wanted.values())
        )

    def _is_at_rest(self, wanted: Wanted) -> bool:
        """Return whether a stream is followed to its end, or may not be followed."""
        if wanted.followed is None:
            refused = wanted.refused or ""
            return refused == "ROLE_FORBIDDEN" or refused.endswith("_NOT_FOUND")
        return wanted.sent == self._store.head_of(wanted.workspace_id, wanted.stream_id)


def _user(number: int) -> str:
    return f"u{number}"


class _Errors(logging.Handler):
    """A handler that collects what the nodes log as errors; nothing else is even formatted."""

    def __init__(self, *, only_raised: bool) -> None:
        super().__init__(logging.ERROR)
        self._only_raised = only_raised
        """Whether only exceptions are collected: a node rightly logs that its log was replaced."""
        self.messages: list[str] = []
        self._logger = logging.getLogger("dalsegno")
        self._before = (self._logger.level, self._logger.propagate)

    def __enter__(self) -> Self:
        self._before = (self._logger.level, self._logger.propagate)
        self._logger.setLevel(logging.ERROR)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message with its traceback."""
        if record.exc_info or not self._only_raised:
            self.messages.append(self.format(record))
