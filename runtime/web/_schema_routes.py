"""What is served here, for programs that read types: every command, event and state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from quart import Blueprint, Response

from dalsegno.protocol import schema_of

from ._envelope import answer_json

if TYPE_CHECKING:
    from ._route_context import RouteContext


def schema_routes(context: RouteContext) -> Blueprint:
    """Create the routes."""
    routes = Blueprint("schema", __name__)
    catalog = context.rt.service.catalog
    served = [domain for domain in catalog.domains.values() if not domain.reserved]
    document = msgspec.json.encode(schema_of(served))

    @routes.get("/api/schema")
    async def read_schema() -> Response:
        await context.authenticate()
        return answer_json(document)

    return routes
