"""Passwords are guessed slowly, and who has the right one is not kept out by others who guess."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from typing import Any

import httpx
import msgspec
import pytest
import trio

from tests._patience import fail_after, patient, until

from ._site import JSON, PASSWORD, Site
from .conftest import start

OWNER = "owner@example.com"


@asynccontextmanager
async def slow_site(database: str, *proxies: str) -> AsyncIterator[Site]:
    """A server where a guess too many is not over before the test."""
    networks = tuple(map(ip_network, proxies))
    slow = {"guess_delay_first_s": 600.0, "guess_delay_max_s": 600.0}
    async with start(database, proxies=networks, guesses_free_max=2, **slow) as site:
        await site.set_up()
        yield site


class Client:
    """A client at an address of its own: all of 127.0.0.0/8 is this machine."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.answers: list[httpx.Response] = []

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = msgspec.json.encode(body)
        answer = await self._http.post(path, content=content, headers={**JSON, **named})
        self.answers.append(answer)
        return answer

    async def log_in(self, password: str, email: str = OWNER, **headers: str) -> httpx.Response:
        body = {"email": email, "password": password}
        return await self.post("/api/auth/login", body, **headers)


@asynccontextmanager
async def client(site: Site, address: str) -> AsyncIterator[Client]:
    transport = httpx.AsyncHTTPTransport(
        local_address=address, limits=httpx.Limits(max_connections=None)
    )
    async with httpx.AsyncClient(
        transport=transport, base_url=f"http://{site.address}", timeout=patient(30)
    ) as http:
        yield Client(http)


def statuses(answers: list[httpx.Response]) -> list[int]:
    return sorted(answer.status_code for answer in answers)


def codes(answers: list[httpx.Response]) -> list[str]:
    return [answer.json().get("code", "right") for answer in answers]


async def test_seventy_connections_of_one_address_keep_nobody_else_from_logging_in(
    migrated: str,
) -> None:
    async with (
        start(migrated, auth_per_minute_max=0) as site,
        client(site, "127.0.0.2") as crowd,
        client(site, "127.0.0.1") as owner,
        trio.open_nursery() as nursery,
    ):
        await site.set_up()
        for n in range(70):
            nursery.start_soon(crowd.log_in, "a wrong password", f"nobody{n}@example.com")
        await until(lambda: len(crowd.answers) >= 40)
        # Two are being hashed, eight wait; whoever comes from elsewhere has the next turn.
        with fail_after(20):
            answer = await owner.log_in(PASSWORD)
        assert answer.status_code == 200, answer.text
    assert {answer.status_code for answer in crowd.answers} == {401, 503}
    refused = next(answer for answer in crowd.answers if answer.status_code == 503)
    assert refused.json()["code"] == "OVERLOADED"
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize("email", [OWNER, "nobody@example.com"])
async def test_after_some_wrong_passwords_an_address_waits_for_that_account_known_or_not(
    migrated: str, email: str
) -> None:
    async with (
        slow_site(migrated) as site,
        client(site, "127.0.0.2") as guesser,
        client(site, "127.0.0.1") as owner,
    ):
        spellings = [email, f" {email.upper()}"]
        for spelling in spellings:
            await guesser.log_in("a wrong password", spelling)
        late = await guesser.log_in(PASSWORD, email)
        assert codes(guesser.answers) == [*["INVALID_CREDENTIALS"] * 2, "RATE_LIMITED"]
        assert late.status_code == 429
        assert 0 < int(late.headers["retry-after"]) <= 600
        assert 0 < late.json()["details"]["retry_after"] <= 600
        again = await guesser.log_in("a wrong password", "somebody-else@example.com")
        assert again.status_code == 401, "another account"
        elsewhere = await owner.log_in(PASSWORD, OWNER)
        assert elsewhere.status_code == 200, "from another address, with the right password"


async def test_guesses_that_are_made_at_once_are_no_more_than_those_made_in_turn(
    migrated: str,
) -> None:
    async with (
        slow_site(migrated) as site,
        client(site, "127.0.0.2") as guesser,
        trio.open_nursery() as nursery,
    ):
        for _ in range(10):
            nursery.start_soon(guesser.log_in, "a wrong password")
    assert statuses(guesser.answers) == [401] * 2 + [429] * 8


async def test_behind_a_trusted_proxy_each_client_counts_by_itself(migrated: str) -> None:
    async with slow_site(migrated, "127.0.0.3") as site:
        async with client(site, "127.0.0.3") as proxy:
            for n in range(3):
                forged = f"9.9.9.{n}, 5.6.7.8"
                await proxy.log_in("a wrong password", x_forwarded_for=forged)
            assert statuses(proxy.answers) == [401] * 2 + [429]
            other = await proxy.log_in(PASSWORD, x_forwarded_for="1.2.3.4")
            assert other.status_code == 200
        async with client(site, "127.0.0.2") as liar:
            for n in range(3):
                await liar.log_in("a wrong password", x_forwarded_for=f"9.9.9.{n}")
            assert statuses(liar.answers) == [401] * 2 + [429], "it is no proxy of ours"


async def test_x_lim_4_an_address_has_a_rate_and_no_other_pays_for_it(migrated: str) -> None:
    async with start(migrated, proxies=(ip_network("127.0.0.3"),)) as site:
        await site.set_up()
        async with client(site, "127.0.0.2") as crowd, trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(crowd.post, "/api/auth/login", {})
        assert statuses(crowd.answers) == [400] * 20 + [429] * 20
        async with client(site, "127.0.0.3") as proxy:
            for n in range(21):  # one subscriber's network, however many addresses it has
                await proxy.post("/api/auth/login", {}, x_forwarded_for=f"2001:db8::{n}")
            assert statuses(proxy.answers) == [400] * 20 + [429]
            other = await proxy.log_in(PASSWORD, x_forwarded_for="2001:db8:0:1::1")
            assert other.status_code == 200
