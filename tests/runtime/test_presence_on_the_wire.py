"""Presence over real sockets, beside a real database that knows nothing of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import psycopg
import pytest
import trio
from psycopg.sql import SQL, Identifier
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url
from websockets.frames import Frame, Opcode

from dalsegno.actors.domains.members import RemoveMember
from dalsegno.actors.domains.notes import CreateNote, note_dialect, note_domains
from dalsegno.actors.domains.standing import DeleteWorkspace
from dalsegno.protocol import App, Limits
from dalsegno.protocol.dialects import project_socket
from tests._http import PLAIN
from tests._patience import fail_after, until
from tests._presence import Message, Seen
from tests._raw_client import RawClient
from tests.runtime._serving import Person, add_member, all_collected, serving, set_up

pytestmark = pytest.mark.postgres

APP = App(note_domains, dialects=[note_dialect, project_socket])
LIMITS = Limits(presence_linger_s=0.5)


class Guest:
    """A client of a socket, and what it knows of who is present."""

    def __init__(self, ws: WebSocketConnection, person: Person) -> None:
        self.person = person
        self.seen = Seen()
        self.heard: list[Message] = []
        self._ws = ws

    async def say(self, type_: str, **fields: Any) -> None:
        said = {"type": type_, "workspace_id": self.person.workspace, **fields}
        await self._ws.send_message(msgspec.json.encode(said).decode())

    async def attend(self, state: Any = None) -> None:
        await self.say("presence_subscribe", state=state)
        await self.sees(self.person.user_id)

    async def listen(self) -> None:
        try:
            while True:
                message: Message = msgspec.json.decode(await self._ws.get_message())
                if message["type"] in {"presence", "presence_diff"}:
                    assert self.seen.hear(message)
                if message["type"] != "heartbeat":
                    self.heard.append(message)
        except ConnectionClosed:
            pass

    async def sees(self, *user_ids: str) -> None:
        """Wait until it knows of these, whoever else is there."""
        with fail_after(20):
            await until(lambda: {*user_ids} <= self.seen.users.keys())

    async def misses(self, user_id: str) -> None:
        with fail_after(20):
            await until(lambda: user_id not in self.seen.users)

    async def hears(self, type_: str) -> Message:
        with fail_after(20):
            await until(lambda: any(each["type"] == type_ for each in self.heard))
        return next(each for each in self.heard if each["type"] == type_)

    async def vanish(self) -> None:
        """Go without a close frame."""
        await trio.aclose_forcefully(self._ws._stream)

    async def aclose(self) -> None:
        await self._ws.aclose()


@asynccontextmanager
async def present(
    person: Person, *, path: str = "/ws", url: str | None = None, attends: bool = True, **query: str
) -> AsyncIterator[Guest]:
    target = f"{(url or person.url).replace('http', 'ws', 1)}{path}?{urlencode(query)}"
    headers = [(b"cookie", person.cookie.encode())]
    async with (
        trio.open_nursery() as nursery,
        open_websocket_url(target, extra_headers=headers) as ws,
    ):
        guest = Guest(ws, person)
        nursery.start_soon(guest.listen)
        if attends:
            await guest.attend()
        try:
            yield guest
        finally:
            if ws.closed:
                await trio.aclose_forcefully(ws._stream)
            nursery.cancel_scope.cancel()


def rows_of(dsn: str) -> dict[str, Any]:
    """A digest of everything that the database holds, but for when each node was last there."""
    digest = SQL("select count(*), md5(string_agg(t::text, '|' order by t::text)) from {} t")
    with psycopg.connect(dsn) as connection:
        names = connection.execute(
            "select relname from pg_class where relnamespace = 'dalsegno'::regnamespace"
            " and relkind = 'r' and relname <> 'node' order by 1"
        ).fetchall()
        return {
            name: connection.execute(digest.format(Identifier("dalsegno", name))).fetchone()
            for (name,) in names
        }


async def test_x_lim_5_presence_reaches_other_members_and_is_stored_nowhere(migrated: str) -> None:
    async with serving(migrated, app=APP, limits=LIMITS) as site:
        owner = await set_up(site)
        bob = await add_member(site, owner.workspace)
        stranger = await add_member(site, "elsewhere")
        async with (
            present(owner, attends=False) as ada,
            present(bob, attends=False) as guest,
            present(stranger, attends=False) as outside,
        ):
            await all_collected(site)
            before = rows_of(migrated)
            assert len(before) > 10
            await outside.say("presence_subscribe", workspace_id="elsewhere")
            await outside.sees(stranger.user_id)
            outside.heard.clear()
            await ada.attend({"page": 1})
            await guest.attend()
            await ada.sees(bob.user_id)
            await guest.sees(owner.user_id)
            for number in range(30):
                await guest.say("presence_update", state=[number])
            with fail_after(20):
                await until(lambda: ada.seen.states(bob.user_id) == [[29]])
            assert ada.seen.diffs < 30
            await guest.say("presence_ping", note_id="n", cursor=4)
            with fail_after(20):
                await until(lambda: ada.seen.states(bob.user_id)[0] != [29])
            assert ada.seen.states(bob.user_id) == [{"note_id": "n", "cursor": 4}]
            await guest.vanish()
            await ada.misses(bob.user_id)
            await outside.say("presence_update", workspace_id="elsewhere", state="s")
            with fail_after(20):
                await until(lambda: outside.seen.states(stranger.user_id) == ["s"])
            assert {each["workspace_id"] for each in outside.heard} == {"elsewhere"}
            assert rows_of(migrated) == before
            await outside.say("presence_subscribe", workspace_id=owner.workspace)
            await outside.say("presence_ping", workspace_id=owner.workspace, cursor=1)
            with fail_after(20):
                await until(lambda: sum(each["type"] == "error" for each in outside.heard) == 2)
            assert {each.get("code") for each in outside.heard} == {None, "ROLE_FORBIDDEN"}
            epoch = ada.seen.epoch
    async with serving(migrated, app=APP, limits=LIMITS) as site:
        again = msgspec.structs.replace(owner, url=site.url)
        async with present(again) as ada:
            assert ada.seen.users.keys() == {owner.user_id}
            assert ada.seen.epoch != epoch
            assert not ada.seen.settled
            with fail_after(20):
                await until(lambda: ada.seen.settled)


async def test_x_lim_5_a_reader_that_stops_misses_presence_and_no_event(migrated: str) -> None:
    limits = Limits(
        presence_interval_s=0.002, presence_updates_per_s=10_000, send_buffer_bytes=4_096
    )
    async with serving(migrated, app=APP, limits=limits) as site:
        owner = await set_up(site)
        bob = await add_member(site, owner.workspace)
        workspace = site.runtime.workspace(owner.workspace)
        head = await workspace.head()
        with trio.socket.socket() as sock:
            async with present(bob) as guest:
                sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4_096)
                await sock.connect(("127.0.0.1", site.port))
                slow = RawClient(trio.SocketStream(sock))
                await slow.upgrade(f"127.0.0.1:{site.port}", owner.cookie)
                follow = {"type": "subscribe", "stream_id": f"workspace:{owner.workspace}"}
                for asked in (
                    follow | {"cursor": head},
                    {"type": "presence_subscribe", "workspace_id": owner.workspace},
                ):
                    await slow.send(Frame(Opcode.TEXT, msgspec.json.encode(asked)))
                await guest.sees(owner.user_id)
                for number in range(400):
                    await guest.say("presence_update", state=[number, "x" * 900])
                    if number % 20 == 0:
                        await workspace.send(CreateNote("A note", "x"))
                    await trio.sleep(0.002)
                seen, seqs = Seen(), list[int]()
                with fail_after(30):
                    while len(seqs) < 20 or seen.rev != guest.seen.rev:
                        opcode, payload = await slow.frame()
                        message = msgspec.json.decode(payload) if opcode is Opcode.TEXT else {}
                        if message.get("type") == "event":
                            seqs.append(message["seq"])
                        elif message.get("type") in {"presence", "presence_diff"}:
                            assert seen.hear(message)
                assert seqs == [*range(head + 1, head + 21)]
                assert seen.users == guest.seen.users
                assert seen.diffs + seen.lists < guest.seen.diffs / 2, "most of it was never sent"


async def test_whose_access_ends_is_gone_at_once(migrated: str) -> None:
    """By a removal, which the log decides; by a logout, which closes; by the workspace's end."""
    async with serving(migrated, app=APP, limits=Limits(presence_linger_s=1_000)) as site:
        owner = await set_up(site)
        bob, eve = [await add_member(site, owner.workspace) for _ in range(2)]
        async with present(owner) as ada, present(bob) as removed, present(eve) as leaving:
            await ada.sees(bob.user_id, eve.user_id)
            await site.runtime.workspace(owner.workspace).send(RemoveMember(bob.user_id))
            assert (await removed.hears("presence_ended"))["code"] == "ROLE_FORBIDDEN"
            await ada.misses(bob.user_id)
            told = len(removed.heard)
            async with httpx.AsyncClient(
                base_url=site.url, headers={"cookie": eve.cookie}, **PLAIN
            ) as http:
                csrf = (await http.get("/api/auth/session")).json()["csrf_token"]
                answer = await http.post("/api/auth/logout", headers={"x-csrf-token": csrf})
            assert answer.status_code == 204
            await ada.misses(eve.user_id)
            assert len(removed.heard) == told
            assert leaving.seen.users.keys() >= {owner.user_id, eve.user_id}, "as it was"
            await site.runtime.workspace(owner.workspace).send(DeleteWorkspace())
            assert (await ada.hears("presence_ended"))["code"] == "WORKSPACE_NOT_FOUND"


async def test_a_tab_that_reloads_is_no_news(migrated: str) -> None:
    async with serving(migrated, app=APP, limits=LIMITS) as site:
        owner = await set_up(site)
        bob = await add_member(site, owner.workspace)
        async with present(owner) as ada:
            async with present(bob, tab="t", client_id="laptop") as page:
                await ada.sees(bob.user_id)
                (shown,) = ada.seen.users[bob.user_id]["connections"]
                assert (shown["tab"], shown["client_id"]) == ("t", "laptop")
                told = len(ada.heard)
                await page.vanish()
            async with present(bob, tab="t", client_id="laptop") as page:
                assert page.seen.connection_id == shown["id"]
                await trio.sleep(LIMITS.presence_linger_s + 0.5)
                assert ada.seen.users[bob.user_id]["connections"] == [shown]
                news = [
                    each["joined"] or each["changed"] or each["left"] for each in ada.heard[told:]
                ]
                assert not any(news), "it may have settled"
                await page.aclose()
                await ada.misses(bob.user_id)


async def test_a_projects_socket_attends_too(migrated: str) -> None:
    async with serving(migrated, app=APP, limits=LIMITS) as site:
        owner = await set_up(site)
        bob = await add_member(site, owner.workspace)
        path = f"/ws/projects/{owner.workspace}"
        async with present(owner, path=path, tab="t") as ada, present(bob) as guest:
            await ada.sees(bob.user_id)
            await guest.sees(owner.user_id)
            await ada.say("presence_update", state={"page": 2})
            with fail_after(20):
                await until(lambda: guest.seen.states(owner.user_id) == [{"page": 2}])
            await ada.say("presence_unsubscribe")
            await ada.hears("presence_unsubscribed")
            await guest.misses(owner.user_id)


async def test_two_servers_one_of_which_leaves(migrated: str) -> None:
    """Who comes back at the other one finds another epoch, which settles with everybody there."""
    async with serving(migrated, app=APP, limits=LIMITS, node_id="b", advertise="http://b") as b:
        async with serving(migrated, app=APP, limits=LIMITS, node_id="a") as a:
            owner = await set_up(a)
            bob = await add_member(a, owner.workspace)
            async with present(owner) as ada, present(bob):
                await ada.sees(bob.user_id)
                epoch = ada.seen.epoch
                async with present(bob, url=b.url, attends=False) as elsewhere:
                    await elsewhere.say("presence_subscribe")
                    assert (await elsewhere.hears("error"))["code"] == "WORKSPACE_MOVED"
        async with present(owner, url=b.url) as ada:
            assert ada.seen.epoch != epoch
            assert not ada.seen.settled
            async with present(bob, url=b.url):
                await ada.sees(bob.user_id)
                with fail_after(20):
                    await until(lambda: ada.seen.settled)
                assert ada.seen.total == 2
