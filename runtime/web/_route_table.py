"""The server's routes: what each is to those who call it, and the function that carries it out.

What is written here is what documents say (`Operation`), and what the web framework is told.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
from quart import Response, g, request

from dalsegno.protocol import DomainError, Reject, check_id
from dalsegno.protocol.routes import Access, Limited, Operation, Paging, Params

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from quart import Quart

    from dalsegno.protocol import Limits
    from dalsegno.protocol.routes import Method

ParamsT = TypeVar("ParamsT", bound=msgspec.Struct)
Handler: TypeAlias = Callable[..., Awaitable[Response]]

KEYED = ("idempotency-key",)
"""The headers of a route that sends a command."""
IN_WORKSPACE = (403, 404)
"""How a route of a workspace refuses (C22)."""
COMMANDS = (*IN_WORKSPACE, 409, 412, 422)
"""How a route refuses that sends any command, besides with the domain's own statuses."""

_PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class RouteTable:
    """Routes that belong together."""

    def __init__(self, group: str) -> None:
        self._group = group
        self.routes: list[tuple[Operation, Handler]] = []

    def add(self, operation: Operation, handler: Handler) -> None:
        """Add a route: its function is given the path's parameters, by name."""
        self.routes.append((operation, handler))

    def route(
        self,
        method: Method,
        path: str,
        summary: str,
        *,
        returns: Any = None,  # noqa: ANN401 - a type
        status: int | None = None,
        body: Any = None,  # noqa: ANN401 - a type
        params: type[msgspec.Struct] | None = None,
        access: Access = Access.KNOWN,
        refusals: Iterable[int] = (),
        headers: tuple[str, ...] = (),
        also: Mapping[int, Any] | None = None,
        media_types: tuple[str, ...] = (),
    ) -> Callable[[Handler], Handler]:
        """Add a route: a decorator of the function that carries it out.

        Args:
            method: its method.
            path: its path, with its parameters in braces.
            summary: what it does, in a line.
            returns: the type of the answer's body; None: there is none.
            status: of the answer; None: 200, or 204 where it has no body.
            body: the type of the request's body; None: there is none.
            params: what path and query have, which the function reads (`read_params`); None: the
                path's parameters alone.
            access: who may call it.
            refusals: the statuses that it may refuse with, besides those that all have.
            headers: the request's headers that it looks at, in lower case.
            also: other answers that it may give, by status.
            media_types: what the answer is where ``returns`` is `bytes`.

        """
        if status is None:
            status = 204 if returns is None else 200
        operation = Operation(
            method=method,
            path=path,
            summary=summary,
            group=self._group,
            access=access,
            params=params,
            body=body,
            answers={status: returns, **(also or {})},
            refusals=frozenset(refusals),
            headers=headers,
            media_types=media_types,
        )

        def add(handler: Handler) -> Handler:
            self.add(operation, handler)
            return handler

        return add


def rule_of(path: str) -> str:
    """Return a path as the web framework has it."""
    return _PARAMETER.sub(r"<\1>", path)


def register(app: Quart, tables: Iterable[RouteTable]) -> list[Operation]:
    """Register the routes with the web framework, and return their operations.

    Raises:
        DomainError: two of them are one.

    """
    operations: list[Operation] = []
    taken: dict[tuple[str, str], Operation] = {}
    for table in tables:
        for operation, handler in table.routes:
            other = taken.setdefault((operation.method, operation.shape), operation)
            if other is not operation:
                said = f"{operation.method} {operation.path}"
                raise DomainError(f"{said} is over the server's own {other.path}")
            app.add_url_rule(
                rule_of(operation.path),
                endpoint=f"{operation.method} {operation.path}",
                view_func=handler,
                methods=[operation.method],
            )
            operations.append(operation)
    return operations


@cache
def _decoder(type_: type[msgspec.Struct]) -> Params[Any]:
    return Params(type_)


def read_params(type_: type[ParamsT]) -> ParamsT:
    """Return what path and query of the request say; of what is repeated, the first.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    said = {**{name: request.args[name] for name in request.args}, **(request.view_args or {})}
    read: ParamsT = _decoder(type_).read(said)
    limits: Limits = g.limits
    if isinstance(read, Limited) and read.limit > limits.list_limit_max:
        message = f"limit is a number from 1 to {limits.list_limit_max}"
        raise Reject("BAD_REQUEST", message, field="limit")
    if isinstance(read, Paging) and read.after:
        check_id(read.after, chars_max=limits.id_chars_max, what="after")
    return read
