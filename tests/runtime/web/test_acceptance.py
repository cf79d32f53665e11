"""The acceptance ids of accounts, workspaces and notes, each as one story over HTTP."""

from __future__ import annotations

from ._client import PASSWORD, Site, User

REGISTER = {"email": "ada@example.com", "password": PASSWORD, "display_name": "Ada"}


async def test_api_auth_01_setup_happens_once_and_is_locked(site: Site) -> None:
    first = await site.send("POST", "/api/setup/register", {**REGISTER, "workspace_name": "Board"})
    assert first.status == 201
    assert {"workspace_id", "role", "csrf_token", "request_id"} <= set(first.body)
    assert first.body["role"] == "owner"
    again = await site.send("POST", "/api/setup/register", {**REGISTER, "email": "eve@x.example"})
    assert (again.status, again.code) == (409, "SETUP_LOCKED")
    wrong = await site.send(
        "POST", "/api/auth/login", {"email": "eve@x.example", "password": PASSWORD}
    )
    assert (wrong.status, wrong.code) == (401, "INVALID_CREDENTIALS"), "nobody was made"


async def test_api_auth_02_a_session_from_login_to_logout(site: Site, owner: User) -> None:
    assert {"user_id", "role", "csrf_token", "request_id", "email", "display_name"} <= set(
        owner.answer.body
    )
    session = await owner.get("/api/auth/session")
    assert (session.status, session.body["user_id"]) == (200, owner.id)
    csrf = await owner.post("/api/auth/logout", x_csrf_token="another")
    assert (csrf.status, csrf.code) == (403, "CSRF_INVALID")
    assert (await owner.post("/api/auth/logout")).status == 204
    for method, path in (("GET", "/api/auth/session"), ("POST", "/api/auth/logout")):
        gone = await owner.send(method, path)
        assert (gone.status, gone.code) == (401, "SESSION_REVOKED")
    again = await site.login(owner.email)
    assert again.session != owner.session
    assert (await again.get("/api/auth/session")).status == 200


async def test_api_user_01_users_are_listed_made_given_roles_and_deleted(
    site: Site, owner: User
) -> None:
    body = {"email": "bob@example.com", "password": PASSWORD, "display_name": "Bob"}
    made = await owner.post("/api/users", {**body, "role": "viewer"})
    assert made.status == 201
    path = f"/api/users/{made.body['user_id']}"
    bob = await site.login("bob@example.com")
    for method, route, sent in (
        ("GET", "/api/users", None),
        ("POST", "/api/users", {**body, "role": "viewer"}),
        ("PATCH", f"{path}/role", {"role": "owner"}),
        ("DELETE", path, None),
        ("POST", f"{path}/disable", None),
        ("POST", f"{path}/enable", None),
    ):
        refused = await bob.send(method, route, sent)
        assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN"), (method, route)
    changed = await owner.patch(f"{path}/role", {"role": "admin"})
    assert (changed.status, changed.body["role"]) == (200, "admin")
    listed = (await bob.get("/api/users")).body["items"]
    assert {(user["email"], user["role"], user["status"]) for user in listed} == {
        ("ada@example.com", "owner", "active"),
        ("bob@example.com", "admin", "active"),
    }
    assert (await owner.delete(path)).status == 204
    gone = await owner.delete(path)
    assert (gone.status, gone.code) == (404, "USER_NOT_FOUND")
    assert len((await owner.get("/api/users")).body["items"]) == 1
    out = await bob.get("/api/auth/session")
    assert (out.status, out.code) == (401, "SESSION_REVOKED")


async def test_api_wspace_01_a_workspace_from_its_making_to_its_end(
    site: Site, owner: User
) -> None:
    made = await owner.post("/api/workspaces", {"slug": "engines", "name": "Engines"})
    assert (made.status, made.body["state"]) == (201, "active")
    path = f"/api/workspaces/{made.body['workspace_id']}"
    renamed = await owner.patch(path, {"name": "Looms"})
    assert (renamed.status, renamed.body["name"], renamed.body["slug"]) == (200, "Looms", "engines")
    archived = await owner.patch(path, {"state": "archived"})
    assert (archived.status, archived.body["state"]) == (200, "archived")
    note = {"workspace_id": made.body["workspace_id"], "title": "T", "markdown": "x"}
    refused = await owner.post("/api/notes", note)
    assert (refused.status, refused.code) == (409, "WORKSPACE_ARCHIVED")
    listed = {w["workspace_id"]: w for w in (await owner.get("/api/workspaces")).body["items"]}
    shown = listed[made.body["workspace_id"]]
    assert (shown["name"], shown["state"]) == ("Looms", "archived")
    opened = await owner.patch(path, {"state": "active"})
    assert (opened.status, opened.body["state"]) == (200, "active")
    assert (await owner.post("/api/notes", note)).status == 201
    assert (await owner.delete(path)).status == 204
    assert (await owner.delete(path)).code == "WORKSPACE_NOT_FOUND"
    again = await owner.post("/api/workspaces", {"slug": "engines", "name": "Again"})
    assert again.status == 201, "its slug is free"


async def test_api_wspace_02_members_and_the_next_owner(site: Site, owner: User) -> None:
    user = await site.add_user()
    path = f"{owner.space}/members/{user.id}"
    assert (await owner.put(path, {"role": "viewer"})).status == 200
    first = await owner.put(path, {"role": "editor"})
    again = await owner.put(path, {"role": "editor"})
    assert (first.status, again.status) == (200, 200)
    assert again.body["event_seq"] == first.body["event_seq"], "it is there already"
    refused = await user.put(f"{owner.space}/members/{owner.id}", {"role": "viewer"})
    assert (refused.status, refused.code) == (403, "ROLE_FORBIDDEN")
    transferred = await owner.post(f"{owner.space}/transfer", {"user_id": user.id})
    assert (transferred.status, transferred.body["role"]) == (200, "admin")
    members = (await owner.get(f"{owner.space}/members")).body["items"]
    assert {m["user_id"]: m["role"] for m in members} == {user.id: "owner", owner.id: "admin"}
    for body, status, code in (
        ({"user_id": owner.id}, 403, "ROLE_FORBIDDEN"),
        ({}, 400, "BAD_REQUEST"),
    ):
        refused = await owner.post(f"{owner.space}/transfer", body)
        assert (refused.status, refused.code) == (status, code)
    stranger = await site.add_user()
    refused = await user.post(f"{owner.space}/transfer", {"user_id": stranger.id})
    assert (refused.status, refused.code) == (409, "MEMBERSHIP_CONFLICT")
    assert (await user.delete(f"{owner.space}/members/{owner.id}")).status == 204
    gone = await owner.get(f"{owner.space}/members")
    assert (gone.status, gone.code) == (403, "ROLE_FORBIDDEN")


async def test_api_note_01_a_note_is_created_and_fetched(owner: User) -> None:
    space = {"workspace_id": owner.workspace_id}
    project = await owner.post("/api/projects", {**space, "name": "P"})
    body = {
        **space,
        "project_id": project.body["id"],
        "title": "First",
        "note_kind": "markdown",
        "access_scope": "workspace",
        "markdown": "Hello",
    }
    created = await owner.post("/api/notes", body)
    assert created.status == 201
    path = f"/api/notes/{created.body['note_id']}"
    fetched = await owner.get(path)
    assert fetched.status == 200
    assert fetched.body.items() >= body.items()
    told = {k: v for k, v in created.body.items() if k != "request_id"}
    assert told.items() <= fetched.body.items()
    assert {"note_id", "version", "metadata_json", "deleted_at"} <= set(fetched.body)
    absent = await owner.get("/api/notes/nothing")
    assert (absent.status, absent.code) == (404, "NOTE_NOT_FOUND")


async def test_api_note_03_a_title_is_based_on_a_version(owner: User) -> None:
    path = f"/api/notes/{await owner.write()}"
    title = {"base_version": 1, "title": "Second"}
    changed = await owner.patch(f"{path}/title", title)
    assert (changed.status, changed.body["version"], changed.body["event_seq"]) == (200, 2, 2)
    stale = await owner.patch(f"{path}/title", {**title, "title": "Third"})
    assert (stale.status, stale.code) == (409, "VERSION_CONFLICT")
    assert stale.body["details"]["current_version"] == 2
    read = await owner.get(path)
    assert (read.body["title"], read.body["version"]) == ("Second", 2)
