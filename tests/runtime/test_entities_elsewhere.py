"""Entities are read at any server of a database, also one that does not own their workspace."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx

from dalsegno.actors.domains.notes import CreateNote
from tests._http import PLAIN
from tests.runtime._serving import Site, serving, set_up


async def test_a_server_that_does_not_own_a_workspace_shows_its_entities(migrated: str) -> None:
    async with AsyncExitStack() as stack:
        here: Site = await stack.enter_async_context(serving(migrated))
        there: Site = await stack.enter_async_context(serving(migrated))
        owner = await set_up(here)
        receipt = await here.runtime.workspace(owner.workspace).send(CreateNote("One", "text"))
        path = f"/api/workspaces/{owner.workspace}/entities/note/{receipt.entity_id}"
        async with httpx.AsyncClient(**PLAIN, headers={"cookie": owner.cookie}) as http:
            first = await http.get(f"{here.url}{path}")
            tag = first.headers["etag"]
            for query in ("", "?at_version=1"):
                answer = await http.get(f"{there.url}{path}{query}")
                assert answer.status_code == 200, answer.text
                assert answer.headers["etag"] == tag
            answer = await http.get(f"{there.url}{path}", headers={"if-none-match": tag})
            assert answer.status_code == 304
