"""The routes that an app declares as values, carried out: `Route` has what each is.

All of them are authenticated, find their workspace, check who may, and answer in the same way; what
is their own is pure, but for what a read awaits of the workspace that it is given.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import replace as replace_fields
from quart import Response, request

from dalsegno.protocol import (
    SYSTEM_WORKSPACE,
    DalsegnoError,
    DomainError,
    OutcomeUnknownError,
    Reject,
    UnavailableError,
)
from dalsegno.protocol.routes import (
    ArtifactRoute,
    Asked,
    CommandRoute,
    EventStreamRoute,
    InSystem,
    InWorkspace,
    OfCaller,
    OfEntity,
    ReadRoute,
    RunBody,
    RunRoute,
    operation_of,
)
from dalsegno.protocol.runs import runs

from ._callers import CallersWorkspaces, workspace_meant
from ._conditions import base_version, is_known, not_modified, tagged
from ._downloads import downloaded
from ._envelope import answer, answer_json, nothing, read, read_any, replayed, request_id
from ._following import EventStreams
from ._located import hidden_from_strangers, workspace_in, workspace_of
from ._membership import check_role
from ._route_context import RouteContext, idempotency_key, needed_key
from ._route_table import RouteTable, read_params
from ._run_requests import Patience, RunRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator

    from dalsegno.protocol import Domain, Receipt
    from dalsegno.protocol.routes import Route
    from dalsegno.protocol.runs import RunState
    from dalsegno.runtime import Workspace

    from ._identity import Identity


ReadT = TypeVar("ReadT")


def app_routes(context: RouteContext) -> RouteTable:
    """Create the routes of the runtime's app."""
    table = RouteTable("")
    for route in context.rt.app.routes:
        carrier = _Carrier(context, route)
        table.add(carrier.operation, carrier.serve)
    return table


@contextmanager
def _applied() -> Iterator[None]:
    """Read what a command that took effect has made, for its answer.

    Raises:
        OutcomeUnknownError: it cannot be read now; the store's own error would say that nothing was
            applied.

    """
    try:
        yield
    except UnavailableError as error:
        message = f"it was applied, and cannot be shown now: {error.message}"
        raise OutcomeUnknownError(message) from error


class _Carrier:
    """Carries out the requests of one route."""

    def __init__(self, context: RouteContext, route: Route) -> None:
        self._context = context
        self._rt = context.rt
        self._route = route
        self.operation = operation_of(route)

    async def serve(self, **_path: str) -> Response:
        """Carry out a request."""
        shows = self._route.shows_error
        try:
            return await self._carry_out()
        except DalsegnoError as error:
            if shows(error) is error:
                raise
            raise shows(error) from error  # no name keeps it: that would be a cycle

    async def _carry_out(self) -> Response:
        route = self._route
        identity = await self._context.authenticate()
        if route.rate is not None:
            self._context.check_rate(route.rate, identity)
        type_ = self.operation.params
        params = None if type_ is None else read_params(type_)
        body = await self._body()
        if isinstance(route, ReadRoute):
            return await self._read(route, identity, self._asked(identity, params, body))
        if isinstance(route, RunRoute):
            return await self._run(route, identity, params, body)
        if isinstance(route, ArtifactRoute):
            asked = self._asked(identity, params, body)
            found = await self._read_of(route, route.find, identity, asked)
            return await downloaded(self._rt, found)
        if isinstance(route, EventStreamRoute):
            asked = self._asked(identity, params, body)
            following = partial(self._follow, route, identity)
            return await self._read_of(route, following, identity, asked)
        assert isinstance(route, CommandRoute), "there are five kinds"
        in_body = getattr(body, "idempotency_key", None)
        key = needed_key(self._rt, in_body) if route.makes_key else idempotency_key(in_body)
        asked = self._asked(identity, params, body, key=key, if_match=base_version())
        receipt = await self._send(route, identity, asked)
        response = nothing()
        if route.returns is not None:
            status, body = await self._answer_of(route, asked, receipt)
            response = answer(body, status)
            if route.is_tagged:
                response = tagged(response, receipt.version)
        return replayed(response, receipt)

    async def _answer_of(
        self, route: CommandRoute, asked: Asked[Any, Any], receipt: Receipt
    ) -> tuple[int, msgspec.Struct]:
        """Return the answer's status and body.

        Raises:
            OutcomeUnknownError: the command took effect, and what it made cannot be read now.
            DomainError: the route shows an entity that its command ended.

        """
        status = route.status
        if route.shows is None:
            assert route.answer is not None, "checked when the app was"
            return status, route.answer(asked, receipt)
        with _applied():
            if route.of is None:
                state = await self._state_after(receipt)
            else:
                receipt, state, is_found = await self._state_of(route.of(asked, receipt), receipt)
                status = (route.status_found or status) if is_found else status
        if state is None:
            raise DomainError(f"{self.operation.operation_id} shows what its command ended")
        return status, route.shows(receipt, state)

    async def _state_of(
        self, named: tuple[Domain[Any, Any, Any], str], receipt: Receipt
    ) -> tuple[Receipt, Any, bool]:
        """Read an entity that a command made or found, as the program.

        Return the receipt as one of that entity, its state, and whether it was found.
        """
        domain, entity_id = named
        workspace = workspace_in(self._rt, receipt.workspace_id)
        first = await workspace.history(domain, entity_id, limit=1)
        is_found = not first or first[0].command_id != receipt.command_id
        version, state = 0, None
        if is_found:
            now = await workspace.look(domain, entity_id)
            if now is not None:
                version, state = now.version, now.state
        else:
            version = first[0].stream_seq
            state = await workspace.at(domain, entity_id, version)
        stream_id = domain.stream_id(entity_id)
        return replace_fields(receipt, stream_id=stream_id, version=version), state, is_found

    async def _state_after(self, receipt: Receipt) -> Any:  # noqa: ANN401 - the domain's
        """Read a command's entity as it was after it: as the program, for who has left (I5)."""
        workspace = workspace_in(self._rt, receipt.workspace_id)
        domain = self._rt.service.catalog.domains[receipt.stream_id.partition(":")[0]]
        now = await workspace.look(domain, receipt.entity_id)
        if now is not None and now.version == receipt.version:
            return now.state
        return await workspace.at(domain, receipt.entity_id, receipt.version)

    async def _body(self) -> Any:  # noqa: ANN401 - the route's
        type_ = self._route.body
        if type_ is None:
            return None
        return await (read_any() if type_ is Any else read(type_, known=True))

    def _asked(
        self,
        identity: Identity,
        params: object,
        body: object,
        *,
        key: str | None = None,
        if_match: int | None = None,
    ) -> Asked[Any, Any]:
        sent = request.headers
        return Asked(
            params=params,
            body=body,
            principal=identity.acting(self._rt.system).principal,
            headers={name: sent[name] for name in self._route.headers if name in sent},
            key=key,
            if_match=if_match,
            limits=self._rt.limits,
        )

    # ------------------------------------------------------------------------------ commands

    async def _send(
        self, route: CommandRoute | RunRoute, identity: Identity, asked: Asked[Any, Any]
    ) -> Receipt:
        """Send the command: a member's who may, or a repeat by whoever has left since (I5).

        Raises:
            Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN`` (C22); what the command's making raises,
                and what deciding raises.

        """
        command, key = route.command(asked), asked.key

        async def is_answered(workspace: Workspace) -> bool:
            return key is not None and await workspace.has_answered(command, key=key)

        if isinstance(route.at, OfEntity):
            entity_id = getattr(asked.params, route.at.name)
            workspace, _ = await workspace_of(
                self._rt,
                route.at.domain,
                entity_id,
                identity,
                is_answered,
                in_system=route.at.in_system,
            )
        elif isinstance(route.at, InSystem):
            workspace = identity.acting(self._rt.system)
        else:
            named = await self._named(route.at, asked)
            workspace = identity.acting(self._rt.workspace(named))
        await workspace.check_may_send(command, key=key)
        if route.roles is not None and not await is_answered(workspace):
            await self._check_role(workspace, identity, route.roles)
        return await workspace.send(command, key=key, correlation_id=request_id())

    async def _named(self, at: InWorkspace | OfCaller, asked: Asked[Any, Any]) -> str:
        """Return the workspace that a request names, or that alone can be meant.

        Raises:
            Reject: ``BAD_REQUEST`` for a header that is missing.

        """
        if isinstance(at, OfCaller):
            said = request.headers.getlist(at.header)  # joined as those of an upgrade are
            sent = {at.header: ", ".join(said)} if said else {}
            return await workspace_meant(
                self._rt, at, asked.user_id, headers=sent, query=request.args
            )
        if at.place == "header":
            if at.name not in request.headers:
                raise Reject("BAD_REQUEST", f"the header {at.name} is missing", field=at.name)
            return request.headers[at.name]
        named: str = getattr(asked.params if at.place == "params" else asked.body, at.name)
        return named

    # ---------------------------------------------------------------------------------- runs

    async def _run(
        self, route: RunRoute, identity: Identity, params: object, body: object
    ) -> Response:
        """Ask for a run, and answer once it has ended, or the request waits no longer.

        Raises:
            Reject: as `_send`.
            OutcomeUnknownError: … and where it was asked for and cannot be shown.

        """
        rt = self._rt
        said_s = getattr(params, "wait", None)
        key = idempotency_key(getattr(body, "idempotency_key", None))
        asked = self._asked(identity, params, body, key=key)
        waits_s = route.waits_s(asked) if callable(route.waits_s) else route.waits_s
        patience = Patience.of_request(said_s, waits_s, rt.limits.run_wait_max_s)
        asking = RunRequest(
            patience,
            rt.service.node.connection_ids,
            rt.world,
            is_initiator=route.is_initiator,
        )
        identity = replace_fields(identity, connection_id=asking.connection_id)
        with asking.asking():
            asked = replace(asked, principal=identity.acting(rt.system).principal)
            receipt = await self._send(route, identity, asked)
            workspace = identity.acting(workspace_in(rt, receipt.workspace_id))
            asked = replace(asked, reads=workspace)
            with _applied():
                run_id = (
                    receipt.entity_id
                    if route.run_of is None
                    else await route.run_of(asked, receipt)
                )
                version, run = await self._run_as_seen(workspace, run_id, receipt)
            if run is not None and run.is_open and patience.wait_s > 0:
                waiting = self._context.waiting(identity, patience.wait_s)
                await asking.wait_ended(workspace, str(run_id), after=version, waiting=waiting)
                with suppress(UnavailableError):  # then it is answered as it was before
                    _, run = await self._run_as_seen(workspace, run_id, receipt)
            with _applied():
                if route.read is not None:
                    body = await route.read(asked, run_id)
                else:
                    assert run is not None, "its command is a RequestRun"
                    body = RunBody.of(receipt.entity_id, run)
            return replayed(asking.answer(workspace.id, str(run_id), run, body), receipt)

    async def _run_as_seen(
        self, workspace: Workspace, run_id: str | None, receipt: Receipt
    ) -> tuple[int, RunState | None]:
        """Return a run's version and state, as the caller may know them; None: no run.

        Whoever may not read, or has left, is shown what they asked for, and nothing of what has
        become of it (I5, I8).

        Raises:
            UnavailableError: it cannot be read now.

        """
        if run_id is None:
            return 0, None
        with suppress(Reject):
            entity = await workspace.look(runs, run_id)
            if entity is not None and entity.state is not None:
                return entity.version, entity.state
        if receipt.stream_id != runs.stream_id(run_id):
            return 0, None
        return receipt.version, await self._state_after(receipt)

    # --------------------------------------------------------------------------------- reads

    async def _read(self, route: ReadRoute, identity: Identity, asked: Asked[Any, Any]) -> Response:
        """Read, and answer with it, or with that it is known.

        Raises:
            Reject: ``…_NOT_FOUND``, ``ROLE_FORBIDDEN`` (C22); what reading raises.

        """
        body = await self._read_of(route, route.read, identity, asked)
        as_it_is = not route.adds_request_id
        response = answer_json(msgspec.json.encode(body)) if as_it_is else answer(body)
        if route.version_of is None:
            return response
        version = route.version_of(body)
        return not_modified(version) if is_known(version) else tagged(response, version)

    async def _read_of(
        self,
        route: ReadRoute | ArtifactRoute | EventStreamRoute,
        read: Callable[[Asked[Any, Any]], Awaitable[ReadT]],
        identity: Identity,
        asked: Asked[Any, Any],
    ) -> ReadT:
        """Return what a route's function reads, of what the caller may read."""
        rt, at = self._rt, route.at
        if at is None:
            return await read(replace(asked, memberships=CallersWorkspaces(rt, identity)))
        if isinstance(at, InSystem):
            workspace = identity.acting(rt.system)
            await self._check_role(workspace, identity, route.roles)
            return await read(replace(asked, reads=workspace))
        if isinstance(at, (InWorkspace, OfCaller)):
            workspace_id = await self._named(at, asked)
            await check_role(rt, workspace_id, identity.user_id, allow=route.roles)
            return await read(replace(asked, reads=identity.acting(rt.workspace(workspace_id))))
        entity_id = getattr(asked.params, at.name)
        workspace, role = await workspace_of(
            rt, at.domain, entity_id, identity, in_system=at.in_system
        )
        if route.roles is not None and role not in route.roles:
            raise Reject("ROLE_FORBIDDEN", "not allowed in this workspace", role=role)
        with hidden_from_strangers(at.domain, entity_id):
            return await read(replace(asked, reads=workspace))

    async def _follow(
        self, route: EventStreamRoute, identity: Identity, asked: Asked[Any, Any]
    ) -> Response:
        return await EventStreams(self._context).follow(
            identity,
            partial(route.follows, asked),
            asked.params,
            project_id=asked.workspace.id if route.is_of_project else None,
            is_over=None if route.is_over is None else partial(route.is_over, asked),
        )

    async def _check_role(
        self, workspace: Workspace, identity: Identity, allow: Collection[str] | None
    ) -> None:
        """Raise unless the caller has one of some roles in a workspace, the reserved one included.

        Raises:
            Reject: as `check_role`.

        """
        if workspace.id != SYSTEM_WORKSPACE:
            await check_role(self._rt, workspace.id, identity.user_id, allow=allow)
            return
        role = await workspace.role_of(identity.user_id)
        if role is None or (allow is not None and role not in allow):
            raise Reject("ROLE_FORBIDDEN", "not with this global role", role=role)
