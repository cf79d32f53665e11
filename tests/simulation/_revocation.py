"""Sessions that end amid a load, on two nodes: who was logged out, and when was it last told?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any

import msgspec
import trio
import trio.testing

from dalsegno.actors import Connection, TransportClosedError, World
from dalsegno.actors.domains.accounts import DisableUser, RegisterUser, users
from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.domains.notes import CreateNote, note_domains
from dalsegno.actors.testing import MemoryStore, SeededChoices, memory_connection
from dalsegno.protocol import Limits, Reject, StoreUnavailableError
from dalsegno.runtime import Runtime
from dalsegno.runtime.store import MemoryAccounts

USERS = ("ann", "bob", "cas")
LIMITS = Limits(
    outbox_bytes_max=8_000,
    page_bytes_max=16_000,
    write_deadline_s=60.0,
    client_timeout_s=600.0,
    pong_deadline_s=600.0,
)
ROOM_BYTES = 12_000
"""What a client that reads nothing has before others wait for it."""
NOTE = "x" * 1_500
ONE_LOOK_S = 0.5
"""What a look at the database takes, at most."""
_EVENT = b'"type":"event"'
KINDS = ("session", "user", "disabled", "member")


@dataclass
class Reader:
    """A client of the first node."""

    user_id: str
    session_hash: bytes
    written: list[float] = field(default_factory=list)
    """When an event was written to it."""
    seen: list[int] = field(default_factory=list)
    code: int | None = None
    """How it was closed."""


@dataclass
class Done:
    """What came of a schedule."""

    happened: Counter[str]
    violations: list[str]


class Unreadable(MemoryAccounts):
    """Accounts as one node has them: sometimes away."""

    def __init__(self, world: World, whole: MemoryAccounts) -> None:
        super().__init__(world)
        self._whole = whole
        self.is_away = False

    async def find_revoked(self, within_s: float) -> list[bytes]:
        await self._answer()
        return await self._whole.find_revoked(within_s)

    async def find_ended(self, id_hashes: Sequence[bytes]) -> list[bytes]:
        await self._answer()
        return await self._whole.find_ended(id_hashes)

    async def _answer(self) -> None:
        if self.is_away:
            await trio.sleep(0.1)
            raise StoreUnavailableError("away")


def run(seed: int) -> Done:
    """Run one schedule."""
    choices = SeededChoices(seed)
    done = Done(Counter(), [])
    with choices.scheduling():
        clock = trio.testing.MockClock(autojump_threshold=0)
        trio.run(partial(_Schedule(choices, done).run), clock=clock)
    return done


class _Schedule:
    def __init__(self, choices: SeededChoices, done: Done) -> None:
        self.choices = choices
        self.done = done
        self.readers: list[Reader] = []
        self.kind = choices.pick(KINDS)
        self.is_elsewhere = self.kind == "disabled" or (
            self.kind != "member" and choices.chance(0.5)
        )
        self.is_away = self.is_elsewhere and choices.chance(0.3)
        """Whether the first node cannot ask when it happens."""

    async def run(self) -> None:
        ids, began = count(1), trio.current_time()
        start = datetime(2026, 1, 1, tzinfo=UTC)
        world = World(
            now=lambda: start + timedelta(seconds=trio.current_time() - began),
            random=lambda: 0.5,
            new_id=lambda: f"00000000-0000-7000-8000-{next(ids):012x}",
            new_salt=lambda: next(ids).to_bytes(16),
        )
        store, accounts = MemoryStore(world), MemoryAccounts(world)
        here = Unreadable(world, accounts)
        both = partial(Runtime.open, domains=note_domains, store=store, world=world, limits=LIMITS)
        async with (
            both(accounts=here, node_id="a") as first,
            both(accounts=accounts, node_id="b") as second,
            trio.open_nursery() as nursery,
        ):
            for rt in (first, second):
                nursery.start_soon(rt.revocation.watch)
            for user_id in USERS:
                email = f"{user_id}@example.org"
                command = RegisterUser(
                    user_id=user_id, email=email, display_name=user_id, role="editor"
                )
                await second.system.send(command)
                await first.workspace("w").send(PutMember(user_id, "editor"))
            for _ in range(self.choices.integer(0, 40)):
                await first.workspace("w").send(CreateNote("t", NOTE))
            await self.load(first, second, accounts, here)
            nursery.cancel_scope.cancel()

    async def load(
        self, first: Runtime, second: Runtime, accounts: MemoryAccounts, here: Unreadable
    ) -> None:
        choices = self.choices
        async with trio.open_nursery() as nursery:
            for user_id in USERS:
                for number in range(2):
                    session_hash = f"{user_id}{number}".encode()
                    until = first.world.now() + timedelta(days=1)
                    await accounts.put_session(session_hash, user_id, "csrf", until)
                    reads = choices.pick(("all", "all", "slowly", "nothing"))
                    self.done.happened[reads] += 1
                    reader = Reader(user_id, session_hash)
                    self.readers.append(reader)
                    nursery.start_soon(self.follow, first, accounts, reader, reads)
            writing = await nursery.start(self.write, first)
            await trio.sleep(choices.uniform(0, 3))
            if self.is_away:
                here.is_away = True
                await trio.sleep(choices.uniform(0, 3))
            ended = choices.pick(self.readers)
            await trio.sleep(choices.uniform(0, 1))
            last = await self.revoke(second if self.is_elsewhere else first, accounts, ended)
            answered_at = trio.current_time()
            await trio.sleep(LIMITS.lease_s + 5)
            here.is_away = False
            writing.cancel()
            await trio.sleep(60)
            head = await first.workspace("w").head()
            self.judge(ended, answered_at, last, head)
            nursery.cancel_scope.cancel()

    async def revoke(self, rt: Runtime, accounts: MemoryAccounts, ended: Reader) -> int:
        """End somebody's access; return the last event that a member who is removed may see."""
        self.done.happened[f"{self.kind} {'elsewhere' if self.is_elsewhere else 'here'}"] += 1
        self.done.happened["away"] += self.is_away
        match self.kind:
            case "session":
                await accounts.revoke_session(ended.session_hash)
                await rt.revocation.end_session(ended.session_hash)
            case "user":
                await accounts.revoke_sessions_of(ended.user_id)
                await rt.revocation.end_user(ended.user_id)
            case "disabled":
                await rt.system.send(DisableUser(ended.user_id))
            case "member":
                receipt = await rt.workspace("w").send(RemoveMember(ended.user_id))
                return receipt.event_seq
        return 0

    async def write(self, rt: Runtime, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                await trio.sleep(self.choices.uniform(0.1, 0.5))
                for _ in range(self.choices.integer(1, 6)):
                    await rt.workspace("w").send(CreateNote("t", NOTE))

    async def follow(
        self, rt: Runtime, accounts: MemoryAccounts, reader: Reader, reads: str
    ) -> None:
        await trio.sleep(self.choices.uniform(0, 3))
        client = memory_connection(rt.limits, room_bytes=ROOM_BYTES)
        send = client.transport.send_nowait

        def noted(frames: Any) -> bool:
            if any(_EVENT in frame.wire for frame in frames):
                reader.written.append(trio.current_time())
            return send(frames)

        client.transport.send_nowait = noted  # type: ignore[method-assign]

        async def check() -> None:
            row = await accounts.find_session(reader.session_hash)
            user = await rt.system.get(users, reader.user_id)
            if row is None or row.revoked_at is not None or user is None or user.role is None:
                raise Reject("SESSION_REVOKED")

        connection = Connection(
            client.transport,
            rt.service.sessions,
            user_id=reader.user_id,
            session_id=reader.session_hash,
            client_id=reader.session_hash.decode(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run, check)
            asked = {"type": "subscribe", "stream_id": "workspace:w", "cursor": 0}
            await client.send(msgspec.json.encode(asked).decode())
            try:
                while reads != "nothing":
                    await trio.sleep(0.05 if reads == "slowly" else 0)
                    said = msgspec.json.decode(await client.receive())
                    if said["type"] == "event":
                        reader.seen.append(said["seq"])
            except TransportClosedError as error:
                reader.code = error.code

    def judge(self, ended: Reader, answered_at: float, last: int, head: int) -> None:
        allowed_s = 0.0
        if self.is_elsewhere:
            allowed_s = LIMITS.lease_s if self.is_away else LIMITS.session_check_s + ONE_LOOK_S
        for reader in self.readers:
            its = reader.session_hash == ended.session_hash
            if its or (self.kind != "session" and reader.user_id == ended.user_id):
                self.judge_ended(reader, answered_at + allowed_s, last)
            else:
                self.judge_other(reader, head)
            if reader.seen != [*range(1, len(reader.seen) + 1)]:
                self.done.violations.append(f"{reader.session_hash!r} saw {reader.seen}")

    def judge_ended(self, reader: Reader, until: float, last: int) -> None:
        if self.kind == "member":
            if reader.seen and reader.seen[-1] > last:
                self.done.violations.append(f"a removed member saw {reader.seen[-1]} > {last}")
            return
        late = [at for at in reader.written if at > until]
        self.done.happened["ended"] += bool(reader.written)
        if late:
            self.done.violations.append(
                f"{self.kind}: {reader!r}: {len(late)} writes, {late[-1] - until:.3f} s too late"
            )

    def judge_other(self, reader: Reader, head: int) -> None:
        if reader.code is not None:
            self.done.violations.append(f"{reader.session_hash!r} was closed: {reader.code}")
        behind = head - (reader.seen[-1] if reader.seen else 0)
        if reader.seen and behind:
            self.done.violations.append(f"{reader.session_hash!r} was left {behind} behind")
