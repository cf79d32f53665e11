"""Paths with any id in them: the slashes between segments are told from those within one.

ASGI hands out a path that was decoded before anybody split it, where ``notes/a%2Fb`` and
``notes/a/b`` are the same.  So routing goes by the path as it was sent: each segment is decoded
once and written in one way (RFC 3986, 6.2.2), and decoded again where it is a route's argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from quart.routing import QuartRule
from werkzeug.routing import UnicodeConverter

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypercorn.typing import Scope, WebsocketScope

_SAFE = "!$&'()*+,;=:@"  # what a segment may hold as it is, beside letters, digits and -._~


class MatchedRule(QuartRule):
    """A route's rule that matches paths and builds none.

    No URL is made of a rule here, and to compile two functions that would make them was most of
    what a rule cost: of 140 of them, most of what an application costs to make.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        del append_unknown
        return _builds_nothing


def _builds_nothing(rule: QuartRule, **_values: object) -> tuple[str, str]:
    raise NotImplementedError(f"no URL is built of {rule.rule}")


class Segment(UnicodeConverter):
    """The converter of a route's argument: one segment, with whatever it was sent as."""

    def to_python(self, value: str) -> str:
        """Return the text that the segment stands for."""
        return unquote(value)


def within(scope: WebsocketScope) -> WebsocketScope:
    """Return the scope of a socket with its path as it was sent, without where this is mounted."""
    sent, root = scope["raw_path"], quote(scope["root_path"]).encode("ascii")
    if root and sent.startswith(root + b"/"):
        sent = sent[len(root) :]
    return cast("WebsocketScope", {**scope, "raw_path": sent})


def routed(scope: Scope) -> Scope:
    """Return the scope of a request with its path as routes are matched with it."""
    if scope["type"] == "lifespan":
        return scope
    sent = scope["raw_path"]
    if not sent.startswith(b"/"):
        sent = urlsplit(sent).path or b"/"  # an absolute URL, as a proxy is asked (RFC 9112, 3.2.2)
    segments = (quote(unquote_to_bytes(each), safe=_SAFE) for each in sent.split(b"/"))
    return cast("Scope", {**scope, "path": "/".join(segments)})
