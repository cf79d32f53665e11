"""Our own access and refresh tokens over HTTP (P4, X-AUTH-3)."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from dalsegno.protocol import Limits
from dalsegno.runtime.web._auth import COOKIE
from dalsegno.runtime.web._token_text import access_text, id_hash_of, read_access, read_refresh

from ._client import PASSWORD, Answer, Site, User
from .conftest import open_site

LIMITS = Limits()


class Program:
    """A program that a person has logged in."""

    def __init__(self, site: Site, answer: Answer) -> None:
        assert answer.status == 200, answer.raw
        self.site = site
        self.took(answer)

    def took(self, answer: Answer) -> None:
        self.pair: dict[str, Any] = answer.body
        self.access: str = answer.body["access_token"]
        self.refresh_token: str = answer.body["refresh_token"]

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        shown = {"authorization": f"Bearer {self.access}"}
        return await self.site.send(method, path, body, headers={**shown, **headers})

    async def refresh(self, token: str | None = None) -> Answer:
        return await refresh(self.site, self.refresh_token if token is None else token)

    @property
    def session_hash(self) -> bytes:
        return read_refresh(self.refresh_token).id_hash


async def log_in(site: Site, email: str = "ada@example.com", password: str = PASSWORD) -> Answer:
    return await site.send("POST", "/api/auth/token", {"email": email, "password": password})


async def refresh(site: Site, token: object) -> Answer:
    return await site.send("POST", "/api/auth/refresh", {"refresh_token": token})


async def revoke(site: Site, token: object) -> Answer:
    return await site.send("POST", "/api/auth/revoke", {"refresh_token": token})


@pytest.fixture
async def program(site: Site, owner: User) -> Program:
    return Program(site, await log_in(site))


def is_refused(answer: Answer, code: str) -> bool:
    return (answer.status, answer.code) == (401, code)


# ------------------------------------------------------------------------------------ log-in


async def test_a_password_gets_a_pair_of_tokens(site: Site, owner: User, program: Program) -> None:
    """P4.3: and what they prove is the person, who may do what people may."""
    assert set(program.pair) == {
        "access_token",
        "expires_in_ms",
        "refresh_token",
        "refresh_expires_in_ms",
        "token_type",
        "request_id",
    }
    assert program.pair["token_type"] == "Bearer"
    assert program.pair["expires_in_ms"] == LIMITS.access_token_s * 1000
    assert program.pair["refresh_expires_in_ms"] == LIMITS.refresh_token_s * 1000
    answer = await log_in(site)
    assert answer.headers["cache-control"] == "no-store"
    assert "set-cookie" not in answer.headers
    session = await program.send("GET", "/api/auth/session")
    assert (session.status, session.body["user_id"]) == (200, owner.id)
    assert session.body["csrf_token"] is None


async def test_x_auth_3_a_token_needs_no_csrf_token_and_a_cookie_beside_it_counts_for_nothing(
    site: Site, owner: User, program: Program
) -> None:
    made = await program.send("POST", "/api/workspaces", {"slug": "made", "name": "Made"})
    assert made.status == 201, made.raw
    cookie = {"cookie": f"{COOKIE}={owner.session}"}
    assert is_refused(
        await program.send("POST", "/api/workspaces", {}, **cookie, authorization="Bearer dsa_x"),
        "TOKEN_INVALID",
    )
    body = {"slug": "other", "name": "Other"}
    refused = await site.send("POST", "/api/workspaces", body, headers=cookie)
    assert (refused.status, refused.code) == (403, "CSRF_INVALID")


async def test_what_is_no_log_in_gets_no_tokens(site: Site, owner: User) -> None:
    """P4.4, P4.5 for the password."""
    for email, password in (
        ("ada@example.com", "wrong"),
        ("eve@example.com", PASSWORD),
        ("", ""),
    ):
        assert is_refused(await log_in(site, email, password), "INVALID_CREDENTIALS")
    bodies: list[object] = [{}, {"email": "ada@example.com"}, {"email": 1, "password": 2}, []]
    for body in bodies:
        answer = await site.send("POST", "/api/auth/token", body)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    answer = await log_in(site, password="x" * 20_000)
    assert (answer.status, answer.code) == (413, "PAYLOAD_TOO_LARGE")


async def test_guesses_count_together_with_those_of_a_log_in(site: Site, owner: User) -> None:
    for number in range(LIMITS.guesses_free_max):
        path = ("/api/auth/token", "/api/auth/login")[number % 2]
        body = {"email": "ada@example.com", "password": "wrong"}
        assert is_refused(await site.send("POST", path, body), "INVALID_CREDENTIALS")
    waits = await log_in(site)
    assert (waits.status, waits.code) == (429, "RATE_LIMITED")


# ------------------------------------------------------------------------------------- access


async def test_p4_without_and_with_what_proves_somebody(
    site: Site, owner: User, program: Program
) -> None:
    """P4.1 to P4.5: the workspace is the path's, and whoever is shown has to be a member of it."""
    notes = f"/api/notes?workspace_id={owner.workspace_id}"
    key = await owner.post(f"{owner.space}/keys", {"name": "k", "role": "viewer"})
    for shown in (program.access, key.body["key"]):
        answer = await site.send("GET", notes, headers={"authorization": f"Bearer {shown}"})
        assert answer.status == 200
        other = "/api/notes?workspace_id=elsewhere"
        answer = await site.send("GET", other, headers={"authorization": f"Bearer {shown}"})
        assert answer.status in {403, 404}
    assert is_refused(await site.send("GET", notes), "AUTH_REQUIRED")
    for wrong in ("", "dsa_", program.access[:-1], f"{program.access}0", "x" * 10_000):
        answer = await site.send("GET", notes, headers={"authorization": f"Bearer {wrong}"})
        assert is_refused(answer, "TOKEN_INVALID"), wrong
    basic = {"authorization": f"Basic {program.access}"}
    assert is_refused(await site.send("GET", notes, headers=basic), "AUTH_REQUIRED")
    as_key = {"x-api-key": program.access}
    assert is_refused(await site.send("GET", notes, headers=as_key), "TOKEN_INVALID")


async def test_an_access_token_ends_at_its_time_to_the_second(site: Site, program: Program) -> None:
    site.clock.move(seconds=LIMITS.access_token_s - 1)
    assert (await program.send("GET", "/api/auth/session")).status == 200
    site.clock.move(seconds=1)
    assert is_refused(await program.send("GET", "/api/auth/session"), "TOKEN_EXPIRED")
    program.took(await program.refresh())
    assert (await program.send("GET", "/api/auth/session")).status == 200


async def test_nobody_gives_a_token_more_time(site: Site, program: Program) -> None:
    secret, until, mac = program.access.removeprefix("dsa_").split("_")
    for text in (
        f"dsa_{secret}_{int(until) + 1}_{mac}",
        f"dsa_{secret}_0{until}_{mac}",
        f"dsa_{secret}_{'9' * 16}_{mac}",
        f"dsa_{secret}_-1_{mac}",
        f"dsa_{'0' * 64}_{until}_{mac}",
        f"dsa_{secret}_{until}_{'0' * 64}",
        program.access.upper(),
    ):
        program.access = text
        refused = await program.send("GET", "/api/auth/session")
        assert is_refused(refused, "TOKEN_INVALID"), text


async def test_one_kind_of_token_is_never_taken_for_the_other(
    site: Site, owner: User, program: Program
) -> None:
    shown = {"authorization": f"Bearer {program.refresh_token}"}
    refused = await site.send("GET", "/api/auth/session", headers=shown)
    assert is_refused(refused, "TOKEN_INVALID")
    for token in (program.access, owner.session, "", "x" * 10_000, "dsr_"):
        assert is_refused(await refresh(site, token), "TOKEN_INVALID")
        assert is_refused(await revoke(site, token), "TOKEN_INVALID")
    for wrong in (None, 1, [program.refresh_token]):
        answer = await refresh(site, wrong)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    # Nor is a secret of either kind the id of a session in a cookie, nor the other way about.
    for secret in (read_access(program.access).secret.hex(), program.access, program.refresh_token):
        cookie = {"cookie": f"{COOKIE}={secret}"}
        refused = await site.send("GET", "/api/auth/session", headers=cookie)
        assert is_refused(refused, "AUTH_REQUIRED")


async def test_whoever_reads_the_store_makes_no_token(site: Site, program: Program) -> None:
    """The key and the digest are there, and neither is a secret of the tokens."""
    row = await site.rt.accounts.find_session(program.session_hash)
    assert row is not None
    assert row.refresh_key is not None
    for root in (row.refresh_key, row.id_hash):
        until = read_access(program.access).expires_ms
        program.access = access_text(root, row.refresh_key, until)
        refused = await program.send("GET", "/api/auth/session")
        assert is_refused(refused, "TOKEN_INVALID")
        assert id_hash_of(root) != row.id_hash


# ------------------------------------------------------------------------------------ refresh


async def test_each_refresh_gives_another_token_and_more_time(site: Site, program: Program) -> None:
    seen = {program.refresh_token}
    for _ in range(5):
        site.clock.move(seconds=LIMITS.refresh_token_s - 1)
        if len(seen) < 4:
            program.took(await program.refresh())
            assert program.refresh_token not in seen
            assert program.pair["refresh_expires_in_ms"] == LIMITS.refresh_token_s * 1000
        else:  # of thirty days, two and four seconds are left
            answer = await program.refresh()
            if answer.status != 200:
                assert is_refused(answer, "TOKEN_EXPIRED")
                break
            program.took(answer)
            assert program.pair["refresh_expires_in_ms"] == (2 * 24 * 3600 + 4) * 1000
        seen.add(program.refresh_token)
    else:
        raise AssertionError("thirty days are over")


async def test_a_refresh_token_ends_at_its_time_to_the_second(site: Site, program: Program) -> None:
    other = Program(site, await log_in(site))
    site.clock.move(seconds=LIMITS.refresh_token_s - 1)
    assert (await other.refresh()).status == 200
    site.clock.move(seconds=1)
    assert is_refused(await program.refresh(), "TOKEN_EXPIRED")


async def test_a_lost_answer_is_given_again(site: Site, program: Program) -> None:
    first = await program.refresh()
    site.clock.move(seconds=LIMITS.refresh_grace_s)
    again = await program.refresh()
    assert again.body["refresh_token"] == first.body["refresh_token"]
    assert again.body["refresh_expires_in_ms"] == (
        (LIMITS.refresh_token_s - LIMITS.refresh_grace_s) * 1000
    )
    program.access = again.body["access_token"]
    assert (await program.send("GET", "/api/auth/session")).status == 200
    assert (await refresh(site, first.body["refresh_token"])).status == 200


async def test_two_tabs_that_refresh_at_once_get_the_same_token(
    site: Site, program: Program
) -> None:
    answers: list[Answer] = []

    async def tab() -> None:
        answers.append(await program.refresh())

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(tab)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["refresh_token"] for answer in answers}) == 1
    assert site.closed == []


@pytest.mark.parametrize("how", ["used", "late", "old"])
async def test_a_token_that_was_used_before_ends_everything_of_its_log_in(
    site: Site, owner: User, program: Program, how: str
) -> None:
    other = Program(site, await log_in(site))
    stolen = program.refresh_token
    program.took(await program.refresh())
    if how == "used":
        program.took(await program.refresh())
    elif how == "late":
        site.clock.move(seconds=LIMITS.refresh_grace_s + 1)
    else:
        for _ in range(4):
            program.took(await program.refresh())
    assert is_refused(await program.refresh(stolen), "TOKEN_REUSE_DETECTED")
    assert site.closed == [program.session_hash]
    assert is_refused(await program.send("GET", "/api/auth/session"), "TOKEN_INVALID")
    assert is_refused(await program.refresh(), "TOKEN_INVALID")
    assert is_refused(await program.refresh(stolen), "TOKEN_REUSE_DETECTED")
    assert (await other.send("GET", "/api/auth/session")).status == 200
    assert (await owner.get("/api/auth/session")).status == 200


async def test_an_old_token_that_is_made_up_ends_nothing(site: Site, program: Program) -> None:
    for _ in range(3):
        program.took(await program.refresh())
    root, generation, mac = program.refresh_token.removeprefix("dsr_").split("_")
    for text in (
        f"dsr_{root}_1_{mac}",
        f"dsr_{root}_{generation}_{'0' * 64}",
        f"dsr_{'0' * 64}_1_{mac}",
        f"dsr_{root}_{int(generation) + 1}_{mac}",
        f"dsr_{root}_0_{mac}",
        f"dsr_{root}_{'9' * 18}_{mac}",
        f"dsr_{root}_{'9' * 30}_{mac}",
    ):
        assert is_refused(await refresh(site, text), "TOKEN_INVALID"), text
    assert (await program.send("GET", "/api/auth/session")).status == 200


async def test_a_token_of_a_history_that_was_lost_ends_nothing(
    site: Site, program: Program
) -> None:
    """After a restore the store knows an earlier generation than the client."""
    before = await site.rt.accounts.find_session(program.session_hash)
    assert before is not None
    program.took(await program.refresh())
    site.rt.accounts._sessions[before.id_hash] = before  # type: ignore[attr-defined] # the fake's
    assert is_refused(await program.refresh(), "TOKEN_INVALID")
    assert (await program.send("GET", "/api/auth/session")).status == 200


# -------------------------------------------------------------------------------------- ends


async def test_a_revoked_log_in_is_over_at_once_and_may_be_revoked_again(
    site: Site, owner: User, program: Program
) -> None:
    first = program.refresh_token
    program.took(await program.refresh())
    assert (await revoke(site, first)).status == 204
    assert site.closed == [program.session_hash]
    assert is_refused(await program.send("GET", "/api/auth/session"), "TOKEN_INVALID")
    assert is_refused(await program.refresh(), "TOKEN_INVALID")
    assert (await revoke(site, program.refresh_token)).status == 204
    assert (await owner.get("/api/auth/session")).status == 200


async def test_a_logout_with_the_access_token_is_the_same(site: Site, program: Program) -> None:
    assert (await program.send("POST", "/api/auth/logout")).status == 204
    assert site.closed == [program.session_hash]
    assert is_refused(await program.refresh(), "TOKEN_INVALID")


@pytest.mark.parametrize("what", ["password", "closed", "disabled", "deleted"])
async def test_what_ends_a_users_sessions_ends_their_tokens(
    site: Site, owner: User, what: str
) -> None:
    user = await site.add_user()
    program = Program(site, await log_in(site, user.email))
    match what:
        case "password":
            body = {"current_password": PASSWORD, "new_password": "another long password"}
            answer = await user.post("/api/auth/password", body)
        case "closed":
            answer = await user.post("/api/auth/close", {"current_password": PASSWORD})
        case "disabled":
            answer = await owner.post(f"/api/users/{user.id}/disable")
        case _:
            answer = await owner.delete(f"/api/users/{user.id}")
    assert answer.status in {200, 204}, answer.raw
    assert is_refused(await program.send("GET", "/api/auth/session"), "TOKEN_INVALID")
    assert is_refused(await program.refresh(), "TOKEN_INVALID")
    assert user.id in {user_id for user_id, _ in site.closed_users}


async def test_a_password_that_is_changed_with_a_token_keeps_that_log_in(
    site: Site, owner: User, program: Program
) -> None:
    body = {"current_password": PASSWORD, "new_password": "another long password"}
    assert (await program.send("POST", "/api/auth/password", body)).status == 204
    assert is_refused(await owner.get("/api/auth/session"), "SESSION_REVOKED")
    program.took(await program.refresh())
    assert (await program.send("GET", "/api/auth/session")).status == 200


async def test_log_ins_by_tokens_and_by_cookies_are_bounded_together() -> None:
    async with open_site(limits=Limits(sessions_per_user_max=2)) as site:
        owner = await site.set_up()
        site.clock.move(seconds=1)
        first = Program(site, await log_in(site))
        site.clock.move(seconds=1)
        second = Program(site, await log_in(site))
        assert is_refused(await owner.get("/api/auth/session"), "SESSION_REVOKED")
        site.clock.move(seconds=1)
        await site.login("ada@example.com")
        assert is_refused(await first.refresh(), "TOKEN_INVALID")
        assert (await second.refresh()).status == 200
        assert first.session_hash in site.closed
