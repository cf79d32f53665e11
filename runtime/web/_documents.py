"""What a server says of itself: its domains, its routes, its sockets."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec

from dalsegno.protocol import schema_of
from dalsegno.protocol.dialects import asyncapi_of
from dalsegno.protocol.routes import Served, openapi_of

from ._error_body import ErrorBody

if TYPE_CHECKING:
    from dalsegno.protocol.routes import Operation
    from dalsegno.runtime import Runtime


class Documents:
    """A server's documents, each written when it is first asked for."""

    def __init__(self, rt: Runtime, *, cookie: str) -> None:
        self.operations: list[Operation] = []
        """What all routes are, once they are known."""
        self._rt = rt
        self._cookie = cookie
        domains = rt.service.catalog.domains.values()
        self._domains = [domain for domain in domains if not domain.reserved]

    @cached_property
    def schema(self) -> bytes:
        """The types of the domains, as JSON Schema."""
        return msgspec.json.encode(schema_of(self._domains))

    @cached_property
    def openapi(self) -> bytes:
        """The routes, as OpenAPI."""
        served = Served(
            operations=self.operations,
            domains=self._domains,
            error=ErrorBody,
            cookie=self._cookie,
            is_hooked=self._rt.app.authenticate is not None or self._rt.app.authorize is not None,
            version=version("dalsegno"),
        )
        return msgspec.json.encode(openapi_of(served))

    @cached_property
    def asyncapi(self) -> bytes:
        """The sockets, as AsyncAPI."""
        rt = self._rt
        dialects = rt.service.sessions.language.dialects
        document = asyncapi_of(dialects, rt.app.sockets, self._domains, version=version("dalsegno"))
        return msgspec.json.encode(document)
