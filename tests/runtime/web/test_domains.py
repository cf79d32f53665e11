"""The routes of any domain: commands by name, entities, lists, histories, schemas."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import jsonschema
import msgspec
import pytest
import trio
import trio.testing

from dalsegno.actors.domains.members import PutMember, RemoveMember
from dalsegno.protocol import App, Context, Domain, Index, Limits, Reject
from tests._patience import fail_after, lasted

from ._client import Answer, Site, User
from .conftest import open_site


class Card(msgspec.Struct, frozen=True):
    title: str
    column: str = "todo"


class AddCard(msgspec.Struct, frozen=True):
    title: str
    card_id: str | None = None


class MoveCard(msgspec.Struct, frozen=True):
    card_id: str
    column: str
    base_version: int | None = None


class DropCard(msgspec.Struct, frozen=True):
    card_id: str


class CardAdded(msgspec.Struct, frozen=True):
    title: str


class CardMoved(msgspec.Struct, frozen=True):
    column: str


class CardDropped(msgspec.Struct, frozen=True):
    pass


cards = Domain(
    "card",
    state=Card,
    commands=AddCard | MoveCard | DropCard,
    events=CardAdded | CardMoved | CardDropped,
)


@cards.decide
def add(card: Card | None, command: AddCard) -> CardAdded:
    if card is not None:
        raise Reject("CARD_EXISTS", title=card.title)
    return CardAdded(command.title)


@cards.decide
def move(_card: Card, command: MoveCard) -> CardMoved:
    return CardMoved(command.column)


@cards.decide(allow={"owner"})
def drop(_card: Card, _command: DropCard, context: Context) -> CardDropped:
    assert context.role == "owner"
    return CardDropped()


@cards.evolve
def added(_card: Card | None, event: CardAdded) -> Card:
    return Card(event.title)


@cards.evolve
def moved(card: Card, event: CardMoved) -> Card:
    return msgspec.structs.replace(card, column=event.column)


@cards.evolve
def dropped(_card: Card, _event: CardDropped) -> None:
    return None


@cards.index
def index(card: Card) -> Index:
    return Index(keys=(card.column,), sort=card.title.lower(), title=card.title)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site(app=App([cards])) as site:
        yield site


async def command(user: User, name: str, *, of: str | None = None, **fields: Any) -> Answer:
    headers = {each: fields.pop(each) for each in ("if_match", "idempotency_key") if each in fields}
    space = user.space if of is None else f"/api/workspaces/{of}"
    return await user.post(f"{space}/commands/{name}", fields, **headers)


async def add_card(user: User, card_id: str, title: str = "A card") -> Answer:
    answer = await command(user, "add_card", card_id=card_id, title=title)
    assert answer.status == 200, answer.raw
    return answer


# --------------------------------------------------------------------------------- commands


async def test_a_command_is_sent_by_its_name(owner: User) -> None:
    made = await command(owner, "add_card", title="One", idempotency_key="k")
    card_id = made.body["entity"].removeprefix("card:")
    assert made.status == 200
    assert made.body == {
        "workspace_id": owner.workspace_id,
        "event_seq": 1,
        "entity": f"card:{card_id}",
        "version": 1,
        "idempotency_key": "k",
        "request_id": made.headers["x-request-id"],
    }
    again = await command(owner, "add_card", title="One", idempotency_key="k")
    assert again.body["entity"] == made.body["entity"]
    assert again.body["repeated"] is True
    assert again.headers["x-idempotency-replay"] == "true"
    other = await command(owner, "add_card", title="Two", idempotency_key="k")
    assert (other.status, other.code) == (409, "STATE_CONFLICT")


@pytest.mark.parametrize(
    ("name", "fields", "status", "code"),
    [
        ("nothing", {}, 400, "UNKNOWN_COMMAND"),
        ("register_user", {"user_id": "x"}, 400, "UNKNOWN_COMMAND"),
        ("add_card", {}, 400, "BAD_REQUEST"),
        ("add_card", {"title": 1}, 400, "BAD_REQUEST"),
        ("add_card", {"title": "x", "tilte": "y"}, 400, "BAD_REQUEST"),
        ("add_card", {"title": "a\0b"}, 400, "BAD_REQUEST"),
        ("add_card", {"title": "x" * (1024 * 1024)}, 413, "PAYLOAD_TOO_LARGE"),
        ("add_card", {"title": "x", "card_id": ""}, 400, "BAD_REQUEST"),
        ("add_card", {"title": "x", "card_id": "c"}, 409, "CARD_EXISTS"),
        ("move_card", {"card_id": "nowhere", "column": "done"}, 404, "CARD_NOT_FOUND"),
        (
            "move_card",
            {"card_id": "c", "column": "done", "base_version": 9},
            409,
            "VERSION_CONFLICT",
        ),
        ("add_card", {"title": "x", "idempotency_key": "k" * 257}, 400, "BAD_REQUEST"),
    ],
)
async def test_what_cannot_be_sent_is_refused_and_changes_nothing(
    owner: User, name: str, fields: dict[str, Any], status: int, code: str
) -> None:
    await add_card(owner, "c")
    answer = await command(owner, name, **fields)
    assert (answer.status, answer.code) == (status, code)
    assert (await owner.get(f"{owner.space}/events")).body["head"] == 1


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b'{"title": "\\ud800"}', b"[" * 80])
async def test_a_payload_that_is_no_object_is_refused(site: Site, owner: User, raw: bytes) -> None:
    path = f"{owner.space}/commands/add_card"
    answer = await site.send("POST", path, raw=raw, headers=owner.headers)
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    form = {**owner.headers, "content-type": "text/plain"}
    answer = await site.send("POST", path, raw=raw, headers=form)
    assert (answer.status, answer.code) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_command_needs_a_session_and_its_csrf_token(site: Site, owner: User) -> None:
    path = f"{owner.space}/commands/add_card"
    assert (await site.send("POST", path, {"title": "x"})).code == "AUTH_REQUIRED"
    cookie = {"cookie": owner.headers["cookie"]}
    assert (await site.send("POST", path, {"title": "x"}, headers=cookie)).code == "CSRF_INVALID"


async def test_roles_decide_who_sends_what(site: Site, owner: User) -> None:
    await add_card(owner, "c")
    viewer, editor = [await site.add_member(owner, role) for role in ("viewer", "editor")]
    stranger = await site.add_user()
    at = {"of": owner.workspace_id}
    for user, name, fields in [
        (viewer, "add_card", {"title": "x"}),
        (editor, "drop_card", {"card_id": "c"}),
        (stranger, "add_card", {"title": "x"}),
        (stranger, "drop_card", {"card_id": "nowhere"}),
    ]:
        answer = await command(user, name, **at, **fields)
        assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")
    nowhere = await command(owner, "add_card", of="nowhere", title="x")
    assert (nowhere.status, nowhere.code) == (404, "WORKSPACE_NOT_FOUND")
    system = await command(owner, "add_card", of="$system", title="x")
    assert (system.status, system.code) == (400, "BAD_REQUEST")
    assert await site.rt.store.read_head("nowhere") is None
    assert (await command(editor, "add_card", **at, title="x")).status == 200
    assert (await command(owner, "drop_card", card_id="c")).status == 200


async def test_who_has_left_gets_the_answer_of_before(site: Site, owner: User) -> None:
    await add_card(owner, "c")
    tag = (await owner.get(f"{owner.space}/entities/card/c")).headers["etag"]
    editor = await site.add_member(owner, "editor")
    done = {"of": owner.workspace_id, "card_id": "c", "column": "done", "if_match": tag}
    made = await command(editor, "move_card", **done, idempotency_key="k")
    await site.rt.workspace(owner.workspace_id).send(RemoveMember(editor.id))
    again = await command(editor, "move_card", **done, idempotency_key="k")
    assert (again.status, again.body["event_seq"]) == (200, made.body["event_seq"])
    assert (await command(editor, "move_card", **done, idempotency_key="l")).status == 403


# --------------------------------------------------------------------------------- entities


async def test_an_entity_has_a_tag_of_its_version_and_history(site: Site, owner: User) -> None:
    await add_card(owner, "c", "One")
    path = f"{owner.space}/entities/card/c"
    read = await owner.get(path)
    assert read.body == {
        "entity_id": "c",
        "version": 1,
        "event_seq": 1,
        "state": {"title": "One", "column": "todo"},
        "request_id": read.headers["x-request-id"],
    }
    (event,) = await site.rt.workspace(owner.workspace_id).events()
    tag = f'"1-{event.position[-8:]}"'
    assert read.headers["etag"] == tag
    for known in (tag, f'"x", W/{tag}', "*"):
        answer = await owner.get(path, if_none_match=known)
        assert (answer.status, answer.raw, answer.headers["etag"]) == (304, b"", tag)
    for unknown in ('"1"', '"1-00000000"', '"2-' + tag[3:], "", tag.strip('"')):
        assert (await owner.get(path, if_none_match=unknown)).status == 200


async def test_a_change_may_ask_for_the_version_that_was_read(owner: User) -> None:
    await add_card(owner, "c")
    path = f"{owner.space}/entities/card/c"
    tag = (await owner.get(path)).headers["etag"]
    doing = {"card_id": "c", "column": "doing"}
    moved = await command(owner, "move_card", if_match=tag, **doing)
    assert (moved.status, moved.body["version"]) == (200, 2)
    late = await command(owner, "move_card", if_match=tag, **doing)
    assert (late.status, late.code) == (412, "VERSION_CONFLICT")
    assert late.body["details"]["current_version"] == 2
    elsewhere = tag.replace(tag[3:-1], "00000000").replace('"1', '"2')
    for wrong in (elsewhere, '"7-00000000"', '"1-00000000"'):
        answer = await command(owner, "move_card", if_match=wrong, **doing)
        assert (answer.status, answer.code) == (412, "VERSION_CONFLICT")
    numbers = ('"2"', '"0-00000000"', '"99999999999999999999-00000000"')
    for unreadable in ("*", *numbers, f"{tag}, {tag}", f"W/{tag}"):
        answer = await command(owner, "move_card", if_match=unreadable, **doing)
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")
    both = await command(owner, "move_card", if_match=tag, **doing, base_version=3)
    assert (both.status, both.code) == (400, "BAD_REQUEST")
    unknown = await command(owner, "drop_card", if_match=tag, card_id="c")
    assert (unknown.status, unknown.code) == (400, "BAD_REQUEST")
    assert (await owner.get(path)).body["version"] == 2


async def test_a_stranger_learns_nothing_by_if_match(site: Site, owner: User) -> None:
    stranger = await site.add_user()
    await add_card(owner, "c")
    tag = (await owner.get(f"{owner.space}/entities/card/c")).headers["etag"]
    path = f"{owner.space}/commands/move_card"
    assert site.rt.service.catalog.is_active(owner.workspace_id)
    for shown in (tag, '"1-00000000"', '"7-00000000"'):
        for card_id in ("c", "nowhere"):
            document = {"card_id": card_id, "column": "doing"}
            answer = await stranger.post(path, document, if_match=shown)
            assert (answer.status, answer.code) == (403, "ROLE_FORBIDDEN")


async def test_an_entity_is_read_as_it_was(owner: User) -> None:
    await add_card(owner, "c")
    await command(owner, "move_card", card_id="c", column="done")
    await command(owner, "drop_card", card_id="c")
    path = f"{owner.space}/entities/card/c"
    states = [(await owner.get(f"{path}?at_version={v}")).body["state"]["column"] for v in (1, 2)]
    assert states == ["todo", "done"]
    for query, status, code in [
        ("", 404, "CARD_NOT_FOUND"),
        ("?at_version=3", 404, "CARD_NOT_FOUND"),
        ("?at_version=4", 404, "VERSION_NOT_FOUND"),
        ("?at_version=0", 400, "BAD_REQUEST"),
        ("?at_version=x", 400, "BAD_REQUEST"),
        ("?min_seq=-1", 400, "BAD_REQUEST"),
    ]:
        answer = await owner.get(path + query)
        assert (answer.status, answer.code) == (status, code)
    page = (await owner.get(f"{path}/history?limit=2")).body
    assert [(e["seq"], e["event_type"]) for e in page["items"]] == [
        (1, "card_added"),
        (2, "card_moved"),
    ]
    assert page["items"][1]["payload"] == {"column": "done"}
    rest = (await owner.get(f"{path}/history?after={page['next']}")).body
    assert [e["event_type"] for e in rest["items"]] == ["card_dropped"]
    assert rest["next"] is None
    assert (await owner.get(f"{owner.space}/entities/card/x/history")).code == "CARD_NOT_FOUND"


@pytest.mark.parametrize("path", ["", "/c", "/c/history"])
async def test_what_is_not_there_or_not_theirs_is_refused(
    site: Site, owner: User, path: str
) -> None:
    await add_card(owner, "c")
    stranger = await site.add_user()
    for user, space, name, status, code in [
        (stranger, owner.space, "card", 403, "ROLE_FORBIDDEN"),
        (owner, "/api/workspaces/nowhere", "card", 404, "WORKSPACE_NOT_FOUND"),
        (owner, "/api/workspaces/$system", "card", 400, "BAD_REQUEST"),
        (owner, owner.space, "cart", 404, "NOT_FOUND"),
        (owner, owner.space, "user", 404, "NOT_FOUND"),
        (owner, owner.space, "note", 404, "NOT_FOUND"),
    ]:
        answer = await user.get(f"{space}/entities/{name}{path}")
        assert (answer.status, answer.code) == (status, code)
    await site.rt.workspace(owner.workspace_id).send(PutMember(stranger.id, "viewer"))
    assert (await stranger.get(f"{owner.space}/entities/card{path}")).status == 200


async def test_a_read_waits_for_what_the_reader_has_written(site: Site, owner: User) -> None:
    await add_card(owner, "c")
    path = f"{owner.space}/entities/card"
    ready = trio.Event()
    statuses = []

    async def read(path: str) -> None:
        ready.set()
        statuses.append((await owner.get(path)).status)

    with fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, f"{path}/c?min_seq=2")
            nursery.start_soon(read, f"{path}?min_seq=2")
            await ready.wait()
            await add_card(owner, "d")
    assert statuses == [200, 200]


# ------------------------------------------------------------------------------------ lists


async def test_entities_are_listed_by_key_in_order_of_their_sort(owner: User) -> None:
    for card_id, title in [("c1", "Pear"), ("c2", "apple"), ("c3", "Fig"), ("c4", "fig")]:
        await add_card(owner, card_id, title)
    await command(owner, "move_card", card_id="c3", column="done")
    path = f"{owner.space}/entities/card"

    async def listed(query: str) -> list[str]:
        found, after = [], ""
        while True:
            page = await owner.get(f"{path}?limit=2&{query}{after}")
            assert page.status == 200, page.raw
            assert page.body["event_seq"] == 5
            found += [item["entity_id"] for item in page.body["items"]]
            if page.body["next"] is None:
                return found
            after = f"&after={page.body['next']}"

    assert await listed("") == ["c1", "c2", "c3", "c4"]
    assert await listed("sort=true") == ["c2", "c3", "c4", "c1"]
    assert await listed("key=") == ["c2", "c3", "c4", "c1"]
    assert await listed("key=todo") == ["c2", "c4", "c1"]
    assert await listed("key=done&sort=true") == ["c3"]
    assert await listed("key=nothing") == []
    (item,) = (await owner.get(f"{path}?key=done&states=true")).body["items"]
    assert item.pop("updated_at")
    assert item == {
        "entity_id": "c3",
        "version": 2,
        "title": "Fig",
        "keys": ["done"],
        "sort": "fig",
        "state": {"title": "Fig", "column": "done"},
    }
    (item,) = (await owner.get(f"{path}?key=done")).body["items"]
    assert "state" not in item


SURROGATE = rb'["\ud800", ""]'


def of_bytes(text: bytes) -> str:
    return urlsafe_b64encode(text).decode().rstrip("=")


def token(*parts: object) -> str:
    return of_bytes(msgspec.json.encode(parts))


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "states=yes",
        "sort=up",
        "key=%00",
        f"key={'x' * 1025}",
        "after=x",
        "after=",
        f"after={quote('é')}",
        "after=_w",
        f"after={token('a')}",
        f"after={token(1, 2)}",
        f"after={token('a', chr(0))}",
        f"after={of_bytes(bytes([34, 255, 34]))}",
        f"after={of_bytes(SURROGATE)}",
        f"after={'A' * 9_000}",
        "min_seq=x",
    ],
)
async def test_a_page_that_cannot_be_is_refused(owner: User, query: str) -> None:
    answer = await owner.get(f"{owner.space}/entities/card?{query}")
    assert (answer.status, answer.code) == (400, "BAD_REQUEST")


# ----------------------------------------------------------------------------------- schema


async def test_the_schema_has_every_command_event_and_state(site: Site, owner: User) -> None:
    answer = await owner.get("/api/schema")
    schema = answer.body
    assert {"card", "member"} <= schema["domains"].keys()
    assert "user" not in schema["domains"], "it is not written from outside"
    card = schema["domains"]["card"]
    assert set(card["commands"]) == {"add_card", "move_card", "drop_card"}

    def fits(ref: dict[str, str], value: object) -> bool:
        validator = jsonschema.Draft202012Validator({**schema, **ref})
        return bool(validator.is_valid(value))

    assert fits(card["commands"]["add_card"], {"title": "x"})
    assert not fits(card["commands"]["add_card"], {"card_id": "x"})
    await add_card(owner, "c")
    state = (await owner.get(f"{owner.space}/entities/card/c")).body["state"]
    assert fits(card["state"], state)
    (event,) = (await owner.get(f"{owner.space}/entities/card/c/history")).body["items"]
    assert fits(card["events"]["card_added"]["payload"], event["payload"])
    assert (await site.send("GET", "/api/schema")).code == "AUTH_REQUIRED"


async def test_an_app_without_notes_has_no_routes_of_notes(owner: User) -> None:
    assert (await owner.get("/api/notes?workspace_id=x")).code == "NOT_FOUND"


# --------------------------------------------------------------------------------- long polls


async def test_a_poll_at_the_end_waits_for_the_next_event(owner: User) -> None:
    first = await add_card(owner, "c")
    path = f"{owner.space}/events"
    page = (await owner.get(f"{path}?wait=30")).body
    assert [item["event_seq"] for item in page["items"]] == [first.body["event_seq"]]
    assert page["cursor"] == f"1-{page['items'][0]['chain']}"
    pages = []

    async def poll() -> None:
        pages.append((await owner.get(f"{path}?after={page['cursor']}&wait=30")).body)

    with fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await trio.testing.wait_all_tasks_blocked()
            assert not pages
            await add_card(owner, "d")
    assert [item["stream_id"] for item in pages[0]["items"]] == ["card:d"]
    assert pages[0]["next"] is None


async def test_a_poll_ends_with_its_time(
    owner: User, autojump_clock: trio.testing.MockClock
) -> None:
    await add_card(owner, "c")
    began = trio.current_time()
    page = await owner.get(f"{owner.space}/events?after=1&wait=20")
    assert 20 <= lasted(began) < 21
    assert (page.status, page.body["items"], page.body["cursor"]) == (200, [], "1")
    for wrong in ("31", "-1", "x", "1.5"):
        answer = await owner.get(f"{owner.space}/events?wait={wrong}")
        assert (answer.status, answer.code) == (400, "BAD_REQUEST")


async def test_who_is_removed_is_told_at_once_and_sees_nothing(site: Site, owner: User) -> None:
    viewer = await site.add_member(owner, "viewer")
    head = (await owner.get(f"{owner.space}/events")).body["head"]
    answers = []

    async def poll() -> None:
        answers.append(await viewer.get(f"{owner.space}/events?after={head}&wait=30"))

    with fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await trio.testing.wait_all_tasks_blocked()
            await site.rt.workspace(owner.workspace_id).send(RemoveMember(viewer.id))
    assert (answers[0].status, answers[0].code) == (403, "ROLE_FORBIDDEN")


async def test_polls_are_bounded_for_a_user_and_in_all() -> None:
    limits = Limits(polls_max=3, sockets_per_user_max=2)
    async with open_site(app=App([cards]), limits=limits) as site:
        owner = await site.set_up()
        other = await site.add_member(owner, "viewer")
        path = f"{owner.space}/events?after=1&wait=30"
        statuses: list[int] = []

        async def poll(user: User) -> None:
            statuses.append((await user.get(path)).status)

        with fail_after(10):
            async with trio.open_nursery() as nursery:
                for user in (owner, owner, owner, other, other):
                    nursery.start_soon(poll, user)
                    await trio.testing.wait_all_tasks_blocked()
                assert statuses == [503, 503], "the third of the owner, the fourth of all"
                await add_card(owner, "c")
        assert statuses == [503, 503, 200, 200, 200]
