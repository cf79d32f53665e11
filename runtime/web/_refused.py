"""What is refused over HTTP, put on record: what somebody may not do, and passwords that are wrong.

Nothing of what was sent is in it but who asked, the route, and the workspace that it names: no
address that somebody typed in, no query, no body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import g, request

from dalsegno.actors import REFUSED
from dalsegno.protocol import PATH_FORBIDDEN, Reject, check_workspace_id

from ._envelope import request_id

if TYPE_CHECKING:
    from quart import Quart, Response

    from ._route_context import RouteContext

LOGIN_FAILED = "LOGIN_FAILED"
"""The action of a wrong password."""

_FORBIDDEN = 403
_GUESSED = "INVALID_CREDENTIALS"


def install_refused(app: Quart, context: RouteContext) -> None:
    """Put on record what an application refuses."""
    refusals = context.rt.service.audit.refusals
    if refusals is None:
        return

    @app.after_request
    async def note(response: Response) -> Response:
        code = g.get("failed_with")
        is_guess = code == _GUESSED
        is_tried = code == PATH_FORBIDDEN
        if is_tried:
            context.note("path_refused", user_id=g.get("known_as"), route=_route())
        if code is not None and (is_guess or is_tried or response.status_code == _FORBIDDEN):
            refusals.note(
                LOGIN_FAILED if is_guess else REFUSED,
                resource_type="route",
                resource_id=_route(),
                code=code,
                user_id=g.get("known_as"),
                workspace_id=_workspace_id(),
                request_id=request_id(),
                address=context.address,
            )
        return response


def _route() -> str:
    """Return the method and the path's rule, or its method alone where there is no such path."""
    rule = request.url_rule
    path = "" if rule is None else rule.rule.replace("<", "{").replace(">", "}")
    return f"{request.method} {path}".rstrip()


def _workspace_id() -> str | None:
    """Return the workspace that a request names, if that can be one."""
    named = (request.view_args or {}).get("workspace_id") or request.args.get("workspace_id")
    try:
        return None if named is None else check_workspace_id(named)
    except Reject:
        return None
