"""What is on record of a workspace, or, without one, of the accounts: for those who administer it.

The shape is of AuditLog (REQUIREMENTS §4.2), with the number of the event that each row is of.
"""

from __future__ import annotations

from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec
from quart import Response
from quart.wrappers.response import ResponseBody

from dalsegno.actors import AuditFilter, AuditPlace
from dalsegno.actors.domains.members import ADMINS
from dalsegno.protocol import AUDIT_WORKSPACE, Reject, check_id
from dalsegno.protocol.audit import FILTER_FIELDS, RecordFilter, Time
from dalsegno.protocol.routes import Limited
from dalsegno.runtime.audit_export import ExportFormat, export_records

from ._envelope import answer
from ._membership import check_role
from ._route_table import RouteTable, read_params

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from types import TracebackType

    from dalsegno.actors import AuditRecord

    from ._route_context import RouteContext


_MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "json": "application/json"}


class AuditParams(Limited, frozen=True, kw_only=True):
    """Which records are listed."""

    workspace_id: str | None = None
    """None: those of the accounts."""
    after: str | None = None
    user_id: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    since: Time | None = None
    until: Time | None = None


class ExportParams(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are exported, and as what."""

    format: ExportFormat = "csv"
    user_id: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    since: Time | None = None
    until: Time | None = None


class RecordBody(msgspec.Struct, frozen=True, kw_only=True):
    """What is on record of an event, or of an intervention from outside the log."""

    id: str
    timestamp: datetime
    user_id: str | None
    action: str
    resource_type: str
    resource_id: str
    old_value: msgspec.Raw
    new_value: msgspec.Raw
    ip_address: str | None
    request_id: str | None
    event_seq: int | None
    """None for an intervention."""


class RecordsBody(msgspec.Struct, frozen=True, kw_only=True):
    """A page of records, newest first."""

    items: list[RecordBody]
    next: str | None
    """The ``after`` of the next page."""


def audit_routes(context: RouteContext) -> RouteTable:
    """Create the routes."""
    routes = RouteTable("audit")
    rt = context.rt

    @routes.route(
        "GET",
        "/api/audit",
        "Read what is on record, newest first.",
        params=AuditParams,
        returns=RecordsBody,
        refusals=[403, 404],
    )
    async def list_records() -> Response:
        identity = await context.authenticate()
        params = read_params(AuditParams)
        workspace_id = params.workspace_id
        if workspace_id is None:
            workspace = rt.system
        else:
            await check_role(rt, workspace_id, identity.user_id, allow=ADMINS)
            workspace = rt.workspace(workspace_id)
        limit, below = params.limit, _place(params.after)
        found = await identity.acting(workspace).records(
            _asked(params, rt.limits.id_chars_max), below=below, limit=limit
        )
        for record in found:
            below = below.behind(record)
        following = _token(below) if len(found) == limit else None
        return answer(RecordsBody(items=[_body(record) for record in found], next=following))

    @routes.route(
        "GET",
        "/api/audit/export",
        "Export what is on record of everything, oldest first.",
        params=ExportParams,
        returns=bytes,
        refusals=[403],
        media_types=tuple(_MEDIA_TYPES.values()),
    )
    async def export_all() -> Response:
        identity = await context.authenticate()
        params = read_params(ExportParams)
        which = RecordFilter(**{name: getattr(params, name) for name in FILTER_FIELDS}).check()
        principal = identity.acting(rt.system).principal

        async def judge() -> None:
            await rt.service.catalog.check_member(AUDIT_WORKSPACE, principal)

        await judge()
        lines = export_records(rt.store, which, params.format, limits=rt.limits, judge=judge)
        response = Response(_Lines(lines), content_type=_MEDIA_TYPES[params.format])
        name = f'attachment; filename="audit.{params.format}"'
        response.headers["content-disposition"] = name
        response.timeout = None  # who reads too slowly is closed by the listener
        return response

    return routes


class _Lines(ResponseBody):
    """The lines of an export; an error amid them ends the answer before its end."""

    def __init__(self, lines: AsyncGenerator[bytes, None]) -> None:
        self._closing = aclosing(lines)

    async def __aenter__(self) -> AsyncIterator[bytes]:
        return await self._closing.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._closing.__aexit__(exc_type, exc_value, tb)


def _asked(params: AuditParams, chars_max: int) -> AuditFilter:
    """Return what the query asks for.

    Raises:
        Reject: ``BAD_REQUEST``.

    """
    for name in ("user_id", "action", "resource_type", "resource_id"):
        text: str | None = getattr(params, name)
        if text is not None:
            check_id(text, chars_max=chars_max, what=name)
    return AuditFilter(
        actor_id=params.user_id,
        action=params.action,
        resource_type=params.resource_type,
        resource_id=params.resource_id,
        since=params.since,
        until=params.until,
    )


def _token(place: AuditPlace) -> str:
    return f"{place.event_seq}-{place.n}-{place.intervention}"


def _place(token: str | None) -> AuditPlace:
    """Return where the page before ended.

    Raises:
        Reject: ``BAD_REQUEST`` for what is no ``next`` of a page.

    """
    if token is None:
        return AuditPlace()
    parts = token.split("-")
    if len(parts) != 3 or not all(
        part.isascii() and part.isdigit() and len(part) < 20 and int(part) < 2**63 for part in parts
    ):
        raise Reject("BAD_REQUEST", "after is the next of a page before", field="after")
    return AuditPlace(*map(int, parts))


def _body(record: AuditRecord) -> RecordBody:
    number = "x" if record.event_seq is None else str(record.event_seq)
    return RecordBody(
        id=f"{number}-{record.n}",
        timestamp=record.recorded_at,
        user_id=record.actor_id,
        action=record.action,
        resource_type=record.resource_type,
        resource_id=record.resource_id,
        old_value=msgspec.Raw((record.old_value or "null").encode()),
        new_value=msgspec.Raw((record.new_value or "null").encode()),
        ip_address=record.address,
        request_id=record.request_id,
        event_seq=record.event_seq,
    )
