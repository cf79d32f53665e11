"""The mutants: plausible bugs of one to three lines, each with the invariant that it breaks.

None of them is equivalent to what it replaces: its comment says what somebody would see.  Whoever
adds an invariant adds its mutants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One bug."""

    name: str
    """What the product does then, in a few words."""
    breaks: str
    """The invariant, I1 to I13; docs/architecture.md defines them."""
    path: str
    """The file, from the root of the repository."""
    before: str
    """Text that the file has exactly once …"""
    after: str
    """… and what stands there instead."""
    schedules: str = "boxes"
    """The drawn schedules that are run: ``boxes``, or ``runs``."""

    def applied_to(self, text: str) -> str:
        """Return the file's text with the bug.

        Raises:
            ValueError: the text to replace is not there exactly once.

        """
        found = text.count(self.before)
        if found != 1:
            raise ValueError(f"{self.name}: found {found} times in {self.path}, not once")
        return text.replace(self.before, self.after)


_ENTITY = "actors/workspace/_entity.py"
_HUB = "actors/delivery/_hub.py"
_COHORTS = "actors/delivery/_cohorts.py"
_CATCH_UP = "actors/delivery/_catch_up.py"
_ACKS = "actors/delivery/_acks.py"
_CATALOG = "actors/node/_catalog.py"
_LEASE = "actors/node/_lease.py"
_OUTBOX = "actors/session/_outbox.py"
_WRITER = "actors/session/_writer.py"
_COMMITTER = "actors/workspace/_committer.py"
_INCARNATION = "actors/workspace/_incarnation.py"
_OPENING = "actors/workspace/_opening.py"
_SPECULATION = "actors/workspace/_speculation.py"
_SUPERVISOR = "actors/node/_workspace_supervisor.py"
_SUBSCRIPTION = "protocol/_subscription.py"
_FOLLOWER = "actors/effects/_follower.py"
_RUNS = "protocol/runs/_domain.py"

_REMOVALS = [
    # The barrier is set on the workspace's stream alone: a removed user goes on reading entities.
    Mutant(
        "a removal ends the workspace's stream alone",
        "I8",
        _HUB,
        "        for readers in self._streams.values():\n"
        "            for subscription, subscriber in readers:\n",
        "        for name, readers in self._streams.items():\n"
        "            for subscription, subscriber in readers if name == self.stream_id else ():\n",
    ),
    # Removed, back and removed again, a reader that was behind all the time gets what lies between.
    Mutant(
        "a second removal raises the barrier of the first",
        "I8",
        _SUBSCRIPTION,
        "last_visible if old is None else min(old, last_visible)",
        "last_visible if old is None else max(old, last_visible)",
    ),
    # What was decided behind the removal into the same commit is delivered.
    Mutant(
        "a commit is offered past the barrier in it",
        "I8",
        _SUBSCRIPTION,
        "        if self.last_visible is not None:\n            due = self.visible(due)\n",
        "",
    ),
    # … or is read by a reader that was behind when it was removed.
    Mutant(
        "a page is given past the barrier",
        "I8",
        _SUBSCRIPTION,
        "        due = self.visible(page.events)\n",
        "        due = page.events\n",
    ),
    # The role was read before, and the removal came while the cursor was looked up.
    Mutant(
        "a removal while somebody subscribes is forgotten",
        "I8",
        _SUBSCRIPTION,
        "        self.start = self.sent = start\n",
        "        self.start = self.sent = start\n        self.last_visible = None\n",
    ),
    # A cohort is written to as a whole: a member that stays gets what follows in the commit.
    Mutant(
        "whoever is removed stays in the cohort",
        "I8",
        _HUB,
        "                self.leave_cohort(subscription)\n"
        "                subscription.revoke(event.event_seq, from_all=closes)\n",
        "                subscription.revoke(event.event_seq, from_all=closes)\n",
    ),
    # The membership of before a removal, from memory, judges what was written after it.
    Mutant(
        "entity and membership are read at two moments",
        "I8",
        _CATALOG,
        "            if len(found) == len(wanted):\n                return found\n",
        "            rest = {s: domain for s, domain in wanted.items() if s not in found}\n"
        "            return {**found, **await self._load(workspace_id, rest)}\n",
    ),
    # Who was removed a moment ago, in the batch that forms, goes on writing.
    Mutant(
        "a sender's role is the committed one",
        "I8",
        _SPECULATION,
        "            member = draft.entity(command.role_stream)\n",
        "            member = self._loaded[command.role_stream]\n",
    ),
]

_DELIVERY = [
    # Of several items of a stream that are dropped, those before the last are never read again.
    Mutant(
        "what was dropped is read again from the last item on",
        "I6",
        _OUTBOX,
        "            dropped.setdefault(subscription, before)\n",
        "            dropped[subscription] = before\n",
    ),
    # The next subscription to the stream begins with the rest of the one before.
    Mutant(
        "an outbox keeps the events of a stream that is left",
        "I6",
        _WRITER,
        "        self._leave(stream)\n        self.outbox.drop(stream.subscription)\n",
        "        self._leave(stream)\n",
    ),
    # What was published while the cursor was looked up never comes, unless more follows.
    Mutant(
        "a subscription begins with the head that was looked up",
        "I6",
        _SUBSCRIPTION,
        "        self.start = self.sent = start\n        self.head = max(self.head, head)\n",
        "        self.start = self.sent = start\n        self.head = head\n",
    ),
    # … or while pages were read for it.
    Mutant(
        "what is published does not count for a reader that is behind",
        "I6",
        _SUBSCRIPTION,
        "            self.missed = True\n            self.head = max(self.head, item.last)\n",
        "            self.missed = True\n",
    ),
    # … or while the last of them was, which was empty.
    Mutant(
        "a reader goes live though it missed something",
        "I6",
        _CATCH_UP,
        "        if not subscription.missed:\n            break  # what",
        "        if page is None:\n            break  # what",
    ),
    # Once it leaves the cohort, it is given again what it had there.
    Mutant(
        "a member of a cohort does not count what it was given",
        "I6",
        _HUB,
        "            subscription.sent = last\n            try:\n",
        "            try:\n",
    ),
    # A member that left while others were written to is written to as well.
    Mutant(
        "a cohort does not notice that a member left",
        "I6",
        _COHORTS,
        "        cohort.has_lost = True\n",
        "        cohort.has_lost = False\n",
    ),
    # More events than a page has, committed and not published, are followed by a gap.
    Mutant(
        "only a page is published of what an incarnation left",
        "I6",
        _OPENING,
        "    while hub.head < head.head_seq:\n",
        "    if hub.head < head.head_seq:\n",
    ),
    # Whoever reconnects at the head is told that the log is another one.
    Mutant(
        "the hub keeps the chain that it opened with",
        "I6",
        _HUB,
        "            self.head, self.chain = events[-1].event_seq, events[-1].chain\n",
        "            self.head = events[-1].event_seq\n",
    ),
    # What was committed is not published, and its sender waits, until somebody wakes the workspace.
    Mutant(
        "a workspace is passivated with a commit on its way",
        "I6",
        _SUPERVISOR,
        "        if not self.is_running or not self.is_settled:\n            return False\n",
        "        if not self.is_running:\n            return False\n",
    ),
    # A node that owns a workspace no longer leaves its readers without a word.
    Mutant(
        "a resting workspace is not told that another node may own it",
        "I6",
        _SUPERVISOR,
        "        if self._resting is not None:\n"
        '            self._resting.cancel(reason="another node may own the workspace")\n',
        "",
    ),
]

_ACKED = [
    # The cursor moves back, and what was acknowledged comes again for good.
    Mutant(
        "an ack below the cursor is accepted",
        "I7",
        _ACKS,
        "        if seq < frontier.acked:\n            raise StaleCursorError(\n",
        "        if seq < 0:\n            raise StaleCursorError(\n",
    ),
    # What was not even written is acknowledged, and is skipped once it is there.
    Mutant(
        "an ack above what was sent is accepted",
        "I7",
        _ACKS,
        "        if seq > sent:\n",
        "        if seq > sent + 1:\n",
    ),
    # A client that unsubscribes and subscribes at once begins before its own ack.
    Mutant(
        "a frontier is opened beside acks that wait to be written",
        "I7",
        _ACKS,
        "                if key in self._moved or key in self._writing:\n",
        "                if key in self._writing:\n",
    ),
    # After a restore the store cannot tell that the ack is of the history that was lost.
    Mutant(
        "an ack does not say of which history it is",
        "I7",
        _ACKS,
        "AckedCursor(seq, hub.head, hub.chain)",
        "AckedCursor(seq)",
    ),
]

_ORDER = [
    # Further decisions rest on the state before those that are forming: a number is used twice.
    Mutant(
        "a commit forgets what was decided on top of it",
        "I1",
        _SPECULATION,
        "            if self._ahead[stream_id] is entity:  # else something forms on it\n",
        "            if True:\n",
    ),
    # The same where a state is written with the batch, while more is decided.
    Mutant(
        "a state that is stored takes back what was decided since",
        "I1",
        _SPECULATION,
        "if self._ahead[stream_id] is entity:  # else more",
        "if True:  # else more",
    ),
    # Commands that are at hand while a commit settles are decided on what was before it.
    Mutant(
        "commands at hand do not see what has settled",
        "I1",
        _SPECULATION,
        "        for stream_id, entity in done.entities.items():\n"
        "            self._loaded[stream_id] = entity\n",
        "        for stream_id, entity in done.entities.items():\n",
    ),
    # What the cache has dropped and is being committed is loaded as it was before.
    Mutant(
        "an entity that left the cache is loaded though it is ahead",
        "I1",
        _SPECULATION,
        "            known = self.entities.get(stream_id) or self._ahead.get(stream_id)\n",
        "            known = self.entities.get(stream_id)\n",
    ),
    # A slow read fills the cache with what was committed before others changed and evicted it.
    Mutant(
        "a slow look-up fills the cache with what is out of date",
        "I1",
        _CATALOG,
        "incarnation is not None and active.hub.head == head:\n",
        "incarnation is not None and active.hub.head >= head:\n",
    ),
    # A wall clock that jumps back takes the log with it.
    Mutant(
        "the time of an event is the clock's alone",
        "I1",
        _SPECULATION,
        "        self._now = max(self._world.now(), self._now)\n",
        "        self._now = self._world.now()\n",
    ),
    # … and so does a node whose clock is behind, when it takes a workspace over.
    Mutant(
        "a new owner begins with its own clock",
        "I1",
        _SPECULATION,
        "        self._now = head.recorded_at or world.now()\n",
        "        self._now = world.now()\n",
    ),
]

_GATE = [
    # A read shows what may never be committed.
    Mutant(
        "reads see what is only decided",
        "I2",
        _INCARNATION,
        "        return self._speculation.entities.get(stream_id)\n",
        "        known = self._speculation\n"
        "        return known._ahead.get(stream_id) or known.entities.get(stream_id)\n",
    ),
    # A read that waits for its own write does not see it.
    Mutant(
        "a read waits for the event before the one it needs",
        "I2",
        _HUB,
        "self.is_unverified or self.head < event_seq:\n",
        "self.is_unverified or self.head < event_seq - 1:\n",
    ),
    # The original is not committed yet, and may get another number or never come.
    Mutant(
        "a repeat is answered at once",
        "I2",
        _SPECULATION,
        "            answer = self.keys.answer(command) or refused or",
        "            if (known := self.keys.answer(command)) is not None:\n"
        "                command.answer(known)\n"
        "            answer = known or refused or",
    ),
    # Its sender waits for an answer that nobody owes any more.
    Mutant(
        "what was forming is lost with its incarnation",
        "I2",
        _INCARNATION,
        "        back = [*taken, *self._speculation.forming.commands, *self._in_hand]\n",
        "        back = [*taken, *self._in_hand]\n",
    ),
]

_FENCING = [
    # An owner of the past refuses by a state that is out of date.
    Mutant(
        "a batch without events leaves without a look at the epoch",
        "I3",
        _INCARNATION,
        "        if head is not None and head.epoch != speculation.epoch:\n",
        "        if head is None and speculation.epoch:\n",
    ),
    # An owner of the past answers reads from memory.
    Mutant(
        "reads rely on memory whatever the lease",
        "I3",
        _CATALOG,
        "active.incarnation if active is not None and self._lease.is_held else None",
        "active.incarnation if active is not None else None",
    ),
    # It owns nothing any more, and never says so to those who are connected.
    Mutant(
        "a process that was replaced goes on",
        "I3",
        _LEASE,
        '            raise NodeReplacedError(f"another process serves as node {self.node_id}")\n',
        "            left_s = 0.0\n",
    ),
    # The answer to a beat that took long counts from when it came.
    Mutant(
        "a lease counts from the answer to the beat",
        "I3",
        _LEASE,
        "            self._held_until = began + lease_s * (1 - _MARGIN)\n",
        "            self._held_until = trio.current_time() + lease_s * (1 - _MARGIN)\n",
    ),
    # What is owned is relied on before it was compared.
    Mutant(
        "a lease that was over counts before the comparison",
        "I3",
        _LEASE,
        "                await compare(everything=is_back)\n"
        "                self._is_unverified = False\n",
        "                self._is_unverified = False\n"
        "                await compare(everything=is_back)\n",
    ),
]

_UNKNOWN = [
    # The look-up begins behind the very events that it is for: they are written again.
    Mutant(
        "an unknown commit is looked for behind its own events",
        "I4",
        _INCARNATION,
        "            command.sent_after = batch.old_head\n",
        "            command.sent_after = batch.new_head\n",
    ),
    # Decided again, it takes effect twice.
    Mutant(
        "a batch on its way counts as withdrawn",
        "I4",
        _COMMITTER,
        "        if sending not in waiting:\n            return False\n",
        "        if sending not in waiting:\n            return True\n",
    ),
    # The same for a statement that the database has, and has not answered.
    Mutant(
        "a commit without an answer in time counts as not written",
        "I4",
        _COMMITTER,
        '            _fail(group, OutcomeUnknownError("the database did not answer in time"))\n',
        '            _fail(group, StoreUnavailableError("the database did not answer in time"))\n',
    ),
    # What took effect is reported as refused.
    Mutant(
        "after a takeover nobody looks what became of an unknown commit",
        "I4",
        _OPENING,
        "        answer = command.receipt_of(found, versions)\n",
        "        answer = None if moved else command.receipt_of(found, versions)\n",
    ),
    # … and so it is where the store stays away for too long to look.
    Mutant(
        "a commit that stays without an answer is called refused",
        "I4",
        "actors/node/_backlog.py",
        "                command.answer(OutcomeUnknownError(",
        "                command.answer(StoreUnavailableError(",
    ),
    # Half of a group: where the first command changed nothing, the rest is decided again.
    Mutant(
        "of a group only the first command is looked for",
        "I4",
        _OPENING,
        "    ids = [each.command_id for command in unresolved for each in command.group]\n",
        "    ids = [command.command_id for command in unresolved]\n",
    ),
    # A group that is sent again takes effect again.
    Mutant(
        "the key of a group is not recorded",
        "I5",
        "actors/workspace/_idempotency.py",
        "        if command.key is None:\n            return None\n        if isinstance",
        "        if command.key is None or command.others:\n            return None\n"
        "        if isinstance",
    ),
    # Both are decided into one batch, which has one row for the key.
    Mutant(
        "a key that is being used counts as free",
        "I5",
        "actors/workspace/_idempotency.py",
        "        known = self._ahead.get(key) or self._at_hand.get(key)\n",
        "        known = self._at_hand.get(key)\n",
    ),
]

_LATER = [
    # A lock that was renewed lapses.
    Mutant(
        "a timer fires if anything is asked for",
        "I5",
        _SPECULATION,
        "        if now_due != due:\n",
        "        if now_due is None:\n",
    ),
    # What an entity asks for never happens.
    Mutant(
        "when an entity is due is not written",
        "I5",
        _ENTITY,
        "        due_at=entity.due_at,\n",
        "",
    ),
    # Where a commit under way had changed what is then changed back, its old key stays.
    Mutant(
        "what a batch under way lists is compared with what it will be",
        "I6",
        _ENTITY,
        "        before.is_relisted or _is_listed_anew(before, index),\n",
        "        _is_listed_anew(before, index),\n",
    ),
    # It is not listed under its keys from then on.
    Mutant(
        "an entity that was loaded is listed as it was",
        "I6",
        _ENTITY,
        "        return before.domain.is_indexed\n",
        "        return False\n",
    ),
    # The incarnation ends where what is listed anew is to be written behind it.
    Mutant(
        "an entity that is listed anew counts as committed with its last event",
        "I10",
        _SPECULATION,
        "            if self._ahead[stream_id] is entity:  # else something forms on it\n",
        "            if self._ahead[stream_id].version == entity.version:\n",
    ),
    # Keys that only the other version gives.
    Mutant(
        "what another version of the domain listed is relied on",
        "I6",
        "actors/node/_listing.py",
        "            if key is None or not page.is_stale:\n",
        "            if page is not None:\n",
    ),
]

_RUN = [
    # Who was thought dead, and comes back, has an effect beside the attempt that took over.
    Mutant(
        "an attempt's commands take effect whichever attempt is the run's",
        "I12",
        _RUNS,
        "def _hold(run: RunState, command: HoldAttempt) -> None:\n"
        "    _check_attempt(run, command.attempt_id)\n",
        "def _hold(run: RunState, command: HoldAttempt) -> None:\n    del run, command\n",
        schedules="runs",
    ),
    Mutant(
        "an attempt goes on taking effect after its run was cancelled",
        "I12",
        _RUNS,
        "    _check_present(run, attempt_id)\n    if run.cancelled is not None:\n",
        "    _check_present(run, attempt_id)\n    if run.cancelled and run.attempt > 9:\n",
        schedules="runs",
    ),
    # The next attempt does again what the last one did.
    Mutant(
        "a step that took effect is forgotten",
        "I12",
        _RUNS,
        "    return replace(run, steps={**run.steps, event.step_id: event.receipt})\n",
        "    return run if event.step_id else replace(run)\n",
        schedules="runs",
    ),
    # A rollup of unknown outcome is sent again, and a step's commit may have it too.
    Mutant(
        "what a run says is recorded again where it is sent again",
        "I12",
        _RUNS,
        "        if part.to_frame <= run.written_to:\n            continue",
        "        if part.to_frame <= run.written_to:\n            to = part.from_frame - 1",
        schedules="runs",
    ),
    Mutant(
        "what a worker returns is committed behind the end",
        "I12",
        "actors/effects/_attempt.py",
        "        asked = [*map(run.asked, commands), (end, SYSTEM)]\n",
        "        asked = [(end, SYSTEM), *map(run.asked, commands)]\n",
        schedules="runs",
    ),
]

_REACTING = [
    # Told of an event again after a crash, a reactor asks for what there is, and that begins anew.
    Mutant(
        "an event asks for its run again",
        "I12",
        _RUNS,
        "    if run is not None or depth > command.depth_max:\n",
        "    if depth > command.depth_max:\n",
        schedules="runs",
    ),
    Mutant(
        "a reactor hears of what its own runs do once more than it may",
        "I12",
        _RUNS,
        "    if run is not None or depth > command.depth_max:\n",
        "    if run is not None or depth > command.depth_max + 1:\n",
        schedules="runs",
    ),
    # What could not be asked for now is passed over.
    Mutant(
        "a reactor is not told again of a page that could not be told",
        "I12",
        _FOLLOWER,
        "            await self._tell(events)\n            self._came_to(events[-1])\n",
        "            self._came_to(events[-1])\n            await self._tell(events)\n",
        schedules="runs",
    ),
    Mutant(
        "what is passed over takes along what is not",
        "I12",
        _FOLLOWER,
        "        if is_next and not any(map(self._table.concerns, events)):\n",
        "        if is_next and not all(map(self._table.concerns, events)):\n",
        schedules="runs",
    ),
    # A new owner begins with what is asked for here.
    Mutant(
        "open runs of a dead owner are left",
        "I12",
        "actors/effects/_workspace_runs.py",
        '                    if not self._take(item.stream_id.partition(":")[2]):\n'
        "                        return\n",
        "                    if item.stream_id:\n                        continue\n",
        schedules="runs",
    ),
]

MUTANTS: Sequence[Mutant] = (
    *_REMOVALS,
    *_DELIVERY,
    *_ACKED,
    *_ORDER,
    *_GATE,
    *_FENCING,
    *_UNKNOWN,
    *_LATER,
    *_RUN,
    *_REACTING,
)
