"""How often clients may ask: by address before they are known, by user after it (X-LIM-4)."""

from __future__ import annotations

import msgspec
from structlog.testing import capture_logs

from dalsegno.actors.domains.notes import note_domains
from dalsegno.protocol import App, Limits, Rate
from dalsegno.protocol.routes import Asked, ReadRoute

from ._client import Answer, Site
from .conftest import open_site

LOGIN = "/api/auth/login"
WRONG = {"email": "nobody@example.com", "password": "a wrong password"}
SESSION = "/api/auth/session"


class Counted(msgspec.Struct, frozen=True):
    number: int


async def count(_asked: Asked[None, None]) -> Counted:
    return Counted(1)


RATED = App(
    note_domains,
    routes=[
        ReadRoute(
            "GET",
            "/api/v1/counted",
            summary="Count.",
            read=count,
            returns=Counted,
            rate=Rate(name="counted", times=100, window_s=60.0),
        )
    ],
)


def told(answer: Answer) -> tuple[str, str]:
    return answer.headers["ratelimit-policy"], answer.headers["ratelimit"]


def lenient(**limits: int) -> Limits:
    return Limits(guesses_free_max=1_000, **limits)


async def test_x_lim_4_what_takes_a_secret_is_20_a_minute_before_it_is_looked_at() -> None:
    async with open_site(limits=lenient()) as site:
        first = await site.send("POST", LOGIN, {})
        assert (first.status, first.code) == (400, "BAD_REQUEST"), "it counts all the same"
        assert told(first) == ('"auth";q=20;w=60', '"auth";r=19;t=3')
        for path in ("/api/auth/token", "/api/auth/refresh", "/api/setup/register") * 6:
            assert (await site.send("POST", path, {})).status == 400
        last = await site.send("POST", LOGIN, {})
        assert told(last)[1] == '"auth";r=0;t=60'
        refused = await site.send("POST", LOGIN, WRONG)
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        assert refused.body["details"] == {"retry_after": 3.0}
        assert refused.headers["retry-after"] == "3"
        assert told(refused) == ('"auth";q=20;w=60', '"auth";r=0;t=60')
        # What takes none has another rate, and probes have none.
        assert told(await site.send("GET", SESSION))[1].startswith('"api";r=5999;')
        alive = await site.send("GET", "/healthz")
        assert (alive.status, "ratelimit" in alive.headers) == (200, False)
        site.clock.move(seconds=3)
        assert (await site.send("POST", LOGIN, {})).status == 400
        assert (await site.send("POST", LOGIN, {})).status == 429


async def test_x_lim_4_the_api_is_6000_a_minute_of_an_address_known_or_not() -> None:
    async with open_site(limits=lenient(api_per_minute_max=10)) as site:
        owner = await site.set_up()
        for n in range(10):
            if n % 2:
                assert (await owner.get(SESSION)).status == 200
            else:
                assert (await site.send("GET", "/api/nothing")).status == 404
        refused = await owner.get(SESSION)
        assert (refused.status, refused.code) == (429, "RATE_LIMITED")
        assert refused.headers["retry-after"] == "6"
        assert (await site.login("ada@example.com")).session, "that is counted by itself"
    assert Limits().api_per_minute_max == 6_000


async def test_x_lim_4_a_route_has_a_rate_of_each_user() -> None:
    async with open_site(app=RATED) as site:
        owner = await site.set_up()
        other = await site.add_member(owner, "editor")
        for _ in range(100):
            assert (answer := await owner.get("/api/v1/counted")).status == 200
        assert told(answer) == (
            '"api";q=6000;w=60, "counted";q=100;w=60',
            '"api";r=5899;t=2, "counted";r=0;t=60',
        ), "making the other one was a request, too"
        refused = await owner.get("/api/v1/counted")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")
        assert (await other.get("/api/v1/counted")).status == 200
        assert (await owner.get(SESSION)).status == 200


async def test_zero_lifts_them() -> None:
    async with open_site(limits=lenient(auth_per_minute_max=0, api_per_minute_max=0)) as site:
        for _ in range(30):
            answer = await site.send("POST", LOGIN, {})
            assert (answer.status, "ratelimit" in answer.headers) == (400, False)
        assert "ratelimit" not in (await site.send("GET", SESSION)).headers


async def test_a_dry_run_lets_through_and_says_so() -> None:
    limits = lenient(rates_dry_run=1, auth_per_minute_max=1)
    async with open_site(limits=limits) as site:
        with capture_logs() as logged:
            for _ in range(30):
                answer = await site.send("POST", LOGIN, {})
                assert answer.status == 400
        assert told(answer)[1] == '"auth";r=0;t=60'
        noted = [each for each in logged if each["event"] == "rate_exceeded"]
        assert len(noted) == 10, "nobody fills the disk with that"
        assert {(each["rate"], each["of"]) for each in noted} == {("auth", "<local>")}


async def test_who_is_refused_for_the_rate_costs_nothing_more(site: Site) -> None:
    """Neither a password is hashed nor a session looked up, and no guess is counted."""
    for _ in range(20):
        await site.send("POST", LOGIN, {})
    with capture_logs() as logged:
        for _ in range(10):
            assert (await site.send("POST", LOGIN, WRONG)).status == 429
    assert not logged
    site.clock.move(minutes=1)
    for _ in range(5):
        assert (await site.send("POST", LOGIN, WRONG)).status == 401, "all guesses are left"
