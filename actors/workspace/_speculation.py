"""What a workspace decides before it is durable: pure bookkeeping, no waiting.

Commands are decided against *speculative* state: committed state with the events of the batches
that are on their way folded on top.  Events go into the forming batch; so does every answer, since
a rejection too may rest on events that are not durable yet (I2).  When a batch is committed, its
state becomes the committed state, and only then its answers leave.

    committed ──(in flight)──(forming)── speculative head

Nothing here is undone piece by piece: an incarnation whose batch was refused is dropped whole,
and its commands are decided again by the next one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from dalsegno.actors.ports import SYSTEM_ROLE, Batch, Head, gate_refusal, role_in
from dalsegno.protocol import (
    Context,
    DalsegnoError,
    InternalError,
    Receipt,
    Reject,
    Touched,
    not_a_member,
    not_found,
)

from ._cache import EntityCache
from ._command import named_streams
from ._draft import Draft, NotLoadedError
from ._entity import encoded_state, entity_write, snapshot_write
from ._idempotency import KnownKeys
from ._turn import Turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dalsegno.actors.ports import AuditWrite, CollectedRecord, ResultWrite, Roles, World
    from dalsegno.protocol import Domain, Due, Event, Limits, Past
    from dalsegno.protocol.runs import Worker

    from ._budget import WriteBudgets
    from ._cache import CacheBound
    from ._command import AnyDomain, Command, Receipts
    from ._entity import Entity

    Pasts: TypeAlias = Mapping[str, Past]
    """The past version that each command needs, by the command's id."""

_log = logging.getLogger("dalsegno.workspace")


@dataclass(slots=True)
class PendingBatch:
    """A batch that takes shape, and after that the one in flight."""

    commands: list[Command] = field(default_factory=list)
    """All that were decided into it, in order; they go back to the mailbox if it is refused."""
    answers: list[Receipts | DalsegnoError] = field(default_factory=list)
    """… and the answer to each, which waits for its commit."""
    events: list[Event] = field(default_factory=list)
    entities: dict[str, Entity] = field(default_factory=dict)
    results: dict[tuple[str, str], ResultWrite] = field(default_factory=dict)
    snapshots: list[tuple[str, Entity]] = field(default_factory=list)
    audits: list[AuditWrite] = field(default_factory=list)
    collected: list[CollectedRecord] = field(default_factory=list)
    payload_bytes: int = 0
    state_bytes: int = 0
    """What was changed, each time anew: a patch of a long text costs as much as the text."""

    def give_answers(self) -> None:
        """Answer every command, in order."""
        for command, answer in zip(self.commands, self.answers, strict=True):
            command.answer(answer)

    def take(self, draft: Draft) -> None:
        """Add what one command, or one group, led to."""
        self.events += draft.events
        self.entities.update(draft.entities)
        self.snapshots += draft.snapshots
        self.audits += draft.audits
        self.collected += draft.collected
        self.payload_bytes += draft.payload_bytes
        for entity in draft.entities.values():
            self.state_bytes += entity.size


class Speculation:
    """One incarnation's view of its workspace."""

    def __init__(
        self,
        head: Head,
        *,
        founder_id: str | None,
        budgets: WriteBudgets,
        cached: CacheBound,
        roles: Roles,
        workers: Mapping[str, Worker],
        world: World,
        limits: Limits,
    ) -> None:
        self.epoch = head.epoch
        self.committed_seq = head.head_seq
        self.workspace_id = head.workspace_id
        self._founder_id = founder_id
        self._budgets = budgets
        self._roles = roles
        self._workers = workers
        self._world = world
        self._limits = limits
        self._head_seq = head.head_seq
        self._chain = head.chain
        self._now = head.recorded_at or world.now()
        """The time of the commands at hand, which are decided in one go; it never steps back."""
        self.entities = EntityCache(cached, count_max=limits.entities_cached_max)
        self._ahead: dict[str, Entity] = {}
        """Entities with events that are not committed yet."""
        self._loaded: dict[str, Entity] = {}
        """What is committed of the entities of the commands at hand; no cache bound takes it."""
        self.keys = KnownKeys(now=world.now, limits=limits)
        self.forming = PendingBatch()
        self.in_flight: PendingBatch | None = None

    def __repr__(self) -> str:
        ahead = self._head_seq - self.committed_seq
        return f"<Speculation of {self.workspace_id} at {self.committed_seq}, {ahead} events ahead>"

    # ------------------------------------------------------------------------- what to load

    def missing_entities(self, commands: Iterable[Command]) -> dict[str, Domain[Any, Any, Any]]:
        """Begin with the commands at hand; return the entities they need that are not in memory."""
        missing: dict[str, Domain[Any, Any, Any]] = {}
        self._loaded.clear()
        self._now = max(self._world.now(), self._now)
        for command in commands:
            self._find(command.streams, missing)
            for other in command.others:
                self._find(other.streams, missing)
        return missing

    def _find(
        self, streams: Mapping[str, AnyDomain], missing: dict[str, AnyDomain]
    ) -> dict[str, AnyDomain]:
        """Find entities for the commands at hand in memory; return ``missing``, with the others."""
        for stream_id, domain in streams.items():
            if stream_id in self._loaded:
                continue
            # One that is ahead stays in here when its commit settles: see `settle`.
            known = self.entities.get(stream_id) or self._ahead.get(stream_id)
            if known is not None:
                self._loaded[stream_id] = known
            else:
                missing[stream_id] = domain
        return missing

    def loaded(self, stream_id: str, entity: Entity) -> None:
        """Take one of the missing entities, as the store has it."""
        self._loaded[stream_id] = entity
        self.entities.put(stream_id, entity)

    # ------------------------------------------------------------------------------ deciding

    @property
    def is_settled(self) -> bool:
        """True where nothing was decided that is not committed."""
        return self.in_flight is None and not self.forming.answers

    def decide(
        self,
        command: Command,
        pasts: Pasts,
        refused: DalsegnoError | None = None,
    ) -> dict[str, AnyDomain] | None:
        """Decide one command, or one group; its answer leaves with the batch that it rests on.

        The key is looked up before ``refused``, and before the role: a repeat of what took effect
        gets its answer, whoever has left since.

        Args:
            command: the command, or the first of a group.
            pasts: the past versions that it needs.
            refused: why it may not take effect now, if so.

        Returns:
            None once it is decided.  Else nothing happened: load these entities, and decide again.

        """
        forming = self.forming
        answer: Receipts | DalsegnoError
        try:
            answer = self.keys.answer(command) or refused or self._decide(command, pasts)
        except NotLoadedError as error:
            return self._find(error.streams, {})
        except DalsegnoError as error:
            # Its traceback has this frame, which has the answer: a cycle for each refused command.
            answer = error.with_traceback(None)
        except Exception:  # noqa: BLE001 - a decider is a user's code: this command's alone
            _log.exception("%s: %s raised", self.workspace_id, command.name)
            answer = InternalError("the command failed", command_id=command.command_id)
        forming.commands.append(command)
        forming.answers.append(answer)
        return None

    def _decide(self, command: Command, pasts: Pasts) -> Receipts:
        """Add all that a command or a group leads to to the batch, or nothing."""
        draft = Draft(
            head_seq=self._head_seq,
            chain=self._chain,
            now=self._now,
            new_id=self._world.new_id,
            new_salt=self._world.new_salt,
            ahead=self._ahead,
            loaded=self._loaded,
            events_max=self._limits.command_events_max,
        )
        if command.others:
            several: list[Receipt] = []
            for number, each in enumerate(command.group):
                try:
                    several.append(self._decide_one(each, draft, pasts, several))
                except Reject as error:
                    raise _in_group(error, number) from None
            answer: Receipts = tuple(several)
        else:
            answer = self._decide_one(command, draft, pasts)
        self._budgets.spend(command.principal, self._bytes_of(draft))
        self.forming.take(draft)
        self._ahead.update(draft.entities)
        self._head_seq, self._chain = draft.head_seq, draft.chain
        result = self.keys.record(command, answer)
        if result is not None:
            self.forming.results[result.scope, result.key] = result
        return answer

    def _decide_one(
        self, command: Command, draft: Draft, pasts: Pasts, earlier: Sequence[Receipt] = ()
    ) -> Receipt:
        """Decide one command on what is in the draft, and add its events to that.

        A command without events is answered with the head that it saw; so is its repeat, whatever
        has happened since.
        """
        if command.is_relisting:
            for stream_id in command.streams:
                draft.relist(stream_id)
            return command.receipt(draft.head_seq, draft.entity(command.stream_id).version)
        if command.is_collecting:
            draft.collect(command)
            return command.receipt(draft.head_seq, draft.entity(command.stream_id).version)
        if command.due is not None and not self._is_due(command, command.due, draft):
            return command.receipt(draft.head_seq, draft.entity(command.stream_id).version)
        role, decider = self._role(command, draft), command.decider
        if role != SYSTEM_ROLE and not self._roles.sends(
            self.workspace_id, role, str(command.principal.user_id), command.name, decider
        ):
            raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
        entity = draft.entity(command.stream_id)
        if entity.state is None and not decider.takes_none:
            raise not_found(command.stream_id)
        _check_base_version(command, entity.version)
        streams: Mapping[str, AnyDomain] = command.streams
        if decider.follows is not None:
            beside = [_touched(draft, command.streams)] if decider.follows_touched else []
            named = decider.follows(entity.state, command.command, *beside)
            followed = named_streams(named, self._limits)
            _check_number(command, followed, self._limits)
            draft.check_loaded(followed)
            streams = {**streams, **followed}
        extras: Sequence[Any] = ()
        if decider.extras:
            extras = self._extras(command, role, draft, streams, pasts, earlier)
        decided = decider.function(entity.state, command.command, *extras)
        if decided is not None:
            for each in decided if isinstance(decided, (list, tuple)) else (decided,):
                draft.add(each, command, streams)
        after = draft.entities.get(command.stream_id, entity)
        return command.receipt(draft.head_seq, after.version)

    def _is_due(self, command: Command, due: Due, draft: Draft) -> bool:
        """Return whether an entity asks still for what a timer sends, and its time has come.

        A row that said so wrongly is corrected.
        """
        entity = draft.entity(command.stream_id)
        now_due = entity.domain.due_of(entity.state, command.stream_id.partition(":")[2])
        if now_due != due:
            draft.relist(command.stream_id)
            return False
        return due.at <= self._now

    def _extras(
        self,
        command: Command,
        role: str,
        draft: Draft,
        streams: Mapping[str, AnyDomain],
        pasts: Pasts,
        earlier: Sequence[Receipt],
    ) -> list[Any]:
        """Make what a decider takes beside state and command, in its order."""
        made: list[Any] = []
        for name in command.decider.extras:
            match name:
                case "context":
                    made.append(
                        Context(
                            entity_id=command.stream_id.partition(":")[2],
                            principal=command.principal,
                            role=role,
                            workspace_id=self.workspace_id,
                            owner_id=self._founder_id,
                            now=self._now,
                            new_id=draft.name_another,
                            limits=self._limits,
                            roles=self._roles.table,
                            workers=self._workers,
                            depth=command.depth,
                            earlier=tuple(earlier),
                        )
                    )
                case "touched":
                    made.append(_touched(draft, streams))
                case _:
                    made.append(pasts.get(command.command_id))
        return made

    def _role(self, command: Command, draft: Draft) -> str:
        """Return the role of who asks, where the workspace is open to what is asked."""
        if command.gate_stream is not None:
            gate = draft.entity(command.gate_stream)
            refusal = gate_refusal(gate.domain, gate.state, command.domain.name)
            if refusal is not None:
                raise refusal
        user_id, role = command.principal.user_id, command.principal.role
        if user_id is None:
            return SYSTEM_ROLE
        if command.role_stream is not None:
            member = draft.entity(command.role_stream)
            role = role_in(member.domain, member.version, member.state, user_id, self._founder_id)
        if role is None:
            raise not_a_member()
        return role

    def _bytes_of(self, draft: Draft) -> int:
        """Return about how much is written for a command: events, snapshots, states that lag."""
        size = draft.payload_bytes
        for stream_id, entity in draft.entities.items():
            before = self._ahead.get(stream_id) or self._loaded.get(stream_id)
            if self._is_lagging(entity) and (before is None or not self._is_lagging(before)):
                size += entity.size
        for _, entity in draft.snapshots:
            size += entity.size
        return size

    # -------------------------------------------------------------------------- committing

    @property
    def is_full(self) -> bool:
        """Whether the forming batch should be sent before more is decided."""
        forming, limits = self.forming, self._limits
        return (
            len(forming.commands) >= limits.batch_commands_max
            or forming.payload_bytes >= limits.batch_bytes_max
            or forming.state_bytes >= limits.batch_state_bytes_max
        )

    def start(self) -> PendingBatch:
        """Close the forming batch: it is in flight now, and a new one forms."""
        assert self.in_flight is None, "one batch of a workspace is in flight"
        self.in_flight = self.forming
        self.forming = PendingBatch()
        return self.in_flight

    async def batch(self, pending: PendingBatch) -> Batch:
        """Write a batch, the one in flight, for the store."""
        writes, snapshots, turn = [], [], Turn(self._limits.turn_s)
        size = pending.payload_bytes
        for stream_id, entity in pending.snapshots:
            await turn.pause()
            state = encoded_state(stream_id, entity)
            if state is not None:
                size += len(state)
                snapshots.append(snapshot_write(stream_id, entity, state))
        for stream_id, entity in pending.entities.items():
            state = None
            if self._is_lagging(entity):
                await turn.pause()
                state = encoded_state(stream_id, entity)
            writes.append(entity_write(stream_id, entity, state))
            written = entity
            if state is not None:
                size += len(state)
                written = msgspec.structs.replace(
                    entity, stored_version=entity.version, lag_bytes=0, size=state.__sizeof__()
                )
            if entity.is_relisted:
                written = msgspec.structs.replace(written, is_relisted=False)
            if written is not entity:
                pending.entities[stream_id] = written
                if self._ahead[stream_id] is entity:  # else more was decided on it meanwhile
                    self._ahead[stream_id] = written
        return Batch(
            workspace_id=self.workspace_id,
            epoch=self.epoch,
            old_head=self.committed_seq,
            events=tuple(pending.events),
            entities=tuple(writes),
            results=tuple(pending.results.values()),
            snapshots=tuple(snapshots),
            audits=tuple(pending.audits),
            collected=tuple(pending.collected),
            size=size,
        )

    def _is_lagging(self, entity: Entity) -> bool:
        return (
            entity.version - entity.stored_version >= self._limits.state_lag_events_max
            or entity.lag_bytes >= self._limits.state_lag_bytes_max
        )

    def lagging(self) -> list[tuple[str, Entity]]:
        """Return the committed entities whose stored state is older than they are."""
        entities = self.entities.items()
        return [(s, entity) for s, entity in entities if entity.stored_version < entity.version]

    def settle(self) -> None:
        """Make the batch in flight, which was committed, the committed state."""
        done, self.in_flight = self.in_flight, None
        assert done is not None, "a batch was in flight"
        if done.events:
            self.committed_seq = done.events[-1].event_seq
        # Commands at hand were loaded for before this settled: they see it all the same.
        for stream_id, entity in done.entities.items():
            self._loaded[stream_id] = entity
            self.entities.put(stream_id, entity)
            if self._ahead[stream_id] is entity:  # else something forms on it
                del self._ahead[stream_id]
        self.keys.settle(done.results.values())


def _touched(draft: Draft, streams: Iterable[str]) -> Touched:
    return Touched({stream_id: draft.entity(stream_id).state for stream_id in streams})


def _check_number(command: Command, followed: Mapping[str, AnyDomain], limits: Limits) -> None:
    """Raise `Reject` where a command concerns too many entities, those of ``touches=`` counted."""
    own = {command.stream_id, command.role_stream, command.gate_stream}
    if len((command.streams.keys() | followed.keys()) - own) > limits.command_entities_max:
        message = f"a command concerns at most {limits.command_entities_max} entities"
        raise Reject("BAD_REQUEST", message)


def _in_group(error: Reject, number: int) -> Reject:
    """Return the refusal of a group for that of one of its commands, which it counts from 0.

    A new one: a domain may raise the same object again and again.
    """
    refusal = Reject(error.code, error.message, status=error.status)
    refusal.details = {**error.details, "command": number}
    return refusal


def _check_base_version(command: Command, version: int) -> None:
    base_version = getattr(command.command, "base_version", None)
    if base_version is not None and base_version != version:
        raise Reject(
            "VERSION_CONFLICT",
            f"based on version {base_version}, the current one is {version}",
            expected_version=base_version,
            current_version=version,
            resource_id=command.stream_id.partition(":")[2],
        )
