"""The operations of simulated clients: commands, reads, subscriptions, acks and memberships.

Every operation is recorded before it is sent and when its answer arrives.  One whose outcome is
unknown is sent again if it has an idempotency key, under the same key and the same marker, so that
its effects can be counted.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.actors.testing.checker import UNKNOWN_CODES
from dalsegno.protocol import DalsegnoError, workspace_stream

from ._lists import Taken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from dalsegno.actors.testing.checker import Asked, Recorder
    from dalsegno.protocol import Domain, Receipt

    from ._choices import Choices
    from ._client import SimClient, Wanted
    from ._failover import FailoverStore
    from ._node import Process, SimNode

_ATTEMPTS_MAX = 4
_READ_S = 15.0
_GROUP_S = 30.0
_PAUSE_S = 0.2
_AHEAD = (0, 0, 1, 2, 4)
"""How far ahead of what it knows a client reads: the read waits, and much may happen meanwhile."""
_TRUSTS = 0.7
"""How many that ask a node of their choice leave it to that node what is current."""
_EMPTY_FIRST = 0.5
"""How many groups begin with what may change nothing."""
_KEYED = 0.6
"""How many commands have an idempotency key."""
_OWNING = 0.7
"""How often a host's program asks the node that owns the workspace."""
_ACKED_FIRST = 0.5
"""How many clients that leave a stream and come back acknowledge it before."""
_ACKED_AGAIN = 0.3
_ANOTHER_TIME = 0.3
"""How many leave once more, perhaps before they were caught up."""
_AT_THE_LAST, _LAST = 0.6, 3
"""How many readers look for what was named last, and how far back that goes."""
_ELSEWHERE = 0.1
"""How many are for any workspace instead of the client's own."""
_RETRYABLE = frozenset(
    {"WORKSPACE_MOVED", "STORE_UNAVAILABLE", "NOT_READY", "DRAINING", "OVERLOADED"}
)
"""The codes after which nothing has happened, and the command may be sent again."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A command to send, and what is known of its effect if it is accepted."""

    command: msgspec.Struct
    events_min: int = 0
    """How many events it leads to, at least …"""
    events_max: int | None = None
    """… and at most."""


@dataclass(frozen=True, slots=True)
class Focus:
    """The one workspace of all operations that are started inside a block."""

    workspace_id: str
    processes: Sequence[Process] = ()
    """Where a host's program sends and reads; empty: anywhere."""
    client: SimClient | None = None
    """Whose they are; None: anybody's."""


_focus: ContextVar[Focus | None] = ContextVar("focus", default=None)


@contextmanager
def focused(focus: Focus) -> Iterator[None]:
    """Aim the operations that are started in a block at one workspace."""
    token = _focus.set(focus)
    try:
        yield
    finally:
        _focus.reset(token)


class Load:
    """The operations, each on a client and a workspace chosen at random."""

    def __init__(
        self,
        choices: Choices,
        *,
        store: FailoverStore,
        clients: Sequence[SimClient],
        nodes: Sequence[SimNode],
        workspaces: Sequence[str],
        domains: Mapping[type, tuple[str, Domain[Any, Any, Any]]],
        commands: Callable[[Choices], msgspec.Struct | Ask],
        recorder: Recorder,
        complaints: list[str],
    ) -> None:
        self._choices = choices
        self._store = store
        self._clients = clients
        self._nodes = nodes
        self._workspaces = workspaces
        self._domains = domains
        self._commands = commands
        self._recorder = recorder
        self._complaints = complaints
        self._markers = count(1)
        self._streams: dict[str, dict[str, None]] = {name: {} for name in workspaces}
        """The entities that commands have named, by workspace, the last one last."""
        self._keys: dict[str, None] = {}
        """Keys that entities were seen with."""
        self.taken: list[Taken] = []
        """The lists that were read."""

    # ---------------------------------------------------------------------------- operations

    async def command(self) -> None:
        """Send one of the commands under test, perhaps with a key."""
        choices = self._choices
        drawn = self._commands(choices)
        ask = drawn if isinstance(drawn, Ask) else Ask(drawn)
        client, workspace_id = self._any_client()
        await self._send(client, workspace_id, ask, is_keyed=choices.chance(_KEYED))

    async def burst(self) -> None:
        """Send several commands of one client at once."""
        choices = self._choices
        client, workspace_id = self._any_client()
        drawn = [self._commands(choices) for _ in range(choices.integer(2, 8))]
        is_keyed = choices.chance(_KEYED)
        async with trio.open_nursery() as nursery:
            for one in drawn:
                ask = one if isinstance(one, Ask) else Ask(one)
                nursery.start_soon(self._send_some, client, workspace_id, ask, is_keyed)

    async def group(self) -> None:
        """Send several commands at once, all or none, by a host's program; perhaps all twice."""
        choices = self._choices
        client, workspace_id = self._any_client()
        drawn = [self._commands(choices) for _ in range(choices.integer(2, 4))]
        asks = [one if isinstance(one, Ask) else Ask(one) for one in drawn]
        if choices.chance(_EMPTY_FIRST):
            asks.sort(key=lambda ask: ask.events_min)
        marker = f"m{next(self._markers)}"
        key = f"k{marker}" if choices.chance(_KEYED) else None
        async with trio.open_nursery() as nursery:
            for _ in range(choices.pick([1, 1, 2]) if key else 1):
                nursery.start_soon(self._insist_on_all, client, workspace_id, asks, marker, key)

    async def _insist_on_all(
        self,
        client: SimClient,
        workspace_id: str,
        asks: Sequence[Ask],
        marker: str,
        key: str | None,
    ) -> None:
        """Send a group until something is known of it, under its key if it has one."""
        for _ in range(_ATTEMPTS_MAX):
            code = await self._attempt_all(client, workspace_id, asks, marker, key)
            if code not in _RETRYABLE and (code not in UNKNOWN_CODES or key is None):
                return
            if key is None:
                marker = f"m{next(self._markers)}"
            await trio.sleep(_PAUSE_S)

    async def repeat(self) -> None:
        """Send a command two or three times at once under one key, as an impatient proxy does."""
        choices = self._choices
        drawn = self._commands(choices)
        ask = drawn if isinstance(drawn, Ask) else Ask(drawn)
        client, workspace_id = self._any_client()
        process, marker = self._any_process(workspace_id), f"m{next(self._markers)}"
        async with trio.open_nursery() as nursery:
            for _ in range(choices.integer(2, 3)):
                nursery.start_soon(self._insist, process, client, workspace_id, ask, marker)

    async def member(self) -> None:
        """End a membership or begin one, as the owner, who is the first client."""
        owner, *others = self._clients
        if not others:
            return
        user_id = self._choices.pick(others).user_id
        await self.change_member(owner.home, user_id, stays=not self._choices.chance(0.5))

    async def change_member(self, workspace_id: str, user_id: str, *, stays: bool) -> None:
        """End a membership, or begin it, as the owner."""
        command = PutMember(user_id, "editor") if stays else RemoveMember(user_id)
        await self._send(self._clients[0], workspace_id, Ask(command), is_keyed=True)

    async def subscribe(self) -> None:
        """Follow a stream, after any cursor that the client might have."""
        choices = self._choices
        client = choices.pick(self._near())
        workspace_id = client.home
        streams = [workspace_stream(workspace_id), *self._named(workspace_id)]
        stream_id = choices.pick(streams)
        cursor = choices.pick([0, None, client.seen.get(workspace_id, 0) // 2])
        await client.follow(workspace_id, stream_id, cursor)

    async def resubscribe(self) -> None:
        """Leave a stream, perhaps behind an ack, and follow it again at once."""
        choices = self._choices
        client, wanted = self._any_wanted()
        if wanted is None or wanted.followed is None:
            return
        cursor = choices.pick([None, wanted.cursor, wanted.sent, 0])
        if choices.chance(_ACKED_FIRST):
            await self._acknowledge(client, wanted, wanted.sent)
        await client.leave(wanted.stream_id)
        await client.follow(wanted.workspace_id, wanted.stream_id, cursor)
        if choices.chance(_ANOTHER_TIME):
            await trio.sleep(choices.pick([0.0, 0.02, 0.1]))
            await client.leave(wanted.stream_id)
            await client.follow(wanted.workspace_id, wanted.stream_id, cursor)

    async def unsubscribe(self) -> None:
        """Unsubscribe from a stream."""
        client, wanted = self._any_wanted()
        if wanted is not None:
            await client.leave(wanted.stream_id)

    async def ack(self) -> None:
        """Acknowledge what has arrived, or less, or more."""
        choices = self._choices
        client, wanted = self._any_wanted()
        if wanted is None or wanted.followed is None:
            return
        number = max(0, wanted.sent - choices.pick([0, 0, 0, 1, 3, -1]))
        await self._acknowledge(client, wanted, number)
        if choices.chance(_ACKED_AGAIN):
            await self._acknowledge(client, wanted, max(0, number - choices.integer(0, 2)))

    async def _acknowledge(self, client: SimClient, wanted: Wanted, number: int) -> None:
        client.note_unwritten()
        asked = self._recorder.ack(client.cursor_key(wanted), number)
        answer = await client.tell(asked.op, "ack", stream_id=wanted.stream_id, seq=number)
        if answer is None:
            asked.unknown()
        elif answer["type"] == "error":
            asked.failed(answer["code"], answer.get("details"))
        else:
            asked.ok()

    async def read(self) -> None:
        """Read an entity at any node: as it is, as the client knows it, or as it will be soon."""
        choices = self._choices
        client, workspace_id = self._any_client()
        process = self._any_process(workspace_id)
        if not self._streams[workspace_id] or not process.is_serving:
            return
        stream_id = choices.pick(self._named(workspace_id))
        min_seq = client.seen.get(workspace_id, 0) if choices.chance(0.5) else 0
        min_seq += choices.pick(_AHEAD)
        focus = _focus.get()
        if focus is not None and focus.processes and choices.chance(_TRUSTS):
            min_seq = 0
        name, _, entity_id = stream_id.partition(":")
        domain = next(d for _, d in self._domains.values() if d.name == name)
        # XX: a process whose node has another process now answers from memory until its next beat,
        # when it hears of that: there a client may miss what the successor gave it a receipt for.
        is_current = any(process is node.process for node in self._nodes)
        reader = client.name if is_current else f"{client.name} at a process of the past"
        with (
            trio.move_on_after(_READ_S),
            self._recorder.read(
                reader,
                workspace_id,
                stream_id=stream_id,
                min_seq=min_seq,
                user_id=client.user_id,
            ) as asked,
            suppress(DalsegnoError),
        ):
            entity = await process.read(
                workspace_id, domain, entity_id, user_id=client.user_id, min_seq=min_seq or None
            )
            asked.ok(version=0 if entity is None else entity.version)
            if entity is not None:
                self._check_committed(workspace_id, stream_id, entity.version)

    async def entities(self) -> None:
        """List entities at any node, and follow the workspace from the number that the list says.

        Under each kind of key that there is: the entities' own, that of all with a sort, or none.
        """
        choices = self._choices
        client, workspace_id = self._any_client()
        process = self._any_process(workspace_id)
        names = sorted(
            {d.name for _, d in self._domains.values() if d.is_indexed and not d.reserved}
        )
        if not names or not process.is_serving:
            return
        name, key = choices.pick(names), choices.pick([None, "", *self._keys])
        with trio.move_on_after(_READ_S), suppress(DalsegnoError):
            domain, page, entities = await process.list_entities(
                workspace_id, name, key=key, user_id=client.user_id
            )
            states = [
                (item.stream_id, entity.state)
                for item, entity in zip(page.items, entities, strict=True)
            ]
            self.taken.append(Taken(workspace_id, domain, key, page.head_seq, states))
            self._keys.update(dict.fromkeys(key for item in page.items for key in item.keys))
            if workspace_id == client.home:
                await client.follow(workspace_id, workspace_stream(workspace_id), page.head_seq)

    async def look_at_head(self) -> None:
        """Read a head in the store, to see how its epoch goes on."""
        workspace_id = self._choices.pick(self._workspaces)
        asked = self._recorder.read("operator", workspace_id)
        head = await self._store.read_head(workspace_id)
        if head is None:
            asked.unknown()
        else:
            asked.head(head)

    async def idle(self) -> None:
        """Do nothing for so long that idle workspaces may leave memory."""
        await trio.sleep(self._choices.uniform(0, 3))

    # ------------------------------------------------------------------------------- sending

    async def _send_some(
        self,
        client: SimClient,
        workspace_id: str,
        ask: Ask,
        is_keyed: bool,
    ) -> None:
        await self._send(client, workspace_id, ask, is_keyed=is_keyed)

    async def _send(
        self, client: SimClient, workspace_id: str, ask: Ask, *, is_keyed: bool
    ) -> None:
        marker = f"m{next(self._markers)}"
        key = f"k{marker}" if is_keyed else None
        for _ in range(_ATTEMPTS_MAX):
            code = await self._attempt(client, workspace_id, ask, marker, key)
            if code is None or (code in UNKNOWN_CODES and key is None):
                return
            if code not in _RETRYABLE and code not in UNKNOWN_CODES:
                return
            if key is None:
                marker = f"m{next(self._markers)}"
            await trio.sleep(_PAUSE_S)

    async def _attempt(
        self, client: SimClient, workspace_id: str, ask: Ask, marker: str, key: str | None
    ) -> str | None:
        """Send it once; return the code of a failure, None after success."""
        name, _ = self._domains[type(ask.command)]
        stream_id = self._stream_of(workspace_id, ask)
        asked = self._recorder.command(
            client.name,
            workspace_id,
            marker=marker,
            stream_id=stream_id,
            key=key,
            events_min=ask.events_min,
            events_max=ask.events_max,
            user_id=client.user_id,
        )
        answer = await client.ask(
            marker,
            "command",
            workspace_id=workspace_id,
            name=name,
            payload=ask.command,
            idempotency_key=key,
        )
        if answer is None:
            asked.unknown()
            return "DISCONNECTED"
        if answer["type"] == "committed":
            asked.ok(answer["event_seq"], answer["version"], stream_id=answer["entity"])
            self._check_committed(workspace_id, answer["entity"], answer["version"])
            seen = client.seen.get(workspace_id, 0)
            client.seen[workspace_id] = max(seen, answer["event_seq"])
            return None
        details = answer.get("details") or {}
        asked.failed(answer["code"], details)
        if stream_id is not None:
            self._check_committed(workspace_id, stream_id, details.get("current_version", 0))
        return str(answer["code"])

    def _check_committed(self, workspace_id: str, stream_id: str, version: int) -> None:
        """Check that an answer shows nothing that is only on its way to the log (I2)."""
        committed = self._store.head_of(workspace_id, stream_id)
        if version > committed:
            self._complaints.append(
                f"an answer shows version {version} of {stream_id} in {workspace_id}, "
                f"and {committed} is committed"
            )

    async def _attempt_all(
        self,
        client: SimClient,
        workspace_id: str,
        asks: Sequence[Ask],
        marker: str,
        key: str | None,
    ) -> str | None:
        """Send a group once; return the code of a failure, None after success or no answer."""
        mosts = [ask.events_max for ask in asks]
        asked = self._recorder.command(
            client.name,
            workspace_id,
            marker=marker,
            key=key,
            events_min=sum(ask.events_min for ask in asks),
            events_max=None if None in mosts else sum(most or 0 for most in mosts),
            is_group=True,
            user_id=client.user_id,
        )
        process = self._any_process(workspace_id)
        commands = [ask.command for ask in asks]

        async def send() -> Receipt:
            receipts = await process.send_all(
                workspace_id, commands, user_id=client.user_id, key=key, marker=marker
            )
            return receipts[-1]

        return await self._answered(asked, send)

    async def _insist(
        self, process: Process, client: SimClient, workspace_id: str, ask: Ask, marker: str
    ) -> None:
        """Send a command as a host's program does, again and again under one key."""
        for _ in range(_ATTEMPTS_MAX):
            code = await self._attempt_there(process, client, workspace_id, ask, marker)
            if code not in _RETRYABLE and code not in UNKNOWN_CODES:
                return
            await trio.sleep(_PAUSE_S)
            process = self._any_process(workspace_id)

    async def _attempt_there(
        self, process: Process, client: SimClient, workspace_id: str, ask: Ask, marker: str
    ) -> str | None:
        """Send a command at a node once; return the code of a failure, None after success."""
        stream_id, key = self._stream_of(workspace_id, ask), f"k{marker}"
        asked = self._recorder.command(
            client.name,
            workspace_id,
            marker=marker,
            stream_id=stream_id,
            key=key,
            events_min=ask.events_min,
            events_max=ask.events_max,
            user_id=client.user_id,
        )

        async def send() -> Receipt:
            return await process.send(
                workspace_id, ask.command, user_id=client.user_id, key=key, marker=marker
            )

        return await self._answered(asked, send)

    async def _answered(self, asked: Asked, send: Callable[[], Awaitable[Receipt]]) -> str | None:
        """Send what was asked, and record the answer; return its code, None after success."""
        try:
            with trio.move_on_after(_GROUP_S):
                receipt = await send()
                asked.ok(receipt.event_seq, receipt.version, stream_id=receipt.stream_id)
                self._check_committed(receipt.workspace_id, receipt.stream_id, receipt.version)
                return None
        except DalsegnoError as error:
            asked.failed(error.code, error.details)
            return error.code
        finally:
            if not asked.is_answered:
                asked.unknown()
        return "DISCONNECTED"

    # ------------------------------------------------------------------------------ choosing

    def _any_client(self) -> tuple[SimClient, str]:
        """Choose a client, and its workspace or, rarely, any."""
        focus, client = _focus.get(), self._choices.pick(self._near())
        if focus is not None:
            return client, focus.workspace_id
        if self._choices.chance(_ELSEWHERE):
            return client, self._choices.pick(self._workspaces)
        return client, client.home

    def _any_process(self, workspace_id: str) -> Process:
        """Choose a process, mostly of the node that owns a workspace: others say where it is."""
        focus, choices = _focus.get(), self._choices
        if focus is not None and focus.processes:
            return choices.pick(focus.processes)
        owner = self._store.owner_of(workspace_id)
        owning = [node for node in self._nodes if node.node_id == owner]
        return choices.pick(owning if owning and choices.chance(_OWNING) else self._nodes).process

    def _near(self) -> Sequence[SimClient]:
        """Return the clients whose workspace it is about, or all."""
        focus = _focus.get()
        if focus is None:
            return self._clients
        if focus.client is not None:
            return [focus.client]
        near = [client for client in self._clients if client.home == focus.workspace_id]
        return near or self._clients

    def _stream_of(self, workspace_id: str, ask: Ask) -> str | None:
        """Return the stream of the entity that a command names, which can be followed now."""
        _, domain = self._domains[type(ask.command)]
        entity_id = getattr(ask.command, domain.id_field)
        if entity_id is None:
            return None
        stream_id = domain.stream_id(entity_id)
        self._streams[workspace_id].pop(stream_id, None)
        self._streams[workspace_id][stream_id] = None
        return stream_id

    def _named(self, workspace_id: str) -> list[str]:
        """Return the entities that commands have named, or those alone that were the last."""
        named = [*self._streams[workspace_id]]
        return named[-_LAST:] if self._choices.chance(_AT_THE_LAST) else named

    def _any_wanted(self) -> tuple[SimClient, Wanted | None]:
        client = self._choices.pick(self._near())
        wanted = [*client.wanted.values()]
        return client, self._choices.pick(wanted) if wanted else None
