"""Sockets end with what they rest on: a session, an account, a workspace; and there are so many."""

from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import trio

from tests._http import PLAIN
from tests._patience import fail_after, until

from ._site import PASSWORD, Site, User
from .conftest import start
from .test_access import UPGRADE
from .test_streams import patch

NEW = "another horse battery staple"


async def follow(user: User, note_id: str, stack: AsyncExitStack) -> Any:
    socket = await stack.enter_async_context(user.socket())
    await socket.ask("subscribe_note", note_id=note_id)
    await socket.take(1)
    return socket


async def test_x_auth_2_what_ends_a_session_closes_its_sockets_and_nothing_is_lost(
    site: Site,
) -> None:
    owner, note_id = site.owner, await site.owner.create_note()
    user = await site.add_user("viewer")
    elsewhere = await site.login(user.email)
    async with AsyncExitStack() as stack:
        here = await follow(user, note_id, stack)
        there = await follow(elsewhere, note_id, stack)
        writer = await stack.enter_async_context(owner.socket())
        body = {"current_password": PASSWORD, "new_password": NEW}
        changed = await user.http("POST", "/api/auth/password", body)
        assert changed.status_code == 204, changed.text
        assert await there.closed() == 4001
        assert (await patch(writer, note_id, 1))["version"] == 2
        assert (await here.until("note_event"))["version"] == 2, "the session that changed it"
        disabled = await owner.http("POST", f"/api/users/{user.id}/disable")
        assert disabled.status_code == 200, disabled.text
        assert await here.closed() == 4001
        assert (await patch(writer, note_id, 2))["version"] == 3
        refused = await site.http("POST", "/api/auth/login", {"email": user.email, "password": NEW})
        assert refused.status_code == 401
        assert (await owner.http("POST", f"/api/users/{user.id}/enable")).status_code == 200
        login = await site.http("POST", "/api/auth/login", {"email": user.email, "password": NEW})
        again = User(site, login.json(), login.cookies["dalsegno_session"])
        back = await stack.enter_async_context(again.socket())
        await back.ask("subscribe_note", note_id=note_id, cursor=1)
        assert [(await back.until("note_event"))["version"] for _ in range(2)] == [2, 3]
        closed = await again.http("POST", "/api/auth/close", {"current_password": NEW})
        assert closed.status_code == 204, closed.text
        assert await back.closed() == 4001
        assert (await patch(writer, note_id, 3))["version"] == 4, "the owner goes on"


async def test_x_auth_2_a_socket_ends_when_its_session_may_last_no_longer(migrated: str) -> None:
    """What happens at that moment is `test_an_expired_session_closes_its_sockets`."""
    async with start(migrated, session_s=3600.0) as site:
        await site.set_up()
        async with site.owner.socket() as socket:
            assert (await socket.ask("ping"))["type"] == "pong"
            (connection,) = site.rt.service.connections
            expires_at = connection._signs.expires_at
            assert expires_at is not None
            left = expires_at - site.rt.world.now()
            assert timedelta(minutes=50) < left <= timedelta(hours=1), "not seven days"


async def test_x_auth_2_what_another_server_ended_is_closed_here_too(migrated: str) -> None:
    async with start(migrated, session_check_s=0.1) as north:
        await north.set_up()
        user = await north.add_user("viewer")
        async with start(migrated, session_check_s=0.1) as south, user.socket() as here:
            there = User(south, {**user.identity}, user.cookie)
            async with there.socket() as socket, south_owner(south, north).socket() as others:
                disabled = await north.owner.http("POST", f"/api/users/{user.id}/disable")
                assert disabled.status_code == 200, disabled.text
                assert await here.closed() == 4001
                assert await socket.closed() == 4001
                assert (await others.ask("ping"))["type"] == "pong"


def south_owner(south: Site, north: Site) -> User:
    """The owner, with the same session, as a client of the other server."""
    return User(south, {**north.owner.identity}, north.owner.cookie)


async def test_the_oldest_session_and_its_sockets_go_for_a_new_one(migrated: str) -> None:
    async with start(migrated, sessions_per_user_max=2) as site:
        first = await site.set_up()
        second = await site.login()
        async with first.socket() as oldest, second.socket() as newer:
            await site.login()
            assert await oldest.closed() == 4001
            assert (await newer.ask("ping"))["type"] == "pong"


# ------------------------------------------------------------------------------------- sockets


async def upgrade(user: User) -> httpx.Response:
    """Ask for a socket that is refused."""
    cookie = {"cookie": f"dalsegno_session={user.cookie}"}
    async with httpx.AsyncClient(base_url=f"http://{user.site.address}", **PLAIN) as http:
        return await http.get("/ws", headers={**UPGRADE, **cookie})


async def test_a_user_has_so_many_sockets_and_others_have_theirs(migrated: str) -> None:
    async with start(migrated, sockets_per_user_max=2) as site:
        owner = await site.set_up()
        other = await site.add_user()
        async with owner.socket(), owner.socket() as second, other.socket():
            refused = await upgrade(await site.login())
            assert (refused.status_code, refused.json()["code"]) == (503, "OVERLOADED")
            assert int(refused.headers["retry-after"]) >= 1
            await second.ws.aclose()
            with fail_after(20):
                await until(lambda: len(site.rt.service.connections) == 2)
            async with owner.socket() as third:
                assert (await third.ask("ping"))["type"] == "pong"
                assert (await upgrade(owner)).status_code == 503


async def test_no_bound_of_sockets_is_no_bound(migrated: str) -> None:
    async with start(migrated, sockets_per_user_max=0) as site:
        owner = await site.set_up()
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(owner.socket())
            assert len(site.rt.service.connections) == 3


# ---------------------------------------------------------------------------------- workspaces


async def test_an_archived_workspace_refuses_commands_in_both_dialects(site: Site) -> None:
    owner, note_id = site.owner, await site.owner.create_note()
    space = f"/api/workspaces/{owner.workspace_id}"
    async with owner.socket() as socket:
        await socket.ask("subscribe_workspace", workspace_id=owner.workspace_id)
        archived = await owner.http("PATCH", space, {"state": "archived"})
        assert archived.status_code == 200, archived.text
        assert (await socket.until("workspace_event", event_type="workspace_archived"))["event_seq"]
        refused = await patch(socket, note_id, 1)
        assert (refused["type"], refused["code"]) == ("error", "WORKSPACE_ARCHIVED")
        refused = await socket.ask(
            "command",
            workspace_id=owner.workspace_id,
            name="set_title",
            payload={"note_id": note_id, "title": "New", "base_version": 1},
        )
        assert (refused["type"], refused["code"]) == ("rejected", "WORKSPACE_ARCHIVED")
        restored = await socket.ask(
            "command",
            workspace_id=owner.workspace_id,
            name="change_workspace",
            payload={"state": "active"},
        )
        assert restored["type"] == "committed"
        assert (await patch(socket, note_id, 1))["type"] == "patch_committed"


async def test_what_is_sent_around_an_archiving_is_decided_by_the_logs_order(site: Site) -> None:
    """Whatever the routes saw: no note event follows the archiving in the log."""
    owner, note_id = site.owner, await site.owner.create_note("")
    async with owner.socket() as writer:
        async with trio.open_nursery() as nursery:
            for version in range(1, 201):
                await writer.send(
                    "apply_patch", note_id=note_id, base_version=version, patch_ops=[]
                )
                if version == 100:
                    nursery.start_soon(
                        owner.http,
                        "PATCH",
                        f"/api/workspaces/{owner.workspace_id}",
                        {"state": "archived"},
                    )
        answers = [await writer.next() for _ in range(200)]
    committed = sum(answer["type"] == "patch_committed" for answer in answers)
    refused = [answer["code"] for answer in answers if answer["type"] == "error"]
    assert committed + len(refused) == 200
    assert set(refused) <= {"WORKSPACE_ARCHIVED"}
    types = [event["type"] for event in await owner.events()]
    assert types.count("note_patched") == committed
    assert types[-1] == "workspace_archived"


async def test_a_deleted_workspace_ends_what_follows_it_and_is_found_by_nobody(site: Site) -> None:
    owner, note_id = site.owner, await site.owner.create_note()
    member = await site.add_user("viewer")
    space = owner.workspace_id
    streams = {f"workspace:{space}", f"note:{note_id}"}
    async with owner.socket() as first, member.socket() as second:
        for socket in (first, second):
            for stream_id in sorted(streams):
                answer = await socket.ask("subscribe", stream_id=stream_id, workspace_id=space)
                assert answer["type"] == "subscribed", answer
        deleted = await owner.http("DELETE", f"/api/workspaces/{space}")
        assert deleted.status_code == 204, deleted.text
        for socket in (first, second):
            ended = {
                (await socket.until("error", code="WORKSPACE_NOT_FOUND"))["stream_id"]
                for _ in streams
            }
            assert ended == streams
            last = [m for m in socket.seen if m["type"] == "event"][-1]
            assert last["event_type"] == "workspace_deleted"
            for stream_id in sorted(streams):
                answer = await socket.ask("subscribe", stream_id=stream_id, workspace_id=space)
                assert (answer["type"], answer["code"]) == ("error", "WORKSPACE_NOT_FOUND")
            answer = await socket.ask(
                "command", workspace_id=space, name="create_note", payload={"title": "T"}
            )
            assert (answer["type"], answer["code"]) == ("rejected", "WORKSPACE_NOT_FOUND")
