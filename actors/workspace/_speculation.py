"""What a workspace decides before it is durable: pure bookkeeping, no waiting.

Commands are decided against *speculative* state: committed state with the events of the batches
that are on their way folded on top.  Events go into the forming batch; so does every answer, since
also a rejection may rest on events that are not durable yet (I2).  When a batch is committed, its
state becomes the committed state, and only then its answers leave.

    committed ──(in flight)──(forming)── speculative head

Nothing here is undone piece by piece: an incarnation whose batch was refused is dropped whole,
and its commands are decided again by the next one.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.actors.ports import (
    SYSTEM_ROLE,
    Batch,
    Head,
    ResultWrite,
    SnapshotWrite,
    StoredResult,
    asserted_role,
    role_in,
)
from dalsegno.protocol import (
    SEQ_MAX,
    Context,
    DalsegnoError,
    DomainError,
    Event,
    InternalError,
    On,
    Past,
    Reject,
    SequenceOverflowError,
    Touched,
    chain,
    check_nul,
)

from ._command import Receipt, stored_answer
from ._entity import (
    Entity,
    EntityCache,
    absent_entity,
    encoded_state,
    entity_write,
    fold,
    load_entity,
    snapshot_write,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dalsegno.actors.ports import StoredEntity, World
    from dalsegno.protocol import Domain, Limits

    from ._command import Command

_log = logging.getLogger("dalsegno.workspace")


@dataclass(slots=True)
class Forming:
    """A batch that takes shape, and after that the one in flight."""

    commands: list[Command] = field(default_factory=list)
    """All that were decided into it, in order; they go back to the mailbox if it is refused."""
    answers: list[tuple[Command, Receipt | DalsegnoError]] = field(default_factory=list)
    """… with their answers, which wait for its commit."""
    events: list[Event] = field(default_factory=list)
    entities: dict[str, Entity] = field(default_factory=dict)
    results: dict[tuple[str, str], ResultWrite] = field(default_factory=dict)
    snapshots: list[SnapshotWrite] = field(default_factory=list)
    payload_bytes: int = 0

    def give_answers(self) -> None:
        """Answer everybody, in order."""
        for command, answer in self.answers:
            command.answer(answer)


class Speculation:
    """One incarnation's view of its workspace."""

    def __init__(
        self,
        head: Head,
        *,
        owner_id: str | None,
        world: World,
        limits: Limits,
    ) -> None:
        self.epoch = head.epoch
        self.committed_seq = head.head_seq
        self.workspace_id = head.workspace_id
        self._owner_id = owner_id
        self._world = world
        self._limits = limits
        self._head_seq = head.head_seq
        self._chain = head.chain
        self._now = head.recorded_at or world.now()
        """The time of the commands at hand, which are decided in one go; it never steps back."""
        self.entities = EntityCache(
            count_max=limits.entities_cached_max, bytes_max=limits.entities_cached_bytes_max
        )
        self._ahead: dict[str, Entity] = {}
        """Entities with events that are not committed yet."""
        self._loaded: dict[str, Entity] = {}
        """What is committed of the entities of the commands at hand; no cache bound takes it."""
        self._results: OrderedDict[tuple[str, str], tuple[StoredResult, datetime]] = OrderedDict()
        """Answers of keys, and until when they hold; those in use last stay longest."""
        self._found: dict[tuple[str, str], StoredResult | None] = {}
        """What is known of the keys of the commands at hand."""
        self._keys_ahead: dict[tuple[str, str], tuple[ResultWrite, Receipt]] = {}
        self.forming = Forming()
        self.in_flight: Forming | None = None

    # ------------------------------------------------------------------------- what to load

    def missing_entities(self, commands: Iterable[Command]) -> dict[str, Domain[Any, Any, Any]]:
        """Tell which entities the commands need that are not in memory."""
        missing: dict[str, Domain[Any, Any, Any]] = {}
        self._loaded.clear()
        self._now = max(self._world.now(), self._now)
        for command in commands:
            for stream_id, domain in command.streams.items():
                # One that is ahead stays in here when its commit settles: see `settle`.
                known = self.entities.get(stream_id) or self._ahead.get(stream_id)
                if known is not None:
                    self._loaded[stream_id] = known
                else:
                    missing[stream_id] = domain
        return missing

    def missing_keys(self, commands: Iterable[Command]) -> list[tuple[str, str]]:
        """Tell which idempotency keys are not in memory."""
        keys = {(c.scope, c.key): None for c in commands if c.key is not None}
        self._found = {key: found for key in keys if (found := self._remembered(key)) is not None}
        return [key for key in keys if key not in self._found and key not in self._keys_ahead]

    def loaded(
        self, missing: Mapping[str, Domain[Any, Any, Any]], stored: Mapping[str, StoredEntity]
    ) -> None:
        """Take what the store has of the missing entities."""
        for stream_id, domain in missing.items():
            entity = (
                load_entity(domain, stored[stream_id])
                if stream_id in stored
                else absent_entity(domain)
            )
            self._loaded[stream_id] = entity
            self.entities.put(stream_id, entity)

    def found(
        self, keys: Iterable[tuple[str, str]], results: Mapping[tuple[str, str], StoredResult]
    ) -> None:
        """Take what the store has of the missing keys."""
        for key in keys:
            self._found[key] = results.get(key)
        for key, result in results.items():
            self._remember(key, result)

    def _known(self, stream_id: str) -> Entity:
        """Look at an entity of the commands at hand, with everything folded that was decided."""
        return self._ahead.get(stream_id) or self._loaded[stream_id]

    # ------------------------------------------------------------------------------ deciding

    @property
    def is_settled(self) -> bool:
        """True where nothing was decided that is not committed."""
        return self.in_flight is None and not self.forming.answers

    def decide(self, command: Command, past: Past | None = None) -> None:
        """Decide one command; its answer leaves with the batch that it rests on."""
        forming = self.forming
        answer: Receipt | DalsegnoError
        try:
            role = self._role(command)
            answer = self._repeated(command) or self._decide(command, role, past)
        except DalsegnoError as error:
            answer = error
        except Exception:  # noqa: BLE001 - a decider is a user's code: this command's alone
            _log.exception("%s: %s raised", self.workspace_id, command.name)
            answer = InternalError("the command failed", command_id=command.command_id)
        forming.commands.append(command)
        forming.answers.append((command, answer))

    def _repeated(self, command: Command) -> Receipt | DalsegnoError | None:
        if command.key is None:
            return None
        key = (command.scope, command.key)
        ahead = self._keys_ahead.get(key)
        if ahead is not None:
            return command.repeat(ahead[0].answer, ahead[0].payload_hash)
        stored = self._found.get(key)
        return None if stored is None else command.repeat(stored.answer, stored.payload_hash)

    def _decide(self, command: Command, role: str, past: Past | None) -> Receipt:
        decider = command.decider
        if role != SYSTEM_ROLE and role not in decider.allow:
            raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
        entity = self._known(command.stream_id)
        if entity.state is None and not decider.takes_none:
            name = command.domain.name
            raise Reject(f"{name.upper()}_NOT_FOUND", f"no such {name}")
        _check_base_version(command, entity.version)
        extras = self._extras(command, role, past) if decider.extras else ()
        decided = decider.function(entity.state, command.command, *extras)
        if decided is None:
            return self._leave(command, entity.version)
        several = decided if isinstance(decided, (list, tuple)) else (decided,)
        return self._apply(command, several, self._now)

    def _extras(self, command: Command, role: str, past: Past | None) -> list[Any]:
        """Make what a decider takes beside state and command, in its order."""
        made: list[Any] = []
        for name in command.decider.extras:
            match name:
                case "context":
                    made.append(
                        Context(
                            principal=command.principal,
                            role=role,
                            owner_id=self._owner_id,
                            now=self._now,
                            new_id=self._world.new_id,
                        )
                    )
                case "touched":
                    made.append(Touched({s: self._known(s).state for s in command.streams}))
                case _:
                    made.append(past)
        return made

    def _role(self, command: Command) -> str:
        user_id = command.principal.user_id
        if command.role_stream is None or user_id is None:
            role = asserted_role(command.principal)
        else:
            entity = self._known(command.role_stream)
            role = role_in(entity.version, entity.state, user_id, self._owner_id)
        if role is None:
            raise Reject("ROLE_FORBIDDEN", "not a member of this workspace")
        return role

    def _apply(self, command: Command, decided: Iterable[Any], now: datetime) -> Receipt:
        """Number the events of one command, fold them, and add all or none to the batch."""
        events: list[Event] = []
        entities: dict[str, Entity] = {}
        snapshots: list[SnapshotWrite] = []
        link = self._chain
        total = 0
        for one in decided:
            if isinstance(one, On):
                domain, stream_id, fact = one.domain, one.stream_id, one.event
            else:
                domain, stream_id, fact = command.domain, command.stream_id, one
            if stream_id not in command.streams:
                raise DomainError(f"{stream_id} is not in touches=")
            before = entities.get(stream_id) or self._known(stream_id)
            event = self._number(
                command, domain, stream_id, fact, before.version, now, len(events), link
            )
            link = event.chain
            events.append(event)
            size = len(event.payload)
            total += size
            after = fold(before, fact, stream_id, size)
            if after.version % domain.snapshot_every == 0:
                state = encoded_state(stream_id, after)
                if state is not None:
                    snapshots.append(snapshot_write(stream_id, after, state))
            entities[stream_id] = after
        if not events:
            return self._leave(command, self._known(command.stream_id).version)
        if len(events) > self._limits.command_events_max:
            raise Reject("BAD_REQUEST", f"more than {self._limits.command_events_max} events")
        own = entities.get(command.stream_id) or self._known(command.stream_id)
        receipt = command.receipt(events[-1].event_seq, own.version)
        self._take(command, receipt, events, entities, snapshots, total)
        return receipt

    def _number(
        self,
        command: Command,
        domain: Domain[Any, Any, Any],
        stream_id: str,
        fact: Any,  # noqa: ANN401 - one of the domain's events
        version: int,
        now: datetime,
        offset: int,
        link: int,
    ) -> Event:
        event_seq = self._head_seq + offset + 1
        if event_seq > SEQ_MAX:
            raise SequenceOverflowError(f"the log of {self.workspace_id} is full")
        try:
            type_, type_version, payload = domain.encode(fact)
        except UnicodeEncodeError:
            raise Reject("BAD_REQUEST", "a lone surrogate is not text") from None
        if "\\" in payload:
            check_nul(payload.encode())
        if "null" in payload and domain.decode(type_, type_version, payload) != fact:
            raise DomainError(f"{type_} has a value that JSON cannot hold, an infinity say")
        actor_id = command.principal.user_id
        return Event(
            workspace_id=self.workspace_id,
            event_seq=event_seq,
            stream_id=stream_id,
            stream_seq=version + 1,
            event_id=self._world.new_id(),
            type=type_,
            type_version=type_version,
            payload=payload,
            actor_id=actor_id,
            command_id=command.command_id,
            recorded_at=now,
            chain=chain(
                link,
                self.workspace_id,
                event_seq,
                stream_id,
                version + 1,
                type_,
                type_version,
                actor_id,
                now,
                payload,
            ),
            causation=command.causation,
            correlation_id=command.correlation_id,
        )

    def _take(
        self,
        command: Command,
        receipt: Receipt,
        events: list[Event],
        entities: dict[str, Entity],
        snapshots: list[SnapshotWrite],
        size: int,
    ) -> None:
        forming = self.forming
        forming.events += events
        forming.entities.update(entities)
        forming.snapshots += snapshots
        forming.payload_bytes += size
        self._ahead.update(entities)
        self._head_seq = events[-1].event_seq
        self._chain = events[-1].chain
        self._record(command, receipt)

    def _leave(self, command: Command, version: int) -> Receipt:
        """Answer a command that changes nothing; nor does its repeat, whatever happened since."""
        receipt = command.receipt(self._head_seq, version)
        self._record(command, receipt)
        return receipt

    def _record(self, command: Command, receipt: Receipt) -> None:
        if command.key is not None:
            key = (command.scope, command.key)
            result = ResultWrite(
                scope=command.scope,
                key=command.key,
                payload_hash=command.payload_hash,
                answer=stored_answer(receipt),
                event_seq=receipt.event_seq,
            )
            self.forming.results[key] = result
            self._keys_ahead[key] = (result, receipt)

    # -------------------------------------------------------------------------- committing

    @property
    def is_full(self) -> bool:
        """True where the forming batch should be on its way before more is decided."""
        forming, limits = self.forming, self._limits
        return (
            len(forming.commands) >= limits.batch_commands_max
            or forming.payload_bytes >= limits.batch_bytes_max
        )

    def start(self) -> Forming:
        """Close the forming batch: it is in flight now, and a new one forms."""
        assert self.in_flight is None, "one batch of a workspace is in flight"
        self.in_flight = self.forming
        self.forming = Forming()
        return self.in_flight

    def batch(self, forming: Forming) -> Batch:
        """Write a batch for the store."""
        writes = []
        for stream_id, entity in forming.entities.items():
            state = encoded_state(stream_id, entity) if self._is_lagging(entity) else None
            if state is not None:
                stored = msgspec.structs.replace(
                    entity, stored_version=entity.version, lag_bytes=0, size=len(state)
                )
                forming.entities[stream_id] = stored
                if self._ahead[stream_id] is entity:
                    self._ahead[stream_id] = stored
            writes.append(entity_write(stream_id, entity, state))
        return Batch(
            workspace_id=self.workspace_id,
            epoch=self.epoch,
            old_head=self.committed_seq,
            events=tuple(forming.events),
            entities=tuple(writes),
            results=tuple(forming.results.values()),
            snapshots=tuple(forming.snapshots),
            payload_bytes=forming.payload_bytes,
        )

    def _is_lagging(self, entity: Entity) -> bool:
        return (
            entity.version - entity.stored_version >= self._limits.state_lag_events_max
            or entity.lag_bytes >= self._limits.state_lag_bytes_max
        )

    def lagging(self) -> list[tuple[str, Entity]]:
        """Tell the committed entities whose stored state is older than they are."""
        entities = self.entities.items()
        return [(s, entity) for s, entity in entities if entity.stored_version < entity.version]

    def settle(self) -> Forming:
        """Make the batch in flight, which was committed, the committed state."""
        done, self.in_flight = self.in_flight, None
        assert done is not None, "a batch was in flight"
        if done.events:
            self.committed_seq = done.events[-1].event_seq
        # Commands at hand were loaded for before this settled: they see it all the same.
        for stream_id, entity in done.entities.items():
            self._loaded[stream_id] = entity
            self.entities.put(stream_id, entity)
            if self._ahead[stream_id].version == entity.version:
                del self._ahead[stream_id]
        for key, result in done.results.items():
            self._keys_ahead.pop(key, None)
            self._found[key] = stored = StoredResult(
                payload_hash=result.payload_hash,
                answer=result.answer,
                event_seq=result.event_seq,
                expires_in_s=self._limits.result_ttl_s,
            )
            self._remember(key, stored)
        return done

    def _remember(self, key: tuple[str, str], result: StoredResult) -> None:
        until = self._world.now() + timedelta(seconds=result.expires_in_s)
        self._results[key] = (result, until)
        self._results.move_to_end(key)
        while len(self._results) > self._limits.results_cached_max:
            self._results.popitem(last=False)

    def _remembered(self, key: tuple[str, str]) -> StoredResult | None:
        result, until = self._results.get(key, (None, None))
        if until is not None and until <= self._world.now():
            del self._results[key]
            return None
        return result


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
