"""What is served here, for programs that read types: the domains, the routes, the sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quart import Response

from ._envelope import answer_json
from ._route_table import RouteTable

if TYPE_CHECKING:
    from ._documents import Documents
    from ._route_context import RouteContext


def schema_routes(context: RouteContext, documents: Documents) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("server")

    @routes.route(
        "GET",
        "/api/schema",
        "Read the types of every command, event and state.",
        returns=dict[str, Any],
    )
    async def read_schema() -> Response:
        await context.authenticate()
        return answer_json(documents.schema)

    @routes.route("GET", "/api/openapi.json", "Read what all routes are.", returns=dict[str, Any])
    async def read_openapi() -> Response:
        await context.authenticate()
        return answer_json(documents.openapi)

    @routes.route(
        "GET",
        "/api/asyncapi.json",
        "Read what is heard and said on sockets.",
        returns=dict[str, Any],
    )
    async def read_asyncapi() -> Response:
        await context.authenticate()
        return answer_json(documents.asyncapi)

    return routes
