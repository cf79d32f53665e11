"""Pages of other origins (CORS, Fetch §3.2), as far as ``--origins`` names them.

Each origin is compared as a whole, and the answer names the one that asked, never all: with
credentials a page could else read what the user alone may see.  It says what the page may read of
an answer's headers.  A cookie is still sent by the browser's own rules, ``SameSite=Lax``, so that
pages of another site come in with a key or a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Response, request

if TYPE_CHECKING:
    from quart_trio import QuartTrio

    from ._hosts import Hosts

_METHODS = "GET, POST, PUT, PATCH, DELETE"
_SENT = (
    "authorization, content-type, idempotency-key, if-match, if-none-match, prefer, x-api-key, "
    "x-csrf-token, x-request-id"
)
"""The headers with which a page may ask."""
_SHOWN = (
    "etag, location, preference-applied, ratelimit, ratelimit-policy, retry-after, "
    "x-effective-everywhere-within-ms, x-idempotency-replay, x-request-id"
)
"""Those of an answer that it may read, beside what everybody may."""
_ASKED_AGAIN_S = 600
"""For how long a browser need not ask whether it may."""


def install_cors(app: QuartTrio, hosts: Hosts) -> None:
    """Answer the pages of the origins that are named, and their browsers' questions."""
    if not hosts.origins:
        return

    @app.before_request
    async def answer_preflight() -> Response | None:
        asks = request.method == "OPTIONS" and "access-control-request-method" in request.headers
        if not asks or _origin_of_page(hosts) is None:
            return None
        response = Response(b"", status=204)
        response.headers["access-control-allow-methods"] = _METHODS
        response.headers["access-control-allow-headers"] = _SENT
        response.headers["access-control-max-age"] = str(_ASKED_AGAIN_S)
        return response

    @app.after_request
    async def allow(response: Response) -> Response:
        response.headers.add("vary", "origin")
        origin = _origin_of_page(hosts)
        if origin is not None:
            response.headers["access-control-allow-origin"] = origin
            response.headers["access-control-allow-credentials"] = "true"
            response.headers["access-control-expose-headers"] = _SHOWN
        return response


def _origin_of_page(hosts: Hosts) -> str | None:
    """Return the origin of the page that asks, if it is one of those that are named."""
    origins = request.headers.getlist("origin")
    return origins[0] if hosts.is_named(origins) else None
