"""P2: a command has the same result and leads to the same events over HTTP and over a socket.

Generated over every command of every domain that comes along, whatever is in it: two
workspaces are sent the same commands, one over each way, and have the same answers and the same
logs.
"""

from __future__ import annotations

import string
from typing import Any

import msgspec
import trio
from hypothesis import HealthCheck, given, settings, strategies as st
from msgspec import inspect

from dalsegno.actors import Connection
from dalsegno.actors.domains.coordination import coordination_domains
from dalsegno.actors.domains.members import members
from dalsegno.actors.domains.notes import note_domains
from dalsegno.actors.domains.standing import standings
from dalsegno.actors.testing import memory_connection
from dalsegno.protocol import App
from tests._coordination import AGENT

from ._client import Answer, Site, User
from .conftest import open_site

DOMAINS = (*note_domains, *coordination_domains, members, standings)
MAKES_IDS = {"create_agent_edges"}
"""The commands that make further entities, whose ids are others in each workspace."""
COMMANDS = {
    name: (domain, type_)
    for domain in DOMAINS
    for name, type_ in domain.commands.items()
    if name not in MAKES_IDS
}
APP = App([*note_domains, *coordination_domains])

IDS = st.sampled_from(["a", "b", "c"])
TEXTS = st.text(string.ascii_letters + " äß𝄋[]|", max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def values(info: inspect.Type, name: str) -> st.SearchStrategy[Any]:
    """Values of a type, as JSON: those that fit it, and mean something more often than not."""
    if name.endswith("_id"):
        return IDS
    match info:
        case inspect.Metadata():
            return values(info.type, name)
        case inspect.UnionType():
            return st.one_of([values(each, name) for each in info.types])
        case inspect.LiteralType():
            return st.sampled_from(info.values)
        case inspect.IntType():
            return st.integers(0, 4)
        case inspect.StrType():
            return st.sampled_from(["editor", "markdown", "workspace", "x"]) | TEXTS
        case inspect.NoneType():
            return st.none()
        case inspect.CollectionType():
            return st.lists(values(info.item_type, name), max_size=3)
        case inspect.StructType():
            return fields(info)
        case _:
            return JSON


def fields(info: inspect.StructType) -> st.SearchStrategy[dict[str, Any]]:
    given_ = {each.encode_name: values(each.type, each.encode_name) for each in info.fields}
    optional = {each.encode_name for each in info.fields if not each.required}
    # An id that is left out is made up, and then the two would differ in it.
    needed = {name for name in given_ if name not in optional or name.endswith("_id")}
    needed -= {"standing_id", "agent_config_id"}
    return st.fixed_dictionaries(
        {name: given_[name] for name in needed},
        optional={name: given_[name] for name in optional - needed},
    )


def payloads(type_: type[msgspec.Struct]) -> st.SearchStrategy[dict[str, Any]]:
    info = inspect.type_info(type_)
    assert isinstance(info, inspect.StructType)
    return fields(info)


SENT = st.one_of(
    [
        st.tuples(st.just(name), payloads(type_), st.none() | st.sampled_from(["k1", "k2"]))
        for name, (_, type_) in sorted(COMMANDS.items())
    ]
)


async def over_http(owner: User, space: str, name: str, payload: Any, key: str | None) -> Any:
    headers = {} if key is None else {"idempotency_key": key}
    answer: Answer = await owner.post(
        f"/api/workspaces/{space}/commands/{name}", payload, **headers
    )
    body = answer.body
    del body["request_id"]
    return body


class Socket:
    """The same user's socket, without a port."""

    def __init__(self, site: Site, owner: User) -> None:
        self._client = memory_connection(site.rt.limits)
        sessions = site.rt.service.sessions
        self._connection = Connection(self._client.transport, sessions, user_id=owner.id)
        self.run = self._connection.run

    async def send(self, space: str, name: str, payload: Any, key: str | None) -> Any:
        said = {"workspace_id": space, "name": name, "payload": payload, "idempotency_key": key}
        await self._client.send(msgspec.json.encode({"type": "command", **said}).decode())
        while True:
            heard: dict[str, Any] = msgspec.json.decode(await self._client.receive())
            match heard.pop("type"):
                case "committed":
                    return heard
                case "rejected":
                    del heard["workspace_id"], heard["idempotency_key"]
                    return heard


async def log_of(site: Site, space: str) -> list[Any]:
    events = await site.rt.workspace(space).events(limit=1_000)
    return [
        (each.event_seq, each.stream_id, each.stream_seq, each.type, each.actor_id, each.payload)
        for each in events
    ]


async def play(sent: list[tuple[str, Any, str | None]]) -> None:
    async with open_site(app=APP) as site, trio.open_nursery() as nursery:
        owner = await site.set_up()
        one, other = [
            (await owner.post("/api/workspaces", {"slug": slug, "name": "W"})).body["workspace_id"]
            for slug in ("one", "other")
        ]
        socket = Socket(site, owner)
        nursery.start_soon(socket.run)
        for name, payload, key in sent:
            here = await over_http(owner, one, name, payload, key)
            there = await socket.send(other, name, payload, key)
            if "workspace_id" in there:
                there["workspace_id"] = one
            assert here == there, (name, payload)
        assert await log_of(site, one) == await log_of(site, other)
        nursery.cancel_scope.cancel()


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SENT, min_size=1, max_size=15))
def test_p2_a_command_is_the_same_over_http_and_over_a_socket(
    sent: list[tuple[str, Any, str | None]],
) -> None:
    made: list[tuple[str, Any, str | None]] = []
    for each in ("a", "b"):
        made.append(("create_note", {"note_id": each, "title": each}, None))
        made.append(("register_agent", {**AGENT, "agent_id": each}, None))
        made.append(("create_trajectory", {"trajectory_id": each, "name": each}, None))
        scope = {"scope_id": each, "trajectory_id": each, "name": each, "token_budget": 1}
        made.append(("create_scope", scope, None))
    trio.run(play, [*made, *sent])


def test_p2_a_workspace_that_was_deleted_answers_alike() -> None:
    """It knows its keys still: a repeat gets its answer, and another command a conflict."""
    trio.run(
        play,
        [
            ("delete_workspace", {}, "k1"),
            ("delete_workspace", {}, "k1"),
            ("change_workspace", {"name": "x"}, "k1"),
            ("change_workspace", {"name": "x"}, None),
        ],
    )


def test_p2_every_command_is_among_them() -> None:
    """One of each, with what fits: accepted or refused, alike."""
    sent: list[tuple[str, Any, str | None]] = []
    for name, (_, type_) in sorted(COMMANDS.items()):
        wanted = payloads(type_)
        sent.append((name, msgspec.json.decode(b"{}"), None))  # nothing at all
        sent.append((name, example_of(wanted), None))
    trio.run(play, sent)


def example_of(strategy: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Return the first value that is drawn."""
    found: list[dict[str, Any]] = []

    @settings(max_examples=1, database=None)
    @given(strategy)
    def draw(value: dict[str, Any]) -> None:
        found.append(value)

    draw()
    return found[0]
