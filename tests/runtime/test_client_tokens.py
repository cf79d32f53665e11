"""The client with `token=`: a function of the program's that gives a fresh token."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
import trio

from dalsegno.actors.domains.members import PutMember
from dalsegno.protocol import Limits, Reject
from dalsegno.runtime.client import (
    ClientLimits,
    DisconnectedError,
    NoTokenError,
    UnreachableError,
    open_client,
)
from dalsegno.runtime.client._account import Account
from dalsegno.runtime.client._flight import SingleFlight
from dalsegno.runtime.web import TokenIssuer
from tests._patience import fail_after, until
from tests.runtime._serving import SOON, Site, serving
from tests.tasks_domain import AddTask, app, tasks

ISSUER, AUDIENCE = "https://id.example.org", "dalsegno"
SECRET = b"a secret of thirty-two bytes, or more"


def token(*, expires_in_s: float = 300) -> str:
    made = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "exp": time.time() + expires_in_s}
    return jwt.encode(made, SECRET, "HS256")


@pytest.fixture
async def site(migrated: str) -> AsyncIterator[Site]:
    tokens = TokenIssuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)
    async with serving(migrated, tokens=tokens, app=app) as site:
        await site.runtime.workspace("w").send(PutMember("jwt:bob", "editor"))
        yield site


class Giver:
    """Gives these tokens in turn, the last one for ever; counts the calls."""

    def __init__(self, *tokens: str) -> None:
        self.calls = 0
        self._left = list(tokens)

    async def __call__(self) -> str:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


async def test_the_next_token_is_shown_in_time_on_the_same_connection(site: Site) -> None:
    give = Giver(token(expires_in_s=2), token(expires_in_s=3), token())
    async with (
        open_client(site.url, token=give, app=app, limits=SOON) as client,
        client.workspace("w").subscribe(after=0) as events,
    ):
        workspace = client.workspace("w")
        with fail_after(20):
            await workspace.send(AddTask("t1", "One"))
            await until(lambda: give.calls == 3)
            await trio.sleep(3.5)  # past what all but the last one are good for
            await workspace.send(AddTask("t2", "Two"))
            assert [(await anext(events)).seq for _ in range(3)] == [1, 2, 3]
            assert client.statistics().connections == 1


async def test_a_token_that_is_not_renewed_in_time_ends_the_connection_alone(
    migrated: str,
) -> None:
    """The next one begins another, in the middle of a stream."""
    tokens = TokenIssuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)
    limits = Limits(renewal_grace_s=0.5)
    give = Giver(token(expires_in_s=2), "", "", "", token())
    async with serving(migrated, tokens=tokens, app=app, limits=limits) as site:
        await site.runtime.workspace("w").send(PutMember("jwt:bob", "editor"))
        async with (
            open_client(site.url, token=give, app=app, limits=SOON) as client,
            client.workspace("w").subscribe(after=0) as events,
        ):
            workspace = client.workspace("w")
            with fail_after(20):
                await workspace.send(AddTask("t1", "One"))
                await until(lambda: client.statistics().connections >= 1 and give.calls >= 5)
                await workspace.send(AddTask("t2", "Two"))
                assert [(await anext(events)).seq for _ in range(3)] == [1, 2, 3]


async def test_many_that_wait_share_one_call(site: Site) -> None:
    """Reads that are refused, commands that wait and the connection itself."""
    released = trio.Event()
    calls = 0

    async def give() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            return token(expires_in_s=-60)  # TOKEN_EXPIRED at the upgrade, and over HTTP
        await released.wait()
        return token()

    async with (
        open_client(site.url, token=give, app=app, limits=SOON) as client,
        trio.open_nursery() as nursery,
    ):
        workspace = client.workspace("w")

        async def ask() -> None:
            assert await workspace.get(tasks, "none") is None

        for index in range(5):
            nursery.start_soon(ask)
            nursery.start_soon(workspace.send, AddTask(f"t{index}", "T"))
        with fail_after(20):
            await until(lambda: calls == 2)
            await trio.testing.wait_all_tasks_blocked(0.05)
            released.set()
    assert calls == 2


async def test_a_server_that_takes_no_fresh_token_either_is_asked_once_more(site: Site) -> None:
    give = Giver(token(expires_in_s=-60))
    async with open_client(site.url, token=give, app=app, limits=SOON) as client:
        with fail_after(20):
            with pytest.raises(Reject, match="TOKEN_EXPIRED"):
                await client.workspace("w").send(AddTask("t1", "One"))
            assert give.calls == 2
            assert client.has_ended


async def test_a_read_renews_the_token_by_itself(site: Site) -> None:
    give = Giver(token(), token())
    async with open_client(site.url, token=give, app=app, limits=SOON) as client:
        with fail_after(20):
            await client.workspace("w").send(AddTask("t1", "One"))
            account = client._account
            account._bearer = token(expires_in_s=-60)
            assert await client.workspace("w").get(tasks, "t1") is not None
    assert give.calls == 2


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("", "printable"),
        ("two words", "printable"),
        ("line\r\nx-evil: 1", "printable"),
        ("x" * 8193, "printable"),
        (None, "printable"),
        (ValueError("a secret"), "raised ValueError"),
    ],
)
async def test_what_is_no_token_is_told_at_once(given: Any, says: str) -> None:
    async def give() -> str:
        if isinstance(given, Exception):
            raise given
        return given  # type: ignore[no-any-return]

    with pytest.raises(NoTokenError, match=says) as caught:
        async with open_client("http://127.0.0.1:1", token=give):
            pass
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, UnreachableError)
    assert caught.value.code == "NO_TOKEN"


async def test_a_function_that_takes_too_long_is_given_up(autojump_clock: object) -> None:
    with pytest.raises(NoTokenError, match="within 10 s"):
        async with open_client("http://127.0.0.1:1", token=forever):
            pass
    assert trio.current_time() == 10


async def forever() -> str:
    await trio.sleep_forever()
    raise AssertionError


async def test_its_failures_count_as_attempts(site: Site) -> None:
    """… and whatever waits gets the last of them, with its cause."""
    calls = 0

    async def give() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            return token(expires_in_s=-60)
        raise OSError("the issuer is away")

    few = ClientLimits(attempts_max=3, backoff_first_s=0.01)
    async with open_client(site.url, token=give, app=app, limits=few) as client:
        with fail_after(20), pytest.raises(NoTokenError) as caught:
            await client.workspace("w").send(AddTask("t1", "One"))
    assert isinstance(caught.value.__cause__, OSError)
    assert calls == 1 + 3


@pytest.mark.parametrize("more", [{"api_key": "k"}, {"cookie": "c"}, {"email": "e"}])
async def test_a_token_goes_with_nothing_else(more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="token="):
        async with open_client("http://127.0.0.1:1", token=forever, **more):  # type: ignore[arg-type]
            pass


async def test_a_server_that_refuses_a_good_token_for_good_is_left(site: Site) -> None:
    give = Giver(token(expires_in_s=1), token(expires_in_s=-60))
    async with open_client(site.url, token=give, app=app, limits=SOON) as client:
        with fail_after(20), pytest.raises((Reject, DisconnectedError)):
            async with client.workspace("w").subscribe(after=1) as events:
                await anext(events)
    assert give.calls == 3, "in time, and once more for a new connection"


# ------------------------------------------------------------------------------- one call for all


async def test_whoever_calls_is_cancelled_and_the_next_one_calls() -> None:
    calls: list[int] = []
    go = trio.Event()

    async def call() -> None:
        calls.append(len(calls))
        await go.wait()

    flight = SingleFlight(call)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0) as first:
            await flight()
        assert first.cancelled_caught
        scope = trio.CancelScope()

        async def in_scope() -> None:
            with scope:
                await flight()

        nursery.start_soon(in_scope)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(flight)
        nursery.start_soon(flight)
        await trio.testing.wait_all_tasks_blocked()
        assert calls == [0, 1]
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert calls == [0, 1, 2]
        go.set()


async def test_all_that_wait_get_the_same_failure() -> None:
    calls = 0

    async def call() -> None:
        nonlocal calls
        calls += 1
        await trio.lowlevel.checkpoint()
        raise NoTokenError("none")

    flight = SingleFlight(call)
    caught: list[NoTokenError] = []

    async def wait() -> None:
        with pytest.raises(NoTokenError) as error:
            await flight()
        caught.append(error.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
    assert calls == 1
    assert len(set(map(id, caught))) == 1
    with pytest.raises(NoTokenError):
        await flight()
    assert calls == 2


def test_what_was_renewed_in_the_meantime_is_not_forgotten() -> None:
    account = Account(
        "http://a",
        email=None,
        password=None,
        cookie=None,
        get_token=forever,
        ssl_context=None,
        limits=ClientLimits(),
    )
    assert repr(account) == "<Account by token at http://a>"
    assert account.needs_login
    account._bearer = "old"
    shown = account.header
    account._bearer = "new"
    account.forget(shown)
    assert account.header == (b"Authorization", b"Bearer new")
    account.forget(account.header)
    assert account.needs_login
