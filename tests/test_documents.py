"""What a server says of itself: its documents are whole, and are what it serves."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from dalsegno.actors.domains.jobs import job_app
from dalsegno.actors.domains.notes import note_app
from dalsegno.actors.domains.reviews import reviews
from dalsegno.protocol import App, Domain
from dalsegno.protocol.dialects import SHARED
from tests._everything import everything
from tests.actors._locks import locks
from tests.runtime.web._client import User
from tests.runtime.web.conftest import open_site
from tests.tasks_domain import tasks

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(
    params=[
        *(note_app, job_app, App([tasks, locks]), App()),
        *(reviews(root="projects", validate=["true"]), None),
    ],
    ids=["notes", "rules", "own", "nothing", "reviews", "everything"],
)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> App:
    given: App | None = request.param
    return runpy.run_path(str(everything(tmp_path)))["app"] if given is None else given


class Said(NamedTuple):
    """A server's documents, and what it really serves."""

    openapi: dict[str, Any]
    asyncapi: dict[str, Any]
    routes: set[str]
    domains: list[Domain[Any, Any, Any]]


async def documents(app: App) -> Said:
    async with open_site(app=app) as site:
        owner: User = await site.set_up()
        rules = [rule for rule in site.app.url_map.iter_rules() if not rule.websocket]
        routes = {
            f"{method} {rule.rule}".replace("<", "{").replace(">", "}")
            for rule in rules
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        }
        return Said(
            (await owner.get("/api/openapi.json")).body,
            (await owner.get("/api/asyncapi.json")).body,
            routes - {"GET /ws", *(f"GET {each.path}" for each in app.sockets)},
            [each for each in site.rt.service.catalog.domains.values() if not each.reserved],
        )


def references(document: object) -> Iterator[str]:
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(document, list):
        for each in document:
            yield from references(each)


def resolved(document: dict[str, Any], reference: str) -> object:
    assert reference.startswith("#/")
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


async def test_the_routes_of_openapi_are_those_that_are_served(app: App) -> None:
    openapi, _, routes, domains = await documents(app)
    if app is job_app:  # which has all there is, and takes a while
        OpenAPIV31SpecValidator(openapi).validate()
    told = {
        f"{method.upper()} {path}"
        for path, operations in openapi["paths"].items()
        for method in operations.keys() & METHODS
    }
    served = set()
    for route in routes:  # those of any domain are told once for each
        if "{domain}" in route:
            served |= {route.replace("{domain}", domain.name) for domain in domains}
        elif route.endswith("/{name}"):
            served |= {route.replace("{name}", name) for each in domains for name in each.offered}
        else:
            served.add(route)
    assert told == served
    ids = [each["operationId"] for path in openapi["paths"].values() for each in path.values()]
    assert len(ids) == len(set(ids))


async def test_what_is_referred_to_is_there_and_what_is_there_is_referred_to(app: App) -> None:
    openapi, asyncapi, *_ = await documents(app)
    for document in (openapi, asyncapi):
        referred = {*references(document)}
        for reference in referred:
            assert resolved(document, reference) is not None
        names = {each.rpartition("/")[2] for each in referred}
        for name, schema in document["components"]["schemas"].items():
            Draft202012Validator.check_schema(schema)
            assert name in names


async def test_asyncapi_has_every_message_of_every_dialect(app: App) -> None:
    _, asyncapi, *_ = await documents(app)
    told = {each["name"] for each in asyncapi["components"]["messages"].values()}
    for dialect in app.dialects:
        for type_ in (*dialect.messages, *dialect.says):
            assert type_.__struct_config__.tag in told
    assert {each.__struct_config__.tag for each in SHARED} <= told
    received = {
        name for name, each in asyncapi["operations"].items() if each["action"] == "receive"
    }
    assert {"ws.generic.subscribe", "ws.generic.command", "ws.every.ack"} <= received
    for operation in asyncapi["operations"].values():
        assert operation["messages"]
        if operation["action"] == "receive":
            assert operation["reply"]["messages"]


async def test_a_command_of_the_document_is_one_that_the_server_takes() -> None:
    """What the schema allows is decoded, and what it refuses is refused, over both ways."""
    openapi, asyncapi, *_ = await documents(App([tasks]))
    path = openapi["paths"]["/api/workspaces/{workspace_id}/commands/add_task"]
    body = path["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = {**body, "components": openapi["components"]}
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"task_id": "t", "title": "x"})
    assert not validator.is_valid({"task_id": "t"})
    assert not validator.is_valid({"task_id": 1, "title": "x"})
    message = asyncapi["components"]["messages"]["generic.command"]["payload"]
    command = Draft202012Validator({**message, "components": asyncapi["components"]})
    said = {"type": "command", "workspace_id": "w", "name": "add_task"}
    assert command.is_valid({**said, "payload": {"task_id": "t", "title": "x"}})
    assert not command.is_valid({**said, "payload": {"task_id": "t"}})
    assert not command.is_valid({**said, "name": "other", "payload": {}})
