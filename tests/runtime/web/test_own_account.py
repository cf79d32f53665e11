"""What users do with their own accounts, and what becomes of their sessions."""

from __future__ import annotations

import pytest

from dalsegno.actors.domains.accounts import DisableUser
from dalsegno.protocol import Limits
from dalsegno.runtime.web._passwords import common_passwords

from ._client import PASSWORD, Site, User
from .conftest import open_site

NEW = "another horse battery staple"


async def log_in(site: Site, email: str, password: str) -> int:
    answer = await site.send("POST", "/api/auth/login", {"email": email, "password": password})
    return answer.status


# ------------------------------------------------------------------------------------ passwords


async def test_a_changed_password_ends_the_users_other_sessions(site: Site, owner: User) -> None:
    other, stranger = await site.login(owner.email), await site.add_user()
    body = {"current_password": PASSWORD, "new_password": NEW}
    assert (await owner.post("/api/auth/password", body)).status == 204
    assert site.closed_users == [(owner.id, site.hash_of(owner))]
    assert (await owner.get("/api/auth/session")).status == 200
    assert (await other.get("/api/auth/session")).code == "SESSION_REVOKED"
    assert (await stranger.get("/api/auth/session")).status == 200
    assert await log_in(site, owner.email, PASSWORD) == 401
    assert await log_in(site, owner.email, NEW) == 200


async def test_a_password_is_changed_by_who_knows_it(site: Site, owner: User) -> None:
    for body, status, code in (
        ({"current_password": "not the one", "new_password": NEW}, 401, "INVALID_CREDENTIALS"),
        ({"current_password": PASSWORD, "new_password": "short"}, 400, "BAD_REQUEST"),
        ({"current_password": PASSWORD, "new_password": "Password1"}, 400, "PASSWORD_TOO_COMMON"),
        ({"current_password": PASSWORD}, 400, "BAD_REQUEST"),
    ):
        answer = await owner.post("/api/auth/password", body)
        assert (answer.status, answer.code) == (status, code), body
    body = {"current_password": PASSWORD, "new_password": NEW}
    answer = await owner.post("/api/auth/password", body, x_csrf_token="another")
    assert (answer.status, answer.code) == (403, "CSRF_INVALID")
    assert await log_in(site, owner.email, PASSWORD) == 200
    assert (await owner.get("/api/auth/session")).status == 200


async def test_guesses_at_the_current_password_count_with_those_of_log_ins() -> None:
    slow = Limits(guess_delay_first_s=600.0, guess_delay_max_s=600.0, guesses_free_max=4)
    async with open_site(limits=slow) as site:
        owner = await site.set_up()
        wrong = {"current_password": "not the one", "new_password": NEW}
        codes = [(await owner.post("/api/auth/password", wrong)).code for _ in range(2)]
        codes += [(await owner.post("/api/auth/close", wrong)).code]
        assert await log_in(site, owner.email, "not the one") == 401
        assert codes == ["INVALID_CREDENTIALS"] * 3
        right = {"current_password": PASSWORD, "new_password": NEW}
        assert (await owner.post("/api/auth/password", right)).code == "RATE_LIMITED"
        assert await log_in(site, owner.email, PASSWORD) == 429


async def test_the_commonest_passwords_are_refused_wherever_one_is_chosen(site: Site) -> None:
    assert len(common_passwords()) > 3000
    register = {"email": "ada@example.com", "display_name": "Ada"}
    for password in ("password", "PassWord1", "qwertyuiop", "12345678", "iloveyou"):
        answer = await site.send("POST", "/api/setup/register", {**register, "password": password})
        assert (answer.status, answer.code) == (400, "PASSWORD_TOO_COMMON")
        assert answer.body["details"] == {"field": "password"}
    owner = await site.register()
    body = {"email": "bob@example.com", "display_name": "Bob", "role": "viewer"}
    answer = await owner.post("/api/users", {**body, "password": "sunshine1"})
    assert answer.code == "PASSWORD_TOO_COMMON"


# ------------------------------------------------------------------------------------- the end


async def test_a_user_closes_their_account(site: Site, owner: User) -> None:
    user = await site.add_member(owner, "editor")
    other = await site.login(user.email)
    for password in ("not the one", ""):
        answer = await user.post("/api/auth/close", {"current_password": password})
        assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS")
    answer = await user.post("/api/auth/close", {"current_password": PASSWORD})
    assert answer.status == 204
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert site.closed_users == [(user.id, None)]
    for one in (user, other):
        assert (await one.get("/api/auth/session")).code == "SESSION_REVOKED"
    assert await log_in(site, user.email, PASSWORD) == 401
    assert await site.rt.accounts.find_credential(user.id) is None
    (row,) = [
        each
        for each in (await owner.get(f"{owner.space}/members")).body["items"]
        if each["user_id"] == user.id
    ]
    assert (row["email"], row["display_name"]) == (None, None)
    body = {"email": user.email, "password": PASSWORD, "display_name": "B", "role": "viewer"}
    assert (await owner.post("/api/users", body)).status == 201, "the address is free"


async def test_the_last_global_owner_cannot_leave(site: Site, owner: User) -> None:
    admin = await site.add_user("admin")
    for answer in (
        await owner.post("/api/auth/close", {"current_password": PASSWORD}),
        await owner.delete(f"/api/users/{owner.id}"),
        await owner.post(f"/api/users/{owner.id}/disable"),
        await owner.patch(f"/api/users/{owner.id}/role", {"role": "viewer"}),
    ):
        assert (answer.status, answer.code) == (409, "MEMBERSHIP_CONFLICT")
    for answer in (
        await admin.delete(f"/api/users/{owner.id}"),
        await admin.post(f"/api/users/{owner.id}/disable"),
    ):
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
    assert (await owner.get("/api/auth/session")).status == 200


async def test_who_alone_owns_a_workspace_of_others_cannot_leave_it(
    site: Site, owner: User
) -> None:
    user, other = await site.add_user(), await site.add_user()
    made = [
        (await user.post("/api/workspaces", {"slug": slug, "name": slug})).body["workspace_id"]
        for slug in ("shared", "alone", "gone", "handed")
    ]
    shared, _, gone, handed = made
    for workspace_id in (shared, gone, handed):
        put = await user.put(
            f"/api/workspaces/{workspace_id}/members/{other.id}", {"role": "viewer"}
        )
        assert put.status == 200
    assert (await user.delete(f"/api/workspaces/{gone}")).status == 204
    transfer = await user.post(f"/api/workspaces/{handed}/transfer", {"user_id": other.id})
    assert transfer.status == 200
    for answer in (
        await user.post("/api/auth/close", {"current_password": PASSWORD}),
        await owner.delete(f"/api/users/{user.id}"),
    ):
        assert (answer.status, answer.code) == (409, "MEMBERSHIP_CONFLICT")
        assert answer.body["details"] == {"workspaces": [shared]}
    assert (await user.get("/api/auth/session")).status == 200
    transfer = await user.post(f"/api/workspaces/{shared}/transfer", {"user_id": other.id})
    assert transfer.status == 200
    closed = await user.post("/api/auth/close", {"current_password": PASSWORD})
    assert closed.status == 204


async def test_a_disabled_user_is_out_until_enabled(site: Site, owner: User) -> None:
    user = await site.add_user("editor")
    path = f"/api/users/{user.id}"
    disabled = await owner.post(f"{path}/disable")
    assert (disabled.status, disabled.body["status"], disabled.body["role"]) == (
        200,
        "disabled",
        None,
    )
    assert site.closed_users == [(user.id, None)]
    assert (await user.get("/api/auth/session")).code == "SESSION_REVOKED"
    assert await log_in(site, user.email, PASSWORD) == 401
    enabled = await owner.post(f"{path}/enable")
    assert (enabled.status, enabled.body["status"], enabled.body["role"]) == (
        200,
        "active",
        "editor",
    )
    assert (await user.get("/api/auth/session")).code == "SESSION_REVOKED", "it had ended"
    assert await log_in(site, user.email, PASSWORD) == 200
    for action in ("disable", "enable"):
        assert (await owner.post(f"/api/users/nobody/{action}")).code == "USER_NOT_FOUND"


# ------------------------------------------------------------------------------------ sessions


async def test_a_session_ends_after_thirty_days_whatever_happens(site: Site, owner: User) -> None:
    for _ in range(29):
        site.clock.move(days=1)
        answer = await owner.get("/api/auth/session")
        assert answer.status == 200
        assert "Max-Age" in answer.headers["set-cookie"]
    assert "Max-Age=86400;" in answer.headers["set-cookie"], "what is left of thirty days"
    site.clock.move(hours=23)
    assert (await owner.get("/api/auth/session")).status == 200
    site.clock.move(hours=1)
    answer = await owner.get("/api/auth/session")
    assert (answer.status, answer.code) == (401, "SESSION_EXPIRED")


async def test_an_unused_session_ends_after_seven_days(site: Site, owner: User) -> None:
    site.clock.move(days=7)
    assert (await owner.get("/api/auth/session")).code == "SESSION_EXPIRED"


async def test_the_oldest_session_goes_for_a_new_one() -> None:
    async with open_site(limits=Limits(sessions_per_user_max=2)) as site:
        first, other = await site.set_up(), await site.add_user()
        second = await site.login(first.email)
        assert site.closed == []
        third = await site.login(first.email)
        assert site.closed == [site.hash_of(first)], "and its sockets"
        codes = [(await user.get("/api/auth/session")).status for user in (first, second, third)]
        assert codes == [401, 200, 200]
        assert (await other.get("/api/auth/session")).status == 200


# ------------------------------------------------------------------------------------- privacy


async def test_nobody_but_admins_learns_whether_an_address_has_an_account(
    site: Site, owner: User
) -> None:
    """Every route, asked about an address that is taken and about one that is not."""
    viewer, known = await site.add_member(owner, "viewer"), await site.add_user()
    disabled = await site.add_user()
    await site.rt.system.send(DisableUser(disabled.id))
    addresses = {"known": known.email, "disabled": disabled.email, "unknown": "no@example.com"}

    async def answers(email: str) -> list[tuple[int, str, str, object]]:
        body = {"email": email, "password": "not the one", "display_name": "X", "role": "viewer"}
        asked = [
            await site.send("POST", "/api/auth/login", body),
            await site.send("POST", "/api/setup/register", {**body, "password": PASSWORD}),
            await viewer.post("/api/users", {**body, "password": PASSWORD}),
            await viewer.get(f"/api/users?after={email}"),
            await owner.put(f"{owner.space}/members/{email}", {"role": "viewer"}),
            await viewer.put(f"{owner.space}/members/{email}", {"role": "viewer"}),
            await viewer.patch(f"/api/users/{email}/role", {"role": "viewer"}),
            await viewer.delete(f"/api/users/{email}"),
        ]
        return [(a.status, a.body["code"], a.body["message"], a.body["details"]) for a in asked]

    seen = {name: await answers(email) for name, email in addresses.items()}
    assert seen["known"] == seen["unknown"] == seen["disabled"]
    assert [status for status, *_ in seen["known"]] == [401, 409, 403, 403, 404, 403, 403, 403]


@pytest.mark.parametrize("role", ["owner", "admin", "editor", "viewer"])
async def test_members_see_each_others_addresses_as_admins_only(
    site: Site, owner: User, role: str
) -> None:
    user = await site.add_member(owner, role)
    members = (await user.get(f"{owner.space}/members")).body["items"]
    shown = {each["user_id"]: (each["email"], each["display_name"]) for each in members}
    sees_all = role in {"owner", "admin"}
    assert shown == {
        owner.id: (owner.email if sees_all else None, "Ada"),
        user.id: (user.email, "User"),
    }
