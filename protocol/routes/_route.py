"""Routes as values: what a package serves over HTTP, said without a web framework.

A route says how a request becomes a command or a read, and how the result becomes an answer; its
functions are pure, or await nothing but the `Reads` that they are given (or, of an `App` with a
store of its own, that).  Authentication, membership, idempotency, audit, errors and documents are
the server's, the same for all.

    CommandRoute("PATCH", "/api/notes/{note_id}/title", at=OfEntity(notes, "note_id"),
                 body=TitleBody, command=lambda asked: SetTitle(…), returns=TitleSetBody,
                 answer=lambda asked, receipt: TitleSetBody(…), summary="Set a note's title.")
    ReadRoute("GET", "/api/notes/{note_id}", at=OfEntity(notes, "note_id"), read=read_note,
              returns=NoteBody, summary="Read a note.")
    RunRoute("POST", "/api/spaces/{workspace_id}/reports", at=InWorkspace(), body=ReportBody,
             command=lambda asked: RequestRun(worker="report", input=asked.body.month),
             waits_s=10, summary="Have a report written.")
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from dalsegno.protocol._domain import Domain
from dalsegno.protocol._errors import DalsegnoError, DomainError, Reject
from dalsegno.protocol._rate import Rate
from dalsegno.protocol._receipt import Receipt
from dalsegno.protocol.runs import Artifact, runs

from ._asked import Asked
from ._bodies import RunBody
from ._operation import Method, Operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dalsegno.protocol.dialects._dialect import SubscribeRequest

_PATH = re.compile(r"(?:/(?:[A-Za-z0-9._~-]+|\{[a-z][a-z0-9_]*\}))+", re.ASCII)
_WITHOUT_BODY = 204
_ACCEPTED = 202
_IN_WORKSPACE = frozenset({409, 504})
"""How a route of a workspace may refuse, whatever the workspace's parameter is called."""
_OF_FILES = frozenset({410, 416})
"""… and one of files: it is gone, or has no such part."""
OF_EVENT_STREAMS = frozenset({400, 403, 404, 409, 421, 503})
"""… and one of events."""
EVENT_STREAM_TYPE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class InWorkspace:
    """The request names its workspace."""

    name: str = "workspace_id"
    """The parameter, the body's field or the header that does."""
    place: Literal["params", "body", "header"] = "params"


@dataclass(frozen=True, slots=True)
class OfEntity:
    """The request names an entity, whose workspace is found by its id.

    To those who may not see it there is none (C22).  Ids that the runtime makes are unique; a
    program may choose its own, and then ``?workspace_id=`` selects the workspace.
    """

    domain: Domain[Any, Any, Any]
    name: str
    """The parameter that is its id."""
    in_system: Collection[str] = ()
    """The global roles of those who may name one of the reserved workspace ``$system``, where there
    are some of a domain that is not reserved: a run that is about all workspaces."""


@dataclass(frozen=True, slots=True)
class InSystem:
    """The request is about no workspace but the reserved one, ``$system``: about all of them.

    The caller's global role is what counts; whoever has none, as a program with a key, may not.
    """


@dataclass(frozen=True, slots=True)
class OfCaller:
    """The request names its workspace in a header, or it is the only one of who asks."""

    header: str
    """The header, in lower case."""
    param: str | None = None
    """A parameter of the query that does as well: a page's socket can send no headers."""

    def __post_init__(self) -> None:
        if self.header != self.header.lower():
            raise DomainError(f"the name of a header in lower case: {self.header!r}")

    def named(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
        """Return the workspace that a request names; None where it names none.

        Raises:
            Reject: ``BAD_REQUEST`` where it names two.

        """
        in_header = headers.get(self.header)
        in_query = None if self.param is None else query.get(self.param)
        if None not in (in_header, in_query) and in_header != in_query:
            message = f"{self.header} and {self.param} differ"
            raise Reject("BAD_REQUEST", message, field=self.header)
        return in_query if in_header is None else in_header


At: TypeAlias = InWorkspace | OfEntity | OfCaller | InSystem

Wait = Annotated[int, Meta(ge=0, description="how long to wait for the run's end, in seconds")]


def as_it_is(error: DalsegnoError) -> DalsegnoError:
    """Return an error: what a route's callers know it as, unless the route says otherwise."""
    return error


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What every route has; see `CommandRoute`, `RunRoute`, `ReadRoute` and the others."""

    method: Method = field(kw_only=False)
    path: str = field(kw_only=False)
    """With its parameters in braces."""
    summary: str
    """What it does, in a line."""
    group: str = ""
    """Under which documents list it; the path's last segment before a parameter if it has none."""
    params: type[msgspec.Struct] | None = None
    """What path and query have; None: the path's parameters, as texts."""
    body: Any = None
    """The type of the request's body; None: it has none."""
    roles: Collection[str] | None = None
    """Who may, of those who may read, or send the command; None: all of them."""
    headers: tuple[str, ...] = ()
    """The request's headers that its functions look at, in lower case."""
    refusals: frozenset[int] = frozenset()
    """The statuses that it may refuse with, besides those that all have."""
    rate: Rate | None = None
    """How often each caller may ask; above it is refused with 429, and when to come again.  A
    server's nodes count each for itself."""
    shows_error: Callable[[DalsegnoError], DalsegnoError] = as_it_is
    """Returns an error as this route's callers know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRoute(Route):
    """A request that becomes a command."""

    at: At
    """Where the command is sent to."""
    command: Callable[[Asked[Any, Any]], msgspec.Struct]
    """Returns the command; raises `Reject` for what cannot become one."""
    returns: Any = None
    """The type of the answer; None: an empty one, 204."""
    answer: Callable[[Asked[Any, Any], Receipt], msgspec.Struct] | None = None
    """Returns the answer's body.  A repeat gets the same one, whatever has happened since."""
    shows: Callable[[Receipt, Any], msgspec.Struct] | None = None
    """Instead of ``answer``: returns the answer's body from the command's entity as it was right
    after the command, which has to exist then.  So a repeat gets the same one here, too."""
    of: Callable[[Asked[Any, Any], Receipt], tuple[Domain[Any, Any, Any], str]] | None = None
    """Names another entity for ``shows``, that the command made or found: its state as it was made,
    or where it was there before, as it is now, with a receipt of it.  The latter with the status
    …"""
    status_found: int | None = None
    """… this; None: the same."""
    status: int = 200
    makes_key: bool = False
    """Whether a request without an idempotency key gets one, which the answer says."""
    is_tagged: bool = True
    """Whether the answer has the entity's version as its ``ETag``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRoute(Route):
    """A request that asks for a run, and may wait for its end.

    It is answered with the run (`RunBody`), or with what ``read`` returns: with 200 once the run
    has ended, and with 202 and the run's ``Location`` where it goes on, as without a wait.
    A client says how long it waits by ``?wait=`` or by ``Prefer: wait=`` (RFC 7240), up to
    `Limits.run_wait_max_s`.  A repeat of an idempotency key asks for no other run, and is answered
    with the same one as it is now.
    """

    at: At
    """Where the run is asked for."""
    command: Callable[[Asked[Any, Any]], msgspec.Struct]
    """Returns the command, a `RequestRun` or one whose decider asks for a run (`asked_for`); raises
    `Reject` for what cannot become one."""
    run_of: Callable[[Asked[Any, Any], Receipt], Awaitable[str | None]] | None = None
    """Of another command than a `RequestRun`: returns the id of the run that it has led to, which
    it reads; None where it led to none, which is like one that has ended."""
    read: Callable[[Asked[Any, Any], str | None], Awaitable[msgspec.Struct]] | None = None
    """Returns the answer's body, read once the run of this id has ended or the request waits no
    longer.  A `DalsegnoError` that it raises is the answer: the run has come to nothing, say."""
    returns: Any = RunBody
    """The type of the answer."""
    waits_s: float | Callable[[Asked[Any, Any]], float] = 0.0
    """How long the request of a client waits that says nothing of it, in seconds: that may be more
    than a client may ask for.  A function of the request is pure."""
    is_initiator: bool = True
    """Whether a request that waits is the connection that asked, with whose loss a run ends whose
    worker says so.  False: no connection is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRoute(Route):
    """A request that reads."""

    read: Callable[[Asked[Any, Any]], Awaitable[msgspec.Struct]]
    """Returns the answer's body."""
    returns: Any
    """The type of the answer."""
    at: At | None = None
    """What is read; None: something of the app's own."""
    version_of: Callable[[Any], int] | None = None
    """Returns the version that a body shows, its ``ETag``; None: it has none."""
    adds_request_id: bool = True
    """Whether the answer has a ``request_id`` beside what was returned; a header has it anyway."""


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A run's file, as it is given to who asks for it."""

    artifact: Artifact
    filename: str
    """What it is called where it is saved."""
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactRoute(Route):
    """A request that is answered with a file that a run wrote, or with a part of it.

    ``Range``, ``If-Range`` and ``If-None-Match`` count (RFC 9110 §13, §14); the file's digest is
    its ``ETag``.  A node that has not the file says which one has (``ARTIFACT_ELSEWHERE``), and of
    one that is kept no longer it says so (``ARTIFACT_GONE``).
    """

    at: At
    """What the caller has to be able to read."""
    find: Callable[[Asked[Any, Any]], Awaitable[Download]]
    """Returns which file; raises `Reject` where there is none for the caller."""
    media_types: tuple[str, ...] = ("application/octet-stream",)
    """What its files are, each one of these."""


FROM_NOW = "head"
"""The cursor of who wants nothing of what was."""


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of an event stream: from where it is followed, and by whom."""

    cursor: str | None = None
    """A number, ``N-chain``, or ``head``: from now on.  ``Last-Event-ID`` counts before it; without
    either it begins after what the client has acknowledged."""
    client_id: str | None = None
    tab: str | None = None
    """Which tab of the client, 1 to 64 characters: it takes the place of its own older stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventStreamRoute(Route):
    """A request that is answered with server-sent events: a stream, from a cursor on.

    What the streams of the server promise this one promises, too; its ``params`` are `Following`
    and more.
    """

    at: At
    """What the caller has to be able to read."""
    follows: Callable[[Asked[Any, Any], str | None], SubscribeRequest]
    """Returns what is followed, from a cursor as it was said (``head``: from its end); in a dialect
    whose events are blocks, an `EventStreamDialect`.  Pure."""
    is_over: Callable[[Asked[Any, Any], int], Awaitable[bool]] | None = None
    """Returns whether nothing more will come behind a number, at which EventSource gives up: 204.
    None: there may always be more."""
    is_of_project: bool = False
    """Whether it counts as a connection of its workspace, as `Socket.project` says."""


def at_of(route: Route) -> At | None:
    """Return what a route is about."""
    known = (CommandRoute, RunRoute, ReadRoute, ArtifactRoute, EventStreamRoute)
    return route.at if isinstance(route, known) else None


def operation_of(route: Route) -> Operation:
    """Return a route as the document describes it."""
    answers: dict[int, Any]
    headers = list(route.headers)
    if isinstance(route, CommandRoute):
        answers = {_WITHOUT_BODY: None} if route.returns is None else {route.status: route.returns}
        if route.status_found is not None:
            answers[route.status_found] = route.returns
        headers += ["idempotency-key", "if-match"]
    elif isinstance(route, RunRoute):
        answers = {200: route.returns, _ACCEPTED: route.returns}
        headers += ["idempotency-key", "prefer"]
    elif isinstance(route, ArtifactRoute):
        answers = {200: bytes, 206: bytes, 304: None}
        headers += ["range", "if-range", "if-none-match"]
    elif isinstance(route, EventStreamRoute):
        answers = {200: bytes, _WITHOUT_BODY: None}
        headers.append("last-event-id")
    else:
        assert isinstance(route, ReadRoute), "there are five kinds"
        answers = {200: route.returns}
        if route.version_of is not None:
            answers[304] = None
            headers.append("if-none-match")
    at = at_of(route)
    if isinstance(at, InWorkspace) and at.place == "header":
        headers.append(at.name)
    if isinstance(at, OfCaller):
        headers.append(at.header)
    refusals = route.refusals
    if isinstance(at, (InWorkspace, OfCaller)):
        refusals |= _IN_WORKSPACE
    if isinstance(route, ArtifactRoute):
        refusals |= _OF_FILES
    if isinstance(route, EventStreamRoute):
        refusals |= OF_EVENT_STREAMS
    return Operation(
        method=route.method,
        path=route.path,
        summary=route.summary,
        group=route.group or _group_of(route.path),
        params=_params_type(route),
        body=route.body,
        answers=answers,
        media_types=_media_types_of(route),
        adds_request_id=not isinstance(route, ReadRoute) or route.adds_request_id,
        refusals=refusals,
        headers=tuple(headers),
    )


def _media_types_of(route: Route) -> tuple[str, ...]:
    if isinstance(route, EventStreamRoute):
        return (EVENT_STREAM_TYPE,)
    return route.media_types if isinstance(route, ArtifactRoute) else ()


def check_routes(routes: Iterable[Route], domains: Collection[Domain[Any, Any, Any]]) -> None:
    """Check that each route is complete, and no two are the same.

    Raises:
        DomainError: it is not.

    """
    taken: dict[tuple[str, str], str] = {}
    for route in routes:
        operation = operation_of(route)
        said = f"{operation.method} {route.path}"
        if not _PATH.fullmatch(route.path):
            raise DomainError(f"no path of a route: {route.path!r}")
        if len(set(operation.path_params)) < len(operation.path_params):
            raise DomainError(f"{said} has a parameter twice")
        if taken.setdefault((operation.method, operation.shape), said) is not said:
            earlier = taken[operation.method, operation.shape]
            raise DomainError(f"two routes are one: {said} and {earlier}")
        _check_names(route, operation, said)
        at = at_of(route)
        if isinstance(at, OfEntity) and at.domain not in domains:
            raise DomainError(f"{said} is about {at.domain.name!r}, which is not in the app")
        if isinstance(route, CommandRoute):
            _check_answer(route, said)
        if isinstance(route, EventStreamRoute) and not _is_following(route.params):
            raise DomainError(f"{said}: its params= derive from Following")
        if isinstance(route, RunRoute):
            if runs not in domains:
                raise DomainError(f"{said} asks for runs, and the app has no workers")
            if (route.read is None) is not (route.returns is RunBody):
                raise DomainError(f"{said}: read= and returns= belong together")


def _is_following(params: type[msgspec.Struct] | None) -> bool:
    return params is not None and issubclass(params, Following)


def _check_names(route: Route, operation: Operation, said: str) -> None:
    params = operation.params
    fields = set() if params is None else {f.encode_name for f in msgspec.structs.fields(params)}
    if missing := sorted(set(operation.path_params) - fields):
        raise DomainError(f"{said}: its params= has no field {missing[0]!r}")
    at = at_of(route)
    if at is None or isinstance(at, (OfCaller, InSystem)):
        return
    place = at.place if isinstance(at, InWorkspace) else "params"
    if place == "params" and at.name not in fields:
        raise DomainError(f"{said}: neither path nor params= has {at.name!r}")
    if place == "body" and at.name not in getattr(route.body, "__struct_fields__", ()):
        raise DomainError(f"{said}: its body has no field {at.name!r}")


def _check_answer(route: CommandRoute, said: str) -> None:
    makers = [made for made in (route.answer, route.shows) if made is not None]
    if len(makers) != (route.returns is not None):
        raise DomainError(f"{said}: returns= and one of answer= and shows= belong together")
    if (route.of is None and route.status_found is not None) or (route.of and not route.shows):
        raise DomainError(f"{said}: status_found= goes with of=, and of= with shows=")
    if not 200 <= route.status <= 299 or (makers and route.status == _WITHOUT_BODY):
        raise DomainError(f"{said}: no status of an answer with a body: {route.status}")


def _params_type(route: Route) -> type[msgspec.Struct] | None:
    """Return the type of a route's parameters, with the one that may select the workspace."""
    operation = Operation(method="GET", path=route.path, summary="", group="")
    type_, at = route.params, at_of(route)
    if type_ is None and operation.path_params:
        names: list[Any] = [(name, str) for name in operation.path_params]
        type_ = msgspec.defstruct("PathParams", names, frozen=True, kw_only=True)
    if isinstance(at, OfEntity):
        type_ = _with(type_, "workspace_id", str)
    if isinstance(at, OfCaller) and at.param is not None:
        type_ = _with(type_, at.param, str)
    return _with(type_, "wait", Wait) if isinstance(route, RunRoute) else type_


def _with(type_: type[msgspec.Struct] | None, param: str, kind: Any) -> type[msgspec.Struct]:  # noqa: ANN401 - a type
    """Return a type of parameters with one that may be left out, which it may have already."""
    if type_ is None:
        type_ = msgspec.defstruct("Selecting", (), frozen=True, kw_only=True)
    if any(each.encode_name == param for each in msgspec.structs.fields(type_)):
        return type_
    field_ = msgspec.field(name=param, default=None)
    return msgspec.defstruct(
        type_.__name__,
        [(re.sub(r"\W", "_", param), kind | None, field_)],
        bases=(type_,),
        kw_only=True,
    )


def _group_of(path: str) -> str:
    """Return the last word of a path before its first parameter."""
    return path.partition("/{")[0].rpartition("/")[2]
