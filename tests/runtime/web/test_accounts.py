"""Setup, login, sessions, users."""

from __future__ import annotations

import pytest
import trio

from dalsegno.actors.domains.accounts import DisableUser
from dalsegno.actors.domains.members import GlobalRole, PutMember, RemoveMember
from dalsegno.protocol import Limits, Reject
from dalsegno.runtime.web._auth import (
    COOKIE,
    SessionCookie,
    authenticate_person,
    session_hash,
)

from ._client import PASSWORD, Site, User
from .conftest import open_site

REGISTER = {"email": "ada@example.com", "password": PASSWORD, "display_name": "Ada"}


# ------------------------------------------------------------------------------------- setup


async def test_setup_makes_an_owner_with_a_workspace_and_a_session(site: Site) -> None:
    answer = await site.send(
        "POST",
        "/api/setup/register",
        {**REGISTER, "workspace_name": "Engines", "workspace_slug": "engines"},
    )
    assert answer.status == 201
    body = answer.body
    assert (body["email"], body["display_name"], body["role"]) == (
        "ada@example.com",
        "Ada",
        "owner",
    )
    assert {"user_id", "csrf_token", "workspace_id", "request_id"} <= set(body)
    owner = User(site, answer)
    (workspace,) = (await owner.get("/api/workspaces")).body["items"]
    assert workspace["workspace_id"] == body["workspace_id"]
    assert (workspace["name"], workspace["slug"], workspace["role"]) == (
        "Engines",
        "engines",
        "owner",
    )
    assert (await site.login("ADA@example.com ")).workspace_id == body["workspace_id"]


async def test_setup_is_locked_afterwards(site: Site, owner: User) -> None:
    answer = await site.send(
        "POST", "/api/setup/register", {**REGISTER, "email": "eve@example.com"}
    )
    assert (answer.status, answer.code) == (409, "SETUP_LOCKED")


async def test_of_concurrent_setups_one_succeeds_and_leaves_one_password(site: Site) -> None:
    answers = []

    async def register(number: int) -> None:
        body = {**REGISTER, "email": f"u{number}@example.com", "workspace_slug": f"s{number}"}
        answers.append(await site.send("POST", "/api/setup/register", body))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(register, number)
    assert sorted(a.status for a in answers) == [201, 409, 409, 409]
    assert {a.code for a in answers if a.status == 409} == {"SETUP_LOCKED"}
    assert len(site.rt.accounts._credentials) == 1  # type: ignore[attr-defined] # the fake's


@pytest.mark.parametrize(
    "body",
    [
        {},
        {**REGISTER, "password": "short"},
        {**REGISTER, "password": "x" * 1025},
        {**REGISTER, "email": "nobody"},
        {**REGISTER, "display_name": ""},
        {**REGISTER, "workspace_slug": "Not A Slug"},
        {**REGISTER, "email": 1},
        [],
    ],
)
async def test_a_malformed_setup_is_refused_and_may_be_repeated(site: Site, body: object) -> None:
    answer = await site.send("POST", "/api/setup/register", body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    assert site.rt.accounts._credentials == {}  # type: ignore[attr-defined] # the fake's
    assert (await site.register()).identity["role"] == "owner"


async def test_outside_loopback_setup_wants_the_token_and_cookies_are_secure() -> None:
    async with open_site(secure_cookies=True, setup_token="sesame") as site:
        for headers, more in (({}, {}), ({"x-setup-token": "x"}, {}), ({}, {"setup_token": "ä"})):
            answer = await site.send(
                "POST", "/api/setup/register", {**REGISTER, **more}, headers=headers
            )
            assert (answer.status, answer.code) == (403, "SETUP_TOKEN_INVALID")
        owner = await site.register(setup_token="sesame")
        assert "Secure" in owner.answer.headers["set-cookie"].split("; ")
    async with open_site(setup_token="sesame") as site:
        answer = await site.send(
            "POST", "/api/setup/register", REGISTER, headers={"x-setup-token": "sesame"}
        )
        assert answer.status == 201


async def test_the_setup_token_is_guessed_slowly() -> None:
    slow = Limits(guess_delay_first_s=600.0, guess_delay_max_s=600.0)
    async with open_site(setup_token="sesame", limits=slow) as site:
        codes = []
        for token in (*(f"guess {n}" for n in range(6)), "sesame"):
            answer = await site.send(
                "POST", "/api/setup/register", {**REGISTER, "setup_token": token}
            )
            codes.append(answer.code)
        assert codes == [*["SETUP_TOKEN_INVALID"] * 5, *["RATE_LIMITED"] * 2]
        assert answer.status == 429
        assert int(answer.headers["retry-after"]) <= 600


async def test_another_sites_page_neither_sets_up_nor_logs_in(site: Site, owner: User) -> None:
    for path in ("/api/setup/register", "/api/auth/login"):
        for told in ("cross-site", "same-site"):
            answer = await site.send("POST", path, REGISTER, headers={"sec-fetch-site": told})
            assert (answer.status, answer.code) == (403, "CSRF_INVALID")
    answer = await site.send(
        "POST", "/api/auth/login", REGISTER, headers={"sec-fetch-site": "same-origin"}
    )
    assert answer.status == 200


# ------------------------------------------------------------------------------------- login


async def test_the_cookie_is_for_http_only(site: Site, owner: User) -> None:
    attributes = owner.answer.headers["set-cookie"].split("; ")[1:]
    assert set(attributes) == {"Path=/", "Max-Age=604800", "HttpOnly", "SameSite=Lax"}


@pytest.mark.parametrize(
    ("email", "password"),
    [
        ("ada@example.com", "wrong password"),
        ("ada@example.com", ""),
        ("ada@example.com", "x" * 5000),
        ("nobody@example.com", PASSWORD),
        ("not an address", PASSWORD),
        ("", PASSWORD),
    ],
)
async def test_wrong_credentials_are_all_alike(
    site: Site, owner: User, email: str, password: str
) -> None:
    answer = await site.send("POST", "/api/auth/login", {"email": email, "password": password})
    assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS")
    assert "set-cookie" not in answer.headers


async def test_a_session_tells_who_is_logged_in(site: Site, owner: User) -> None:
    session = await owner.get("/api/auth/session")
    assert session.status == 200
    ignored = {"request_id"}
    assert {k: v for k, v in session.body.items() if k not in ignored} == {
        k: v for k, v in owner.identity.items() if k not in ignored
    }


async def test_the_store_knows_digests_only(site: Site, owner: User) -> None:
    assert await site.rt.accounts.find_session(owner.session.encode()) is None
    row = await site.rt.accounts.find_session(session_hash(owner.session))
    assert row is not None
    assert row.user_id == owner.id


@pytest.mark.parametrize(
    "cookie", [None, "", "theme=dark", f"{COOKIE}=", f"{COOKIE}=guess", COOKIE]
)
async def test_x_auth_1_without_a_session_nothing_is_answered(
    site: Site, cookie: str | None
) -> None:
    headers = {} if cookie is None else {"cookie": cookie}
    for method, path in (
        ("GET", "/api/auth/session"),
        ("POST", "/api/auth/logout"),
        ("GET", "/api/users"),
        ("GET", "/api/workspaces"),
        ("GET", "/api/workspaces/w/events"),
        ("GET", "/api/workspaces/w/members"),
        ("PUT", "/api/workspaces/w/members/u"),
        ("POST", "/api/notes"),
        ("GET", "/api/notes/n"),
        ("PATCH", "/api/notes/n"),
    ):
        answer = await site.send(method, path, headers=headers)
        assert answer.headers["www-authenticate"] == 'Bearer realm="dalsegno"'
        assert (answer.status, answer.code) == (401, "AUTH_REQUIRED"), (method, path)


@pytest.mark.parametrize("token", [None, "", "wrong", "ä"])
async def test_x_auth_3_a_change_needs_the_sessions_token(
    site: Site, owner: User, token: str | None
) -> None:
    note_id = await owner.write()
    headers = {"cookie": owner.headers["cookie"]}
    if token is not None:
        headers["x-csrf-token"] = token
    for method, path in (
        ("POST", "/api/auth/logout"),
        ("POST", "/api/users"),
        ("POST", "/api/workspaces"),
        ("PUT", f"{owner.space}/members/{owner.id}"),
        ("DELETE", f"{owner.space}/members/{owner.id}"),
        ("POST", "/api/notes"),
        ("PATCH", f"/api/notes/{note_id}"),
        ("PATCH", f"/api/notes/{note_id}/title"),
        ("DELETE", f"/api/notes/{note_id}"),
        ("POST", f"/api/notes/{note_id}/rollback"),
    ):
        answer = await site.send(method, path, {}, headers=headers)
        assert (answer.status, answer.code) == (403, "CSRF_INVALID"), (method, path)
    assert (await site.send("GET", "/api/auth/session", headers=headers)).status == 200


async def test_logout_ends_this_session_and_its_connections(site: Site, owner: User) -> None:
    other = await site.login(owner.email)
    answer = await owner.post("/api/auth/logout")
    assert (answer.status, answer.raw) == (204, b"")
    assert answer.cookie == ""
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert site.closed == [session_hash(owner.session)]
    again = await owner.get("/api/auth/session")
    assert (again.status, again.code) == (401, "SESSION_REVOKED")
    assert (await other.get("/api/auth/session")).status == 200


async def test_a_session_ends_a_week_after_its_last_use(site: Site, owner: User) -> None:
    other = await site.login(owner.email)
    site.clock.move(days=6)
    renewed = await owner.get("/api/auth/session")
    assert renewed.cookie == owner.session
    site.clock.move(days=1)
    expired = await other.get("/api/auth/session")
    assert (expired.status, expired.code) == (401, "SESSION_EXPIRED")
    assert (await owner.get("/api/auth/session")).status == 200


async def test_a_session_is_touched_at_most_once_a_minute(site: Site, owner: User) -> None:
    site.clock.move(seconds=59)
    assert "set-cookie" not in (await owner.get("/api/workspaces")).headers
    row = await site.rt.accounts.find_session(session_hash(owner.session))
    assert row is not None
    assert row.last_seen_at < site.clock.now
    site.clock.move(seconds=1)
    assert "set-cookie" in (await owner.get("/api/workspaces")).headers
    row = await site.rt.accounts.find_session(session_hash(owner.session))
    assert row is not None
    assert row.last_seen_at == site.clock.now
    assert "set-cookie" not in (await owner.get("/api/workspaces")).headers


async def test_a_disabled_user_is_out(site: Site, owner: User) -> None:
    user = await site.add_user()
    await site.rt.system.send(DisableUser(user.id))
    answer = await user.get("/api/auth/session")
    assert (answer.status, answer.code) == (401, "SESSION_REVOKED")
    body = {"email": user.email, "password": PASSWORD}
    answer = await site.send("POST", "/api/auth/login", body)
    assert (answer.status, answer.code) == (401, "INVALID_CREDENTIALS")
    (found,) = [
        item for item in (await owner.get("/api/users")).body["items"] if item["user_id"] == user.id
    ]
    assert (found["status"], found["role"]) == ("disabled", None)


async def test_the_upgrade_asks_in_the_same_way(site: Site, owner: User) -> None:
    identity = await authenticate_person(site.rt, owner.headers["cookie"])
    assert (identity.user_id, identity.session_hash) == (owner.id, session_hash(owner.session))
    with pytest.raises(Reject, match="AUTH_REQUIRED"):
        await authenticate_person(site.rt, None)


@pytest.mark.parametrize(
    ("cookies", "token"),
    [
        (None, None),
        ("a=b", None),
        (f"{COOKIE}=x", "x"),
        (f"a=b; {COOKIE}=x;c=d", "x"),
        (f"{COOKIE}=x; {COOKIE}=y", "x"),
        (f"not_{COOKIE}=x", None),
        (f"{COOKIE}=a=b", "a=b"),
        (f'a="\xff\udcff"; {COOKIE}=x', "x"),
    ],
)
def test_the_session_is_found_among_cookies(cookies: str | None, token: str | None) -> None:
    assert SessionCookie().token(cookies) == token


# ------------------------------------------------------------------------------------- users


async def test_users_are_registered_and_listed_in_pages(site: Site, owner: User) -> None:
    body = {"email": "bob@example.com", "display_name": "Bob", "password": PASSWORD}
    registered = await owner.post("/api/users", {**body, "role": "editor"})
    assert registered.status == 201
    assert {k: registered.body[k] for k in ("email", "display_name", "role", "status")} == {
        "email": "bob@example.com",
        "display_name": "Bob",
        "role": "editor",
        "status": "active",
    }
    first = (await owner.get("/api/users?limit=1")).body
    second = (await owner.get(f"/api/users?limit=1&after={first['next']}")).body
    last = (await owner.get(f"/api/users?limit=1&after={second['next']}")).body
    assert [item["email"] for item in first["items"] + second["items"]] == [
        owner.email,
        body["email"],
    ]
    assert (last["items"], last["next"]) == ([], None)
    password_hash = await site.rt.accounts.find_credential(registered.body["user_id"])
    assert password_hash is not None
    assert password_hash.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    bob = await site.login("bob@example.com")
    assert bob.identity["workspace_id"] is None


async def test_an_address_is_registered_once(site: Site, owner: User) -> None:
    body = {"email": "ADA@example.com", "display_name": "x", "password": PASSWORD, "role": "viewer"}
    answer = await owner.post("/api/users", body)
    assert (answer.status, answer.code) == (409, "STATE_CONFLICT")
    assert answer.body["details"] == {"field": "email"}
    assert len(site.rt.accounts._credentials) == 1  # type: ignore[attr-defined] # the fake's


@pytest.mark.parametrize(("role", "status"), [("admin", 200), ("editor", 403), ("viewer", 403)])
async def test_x_rbac_1_users_are_for_global_owners_and_admins(
    site: Site, owner: User, role: GlobalRole, status: int
) -> None:
    user = await site.add_user(role)
    listed = await user.get("/api/users")
    body = {"email": "c@example.com", "display_name": "C", "password": PASSWORD, "role": "viewer"}
    registered = await user.post("/api/users", body)
    assert (listed.status, registered.status) == (status, 201 if status == 200 else 403)
    if status == 403:
        assert {listed.code, registered.code} == {"ROLE_FORBIDDEN"}
    else:
        refused = await user.post("/api/users", {**body, "email": "d@example.com", "role": "owner"})
        assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")


async def test_an_unknown_role_is_refused(site: Site, owner: User) -> None:
    body = {"email": "c@example.com", "display_name": "C", "password": PASSWORD, "role": "king"}
    answer = await owner.post("/api/users", body)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_login_names_the_oldest_membership_that_stands(site: Site, owner: User) -> None:
    user = await site.add_user()
    system = site.rt
    for workspace_id in ("z-first", "a-second"):
        site.clock.move(minutes=1)
        await system.workspace(workspace_id).send(PutMember(user.id, "viewer"))
    assert (await site.login(user.email)).workspace_id == "z-first"
    await system.workspace("z-first").send(RemoveMember(user.id))
    assert (await site.login(user.email)).workspace_id == "a-second"
