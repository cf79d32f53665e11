"""The simulation finds what is broken: each variant breaks one promise, and is caught by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
import trio

from dalsegno.actors import AckedCursor, Batch
from dalsegno.actors.delivery._acks import AckFrontiers, Frontier
from dalsegno.actors.effects import Timers
from dalsegno.actors.node import Catalog
from dalsegno.actors.node._workspace_supervisor import WorkspaceSupervisor
from dalsegno.actors.ports import EntityWrite, Head
from dalsegno.actors.session._outbox import Outbox
from dalsegno.actors.testing import (
    OPERATIONS,
    SIM_LIMITS,
    Ask,
    Choices,
    SeededChoices,
    Simulated,
    Verdict,
)
from dalsegno.actors.testing.memory import MemoryStore
from dalsegno.actors.testing.memory._log import MemoryLog
from dalsegno.actors.testing.memory._tables import Cursors
from dalsegno.actors.workspace import Command
from dalsegno.actors.workspace._committer import Committer, Sending
from dalsegno.actors.workspace._draft import Draft
from dalsegno.actors.workspace._incarnation import Incarnation
from dalsegno.actors.workspace._speculation import PendingBatch, Speculation
from dalsegno.protocol import (
    SYSTEM,
    DalsegnoError,
    Due,
    FencedError,
    OutcomeUnknownError,
    Past,
    Principal,
    Publication,
    Reject,
    StoreUnavailableError,
    Subscription,
    chained,
    seq_of,
)
from tests.simulation._schedules import EVERYTHING, commands, of_locks, pairs, simulated, with_locks

pytestmark = pytest.mark.long
SEEDS = 150

Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Variant:
    """A broken promise, the verdict that names it, and the schedules that reach it soon."""

    break_it: Patch
    verdicts: tuple[Verdict, ...]
    how: dict[str, Any] = field(default_factory=dict)
    make_commands: Callable[[], Callable[[Choices], Ask]] = lambda: commands

    def simulated(self, seed: int) -> Simulated:
        """Run one of its schedules."""
        return simulated(SeededChoices(seed), **{**self.how, "commands": self.make_commands()})


# ------------------------------------------------------------------------------------ the log


def publishes_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    original = Incarnation._send

    async def send(self: Incarnation, speculation: Speculation) -> None:
        batch = speculation.forming
        await self._hub.publish(batch.events, batch.give_answers)
        await original(self, speculation)

    async def publish(self: Incarnation, _batch: PendingBatch) -> None:
        self._publishing = []

    patch.setattr(Incarnation, "_send", send)
    patch.setattr(Incarnation, "_publish", publish)


async def rebased(committer: Committer, batch: Batch, head: Head) -> Batch:
    """Number a batch anew, after the current head."""
    streams = [event.stream_id for event in batch.events]
    versions = await committer._store.read_versions(batch.workspace_id, streams)
    events, link, seq = [], head.chain, head.head_seq
    for event in batch.events:
        seq += 1
        versions[event.stream_id] = versions.get(event.stream_id, 0) + 1
        moved = msgspec.structs.replace(event, event_seq=seq, stream_seq=versions[event.stream_id])
        link = chained(link, moved)
        events.append(msgspec.structs.replace(moved, chain=link))
    entities = tuple(
        msgspec.structs.replace(write, version=versions.get(write.stream_id, write.version))
        for write in batch.entities
    )
    return msgspec.structs.replace(
        batch,
        old_head=head.head_seq,
        events=tuple(events),
        entities=entities,
        results=(),
        snapshots=(),
    )


def rebases_under_the_old_epoch_after_an_unknown_outcome(patch: pytest.MonkeyPatch) -> None:
    original = Committer.commit

    async def commit(self: Committer, sending: Sending) -> None:
        try:
            await original(self, sending)
        except OutcomeUnknownError:
            head = await self._store.read_head(sending.batch.workspace_id)
            assert head is not None
            again = await rebased(self, sending.batch, head)
            await original(self, await self._sent_alone(again))

    patch.setattr(Committer, "commit", commit)


def answers_an_unknown_outcome_without_fencing(patch: pytest.MonkeyPatch) -> None:
    original = Incarnation._append

    async def append(self: Incarnation, batch: PendingBatch) -> None:
        try:
            await original(self, batch)
        except OutcomeUnknownError:
            ids = [command.command_id for command in batch.commands]
            store = self._node.store
            found = await store.find_commands(self.workspace_id, ids, after_seq=0)
            for command in batch.commands:
                if command.command_id not in found:
                    command.answer(StoreUnavailableError("it is not there, so it was not applied"))
            raise

    patch.setattr(Incarnation, "_append", append)


def counts_in_each_process_and_the_store_does_not_compare(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryLog, "admits", lambda *_: True)
    patch.setattr(MemoryLog, "refuse_bad_rows", lambda *_: None)


def retries_as_whoever_owns_it_now(patch: pytest.MonkeyPatch) -> None:
    original = Committer.commit

    async def commit(self: Committer, sending: Sending) -> None:
        try:
            await original(self, sending)
        except FencedError:
            head = await self._store.read_head(sending.batch.workspace_id)
            assert head is not None
            again = await rebased(self, sending.batch, head)
            again = msgspec.structs.replace(again, epoch=head.epoch)
            await original(self, await self._sent_alone(again))

    patch.setattr(Committer, "commit", commit)


# ------------------------------------------------------------------------------------ answers


def drops_what_arrives_at_a_passivation(patch: pytest.MonkeyPatch) -> None:
    original = WorkspaceSupervisor._rest

    async def rest(self: WorkspaceSupervisor) -> None:
        self.mailbox.drain()
        await original(self)

    def passivate(self: WorkspaceSupervisor) -> bool:
        if self.incarnation is None or not self.is_running:
            return False
        self.incarnation.stop()
        return True

    patch.setattr(WorkspaceSupervisor, "_rest", rest)
    patch.setattr(WorkspaceSupervisor, "passivate", passivate)


def rejects_on_what_is_not_committed(patch: pytest.MonkeyPatch) -> None:
    original = Speculation.decide

    def decide(self: Speculation, command: Any, *rest: Any) -> None:
        original(self, command, *rest)
        answer = self.forming.answers[-1]
        if isinstance(answer, DalsegnoError):
            command.answer(answer)

    patch.setattr(Speculation, "decide", decide)


def keeps_the_first_half_of_a_group(patch: pytest.MonkeyPatch) -> None:
    original = Speculation._decide

    def decide(self: Speculation, command: Command, pasts: Mapping[str, Past]) -> Any:
        try:
            return original(self, command, pasts)
        except Reject:
            others, command.others = command.others, ()
            if others:
                original(self, command, pasts)
            command.others = others
            raise

    patch.setattr(Speculation, "_decide", decide)


def drops_replies_with_the_outbox(patch: pytest.MonkeyPatch) -> None:
    original = Outbox.drop_all

    def drop_all(self: Outbox) -> dict[Subscription, int]:
        self._replies.clear()
        self.replies_bytes = 0
        return original(self)

    patch.setattr(Outbox, "drop_all", drop_all)


# ----------------------------------------------------------------------------------- delivery


def skips_what_a_slow_reader_missed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Subscription, "fall_behind", lambda *_: None)


def joins_replay_and_live_without_a_seam(patch: pytest.MonkeyPatch) -> None:
    def offer(self: Subscription, item: Publication) -> Sequence[Any] | None:
        if not self.live:
            return None
        due = self.visible(item.events[max(0, self.sent + 1 - item.first) :])
        if due:
            self.sent = seq_of(due[-1], is_workspace_stream=self.is_workspace_stream)
        return due or None

    patch.setattr(Subscription, "offer", offer)
    patch.setattr(Subscription, "reaches", lambda self, _: self.sent >= self.head)


def sends_a_revocation_as_a_message(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Subscription, "revoke", lambda *_: None)


def stores_an_ack_without_comparing(patch: pytest.MonkeyPatch) -> None:
    original = Cursors.write

    def ack(self: AckFrontiers, frontier: Frontier, seq: int, *, sent: int) -> None:
        if seq > sent:
            raise Reject("CURSOR_AHEAD")
        frontier.acked = seq
        self._moved[frontier.key] = AckedCursor(seq)
        self._wake.unpark_all()

    def write(self: Cursors, cursors: Any, now: Any) -> None:
        for key in cursors:
            self._of_client(key).pop(key, None)
        original(self, cursors, now)

    patch.setattr(AckFrontiers, "ack", ack)
    patch.setattr(Cursors, "write", write)


def writes_acks_into_another_history(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryStore, "_has", lambda *_: True)


def judges_a_reader_before_it_waits(patch: pytest.MonkeyPatch) -> None:
    original = Catalog.look

    async def look(
        self: Catalog,
        workspace_id: str,
        domain: Any,
        entity_id: str,
        _principal: Principal = SYSTEM,
    ) -> Any:
        return await original(self, workspace_id, domain, entity_id)

    patch.setattr(Catalog, "look", look)


# --------------------------------------------------------------------------- timers and lists


def fires_what_two_nodes_found(patch: pytest.MonkeyPatch) -> None:
    """It is fired if an entity was due, whether or not another has fired it meanwhile."""
    original = Timers._send

    async def send(self: Timers, *found: Any) -> None:
        await trio.sleep(1)  # a node that is slow
        await original(self, *found)

    patch.setattr(Timers, "_send", send)
    patch.setattr(MemoryStore, "_may_serve", lambda *_: True)
    patch.setattr(Speculation, "_is_due", lambda *_: True)


def fires_although_it_was_renewed(patch: pytest.MonkeyPatch) -> None:
    def is_due(_self: Speculation, command: Command, _due: Due, draft: Draft) -> bool:
        entity = draft.entity(command.stream_id)
        entity_id = command.stream_id.partition(":")[2]
        return entity.domain.due_of(entity.state, entity_id) is not None

    patch.setattr(Speculation, "_is_due", is_due)


def reads_a_lists_number_apart(patch: pytest.MonkeyPatch) -> None:
    original = MemoryStore.list_entities

    async def list_entities(self: MemoryStore, workspace_id: str, *args: Any, **how: Any) -> Any:
        page = await original(self, workspace_id, *args, **how)
        await trio.sleep(0.1)
        head = await self.read_head(workspace_id)
        return msgspec.structs.replace(page, head_seq=0 if head is None else head.head_seq)

    patch.setattr(MemoryStore, "list_entities", list_entities)


def lets_a_release_before_go_on(patch: pytest.MonkeyPatch) -> None:
    """It knows nothing of the columns in which things are listed, and leaves them as they are."""
    original = MemoryLog._write_entity

    def write(self: MemoryLog, row: EntityWrite, changed_at: Any) -> None:
        old = self.entities.get(row.stream_id)
        if self.head.owner == "n0":
            known = (old.keys, old.sort, old.due_at) if old else ((), None, None)
            keys, sort, due_at = known
            row = msgspec.structs.replace(row, keys=keys, sort=sort, due_at=due_at)
        original(self, row, changed_at)

    patch.setattr(MemoryLog, "_write_entity", write)


def one_workspace(*faults: str, **how: Any) -> dict[str, Any]:
    return {"workspaces": 1, "faults": faults, **how}


WRITES = ("burst", "command")
LOSSY = one_workspace("weather", "drop", nodes=1, clients=2, operations=("burst",))
SLOW = one_workspace("stall", nodes=1, operations=WRITES)
CALM = one_workspace(nodes=1)
HASTY = replace(SIM_LIMITS, passivate_after_s=0.0)

ON_TIME: dict[str, Any] = {**EVERYTHING, "later": ()}
LISTED = ("command", "command", "burst", "entities", "entities")

VARIANTS = [
    Variant(publishes_before_the_commit, (Verdict.ABORTED_READ,), LOSSY),
    Variant(rebases_under_the_old_epoch_after_an_unknown_outcome, (Verdict.DUPLICATE,), LOSSY),
    Variant(
        answers_an_unknown_outcome_without_fencing,
        (Verdict.GHOST_FAIL,),
        LOSSY,
    ),
    Variant(
        counts_in_each_process_and_the_store_does_not_compare,
        (Verdict.LOG_GAP, Verdict.INCONSISTENT_OFFSET),
        one_workspace("freeze_within", "replace", nodes=2, clients=3, operations=WRITES),
    ),
    Variant(
        retries_as_whoever_owns_it_now,
        (Verdict.WRONG_RECEIPT, Verdict.INCONSISTENT_OFFSET),
        one_workspace("replace", nodes=2, operations=WRITES, steps=60),
    ),
    Variant(
        drops_what_arrives_at_a_passivation,
        (Verdict.UNANSWERED,),
        one_workspace("weather", "outage", nodes=1, operations=("burst",), limits=HASTY),
    ),
    Variant(
        rejects_on_what_is_not_committed,
        (Verdict.PHANTOM_REJECT,),
        one_workspace("crash_within", "weather", nodes=1, operations=("burst",)),
        make_commands=pairs,
    ),
    Variant(
        keeps_the_first_half_of_a_group,
        (Verdict.LOST_WRITE,),
        {**CALM, "operations": ("command", "group", "group")},
    ),
    Variant(drops_replies_with_the_outbox, (Verdict.UNANSWERED,), SLOW),
    Variant(skips_what_a_slow_reader_missed, (Verdict.GAP,), SLOW),
    Variant(joins_replay_and_live_without_a_seam, (Verdict.GAP, Verdict.STEP_BACK), CALM),
    Variant(
        sends_a_revocation_as_a_message,
        (Verdict.AFTER_REVOCATION,),
        {**CALM, "operations": ("burst", "burst", "member")},
    ),
    Variant(
        stores_an_ack_without_comparing,
        (Verdict.ACK_REGRESS,),
        {**CALM, "operations": (*OPERATIONS, *("ack", "subscribe", "unsubscribe") * 4)},
    ),
    Variant(
        writes_acks_into_another_history,
        (Verdict.ACK_AHEAD,),
        one_workspace(*("failover",) * 3, "outage", nodes=2, operations=(*WRITES, *("ack",) * 4)),
    ),
    Variant(
        judges_a_reader_before_it_waits,
        (Verdict.AFTER_REVOCATION,),
        {**CALM, "operations": ("burst", "burst", "member", *("read",) * 3)},
    ),
    Variant(
        fires_what_two_nodes_found,
        (Verdict.INVARIANT,),
        {
            **ON_TIME,
            **one_workspace("lag", nodes=2, limits=HASTY, operations=("burst", "burst", "idle")),
        },
        make_commands=lambda: of_locks,
    ),
    Variant(
        fires_although_it_was_renewed,
        (Verdict.INVARIANT,),
        {**ON_TIME, **one_workspace("lag", nodes=1, operations=WRITES)},
        make_commands=lambda: with_locks,
    ),
    Variant(
        reads_a_lists_number_apart,
        (Verdict.LIST,),
        {**ON_TIME, **one_workspace(nodes=1, operations=LISTED)},
        make_commands=lambda: with_locks,
    ),
    Variant(
        lets_a_release_before_go_on,
        (Verdict.LIST,),
        {**ON_TIME, **one_workspace("crash", "partition", nodes=2, operations=LISTED, steps=40)},
        make_commands=lambda: with_locks,
    ),
]


def catching(variant: Variant, seeds: int) -> int | None:
    """Return the first schedule that catches the variant by its name."""
    for seed in range(seeds):
        done = variant.simulated(seed)
        if {violation.verdict for violation in done.violations} & {*variant.verdicts}:
            return seed
    return None


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.break_it.__name__)
def test_a_broken_variant_is_caught_and_the_unbroken_one_is_not(
    variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        variant.break_it(patch)
        seed = catching(variant, SEEDS)
    assert seed is not None, f"not caught within {SEEDS} schedules"
    done = variant.simulated(seed)
    assert done.is_sound, f"seed {seed}:\n{done}"
