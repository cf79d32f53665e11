"""Whether deciders and evolvers are pure: each is called twice, and told apart by what it returns.

A decider is called again where a commit failed, an evolver wherever a state is loaded: what they
return must follow from what they are given, and they must leave that as it is.  One that rolls a
dice, keeps a count, or fills a dict of the state before, works until the day on which it is
replayed; here it is found at the first call.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import Context, DalsegnoError, On, Touched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dalsegno.protocol import Domain


@contextmanager
def called_twice(domains: Sequence[Domain[Any, Any, Any]]) -> Iterator[dict[str, None]]:
    """Call the functions of some domains twice for the length of a block.

    Yields what was found, in words, as keys; it grows inside the block.
    """
    found: dict[str, None] = {}
    with ExitStack() as stack:
        for domain in domains:
            stack.enter_context(domain.wrapping(lambda function: _twice(function, found)))
        yield found


def _twice(function: Callable[..., Any], found: dict[str, None]) -> Callable[..., Any]:
    name = getattr(function, "__qualname__", repr(function))

    @wraps(function)
    def call(*given: Any) -> Any:  # noqa: ANN401 - any decider's or evolver's
        before = [_written(each) for each in given]
        ids = _Ids()
        first = _outcome(function, [ids.recording(each) for each in given])
        second = _outcome(function, [ids.replaying(each) for each in given])
        if not _are_same(first, second):
            found[f"{name} is not pure: of the same it made {first!r}, and then {second!r}"] = None
        if before != [_written(each) for each in given]:
            found[f"{name} is not pure: it changed what it was given"] = None
        if isinstance(first, Exception):
            raise first
        return first

    return call


class _Ids:
    """The ids that the first call was given, for the second one."""

    def __init__(self) -> None:
        self._given: list[str] = []

    def recording(self, given: Any) -> Any:  # noqa: ANN401 - any argument
        if not isinstance(given, Context):
            return given

        def new_id() -> str:
            self._given.append(given.new_id())
            return self._given[-1]

        return msgspec.structs.replace(given, new_id=new_id)

    def replaying(self, given: Any) -> Any:  # noqa: ANN401 - any argument
        if not isinstance(given, Context):
            return given
        left = iter(self._given)
        return msgspec.structs.replace(given, new_id=lambda: next(left, "one more id"))


def _outcome(function: Callable[..., Any], given: Sequence[Any]) -> Any:  # noqa: ANN401 - or the error
    try:
        return function(*given)
    except Exception as error:  # noqa: BLE001 - compared, and raised again by the caller
        return error


def _are_same(first: Any, second: Any) -> bool:  # noqa: ANN401 - two outcomes
    one, other = _comparable(first), _comparable(second)
    return bool(one == other) or _written(one) == _written(other) is not None


def _comparable(outcome: Any) -> Any:  # noqa: ANN401 - an outcome
    match outcome:
        case DalsegnoError():
            return outcome.code, outcome.message, outcome.details
        case Exception():
            return type(outcome)
        case On():
            return outcome.stream_id, outcome.event
        case list() | tuple():
            return [_comparable(each) for each in outcome]
        case _:
            return outcome


def _written(value: Any) -> bytes | None:  # noqa: ANN401 - an argument or an outcome
    """Return a value as bytes, in which NaN equals NaN; None where it cannot be written."""
    if isinstance(value, (Context, Touched)):
        return None
    try:
        return msgspec.msgpack.encode(value)
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError):
        return None
