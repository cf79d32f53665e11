"""How often clients may ask: counted by address before it is known who asks, by user after it.

An address has a rate for all of the API, and a lower one for what takes a secret and nobody has to
be known for: logging in, setting up, renewing tokens.  That is before passwords are hashed and
sessions looked up.  A route may have a rate of its own, of each user.  All are generic cell rates
(`Rate`): so many at once after a rest, then evenly.  Answers tell what is left (the Internet-Draft
draft-ietf-httpapi-ratelimit-headers), 429 when to come again.

Addresses and users have a table each, so that nobody from outside makes a user's bucket be
forgotten.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import structlog
from quart import g, request

from dalsegno.protocol import Buckets, Rate, RateBudget, RateLimitedError

from ._envelope import request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from quart import Quart
    from quart.typing import ResponseTypes

    from dalsegno.actors import World
    from dalsegno.protocol import Limits, Spent

_security = structlog.get_logger("dalsegno.security")

_API = "/api/"
"""Before the paths that are counted: probes are not."""
_NOTED_PER_S = 10


class _Counted(NamedTuple):
    rate: Rate
    spent: Spent


class Rates:
    """The rates of one application, and how far they are used up."""

    def __init__(self, limits: Limits, world: World) -> None:
        self.auth = _per_minute("auth", limits.auth_per_minute_max)
        """What takes a secret, of an address; None: any number."""
        self.api = _per_minute("api", limits.api_per_minute_max)
        """All else, likewise."""
        self._addresses = Buckets(limits.rates_kept_max)
        self._users = Buckets(limits.rates_kept_max)
        self._world = world
        self._is_dry_run = bool(limits.rates_dry_run)
        self._notes = RateBudget(_NOTED_PER_S)

    def __repr__(self) -> str:
        return f"<Rates of {self._addresses!r} of addresses, {self._users!r} of users>"

    def check_address(self, rate: Rate, address: str) -> None:
        """Count a request of an address.

        Raises:
            RateLimitedError: too often; with the time that is left.

        """
        self._check(self._addresses, rate, address)

    def check_user(self, rate: Rate, user_id: str) -> None:
        """Count a request of a user.

        Raises:
            RateLimitedError: likewise.

        """
        self._check(self._users, rate, user_id)

    def _check(self, buckets: Buckets, rate: Rate, key: str) -> None:
        now = self._world.now().timestamp()
        spent = buckets.spend(rate, key, now)
        g.counted = [*g.get("counted", ()), _Counted(rate, spent)]
        if spent.wait_s <= 0:
            return
        if self._is_dry_run:
            if self._notes.spend(now):
                _security.info("rate_exceeded", request_id=request_id(), rate=rate.name, of=key)
            return
        message = f"at most {rate.times} times in {rate.window_s:g} s"
        raise RateLimitedError(message, retry_after_s=round(spent.wait_s, 3))


def install_rates(
    app: Quart, rates: Rates, address: Callable[[], str], secret: Collection[str]
) -> None:
    """Count an application's requests before they are looked at, and tell what is left.

    Args:
        app: the application.
        rates: its rates.
        address: returns the address that the current request comes from.
        secret: the rules, as the web framework has them, of what takes a secret.

    """

    @app.before_request
    async def count() -> None:
        if not request.path.startswith(_API):
            return
        rule = request.url_rule
        rate = rates.auth if rule is not None and rule.rule in secret else rates.api
        if rate is not None:
            rates.check_address(rate, address())

    @app.after_request
    async def tell(response: ResponseTypes) -> ResponseTypes:
        counted: list[_Counted] = g.get("counted", [])
        if counted:
            response.headers["ratelimit-policy"] = ", ".join(
                f"{_named(rate)};q={rate.times};w={rate.window_s:g}" for rate, _ in counted
            )
            response.headers["ratelimit"] = ", ".join(
                f"{_named(rate)};r={spent.left};t={math.ceil(spent.full_in_s)}"
                for rate, spent in counted
            )
        return response


def _per_minute(name: str, times: int) -> Rate | None:
    return Rate(name=name, times=times) if times else None


def _named(rate: Rate) -> str:
    return f'"{rate.name}"'
