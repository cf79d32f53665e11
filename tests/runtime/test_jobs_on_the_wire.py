"""Exports of a server with real sockets: many notes, long files, clients that leave."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import trio

from dalsegno.actors.domains.jobs import MANIFEST, job_app
from dalsegno.actors.domains.notes import CreateNote
from tests._http import PLAIN
from tests._patience import fail_after
from tests.runtime._serving import EMAIL, PASSWORD, Site, register, serving

JOBS = "/api/admin/export"


@pytest.fixture
async def site(migrated: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(migrated, app=job_app, artifacts=tmp_path / "artifacts") as site:
        yield site


class Owner:
    def __init__(self, http: httpx.AsyncClient, workspace_id: str, csrf: str) -> None:
        self.http = http
        self.workspace_id = workspace_id
        self.csrf = {"x-csrf-token": csrf}

    async def export(self) -> dict[str, Any]:
        body = {"workspace_id": self.workspace_id}
        answer = await self.http.post(f"{JOBS}/markdown", json=body, headers=self.csrf)
        assert answer.status_code == 202, answer.text
        job: dict[str, Any] = answer.json()["job"]
        return job

    async def looked_at(self, job: dict[str, Any]) -> dict[str, Any]:
        answer = await self.http.get(f"{JOBS}/{job['id']}")
        now: dict[str, Any] = answer.json()["job"]
        return now

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        with fail_after(60):
            while job["finished_at"] is None:
                await trio.sleep(0.05)
                job = await self.looked_at(job)
        assert job["status"] == "succeeded", job
        return job


@pytest.fixture
async def owner(site: Site) -> AsyncIterator[Owner]:
    workspace_id = await register(site.url)
    async with httpx.AsyncClient(base_url=site.url, **PLAIN) as http:
        said = {"email": EMAIL, "password": PASSWORD}
        csrf = (await http.post("/api/auth/login", json=said)).json()["csrf_token"]
        yield Owner(http, workspace_id, csrf)


async def fill(site: Site, owner: Owner, count: int, text: str) -> None:
    workspace = site.runtime.workspace(owner.workspace_id)
    for first in range(0, count, 100):
        numbers = range(first, min(first + 100, count))
        await workspace.send_all([CreateNote(f"note {number}", text) for number in numbers])


async def test_x_job_1_ten_thousand_notes_are_exported(site: Site, owner: Owner) -> None:
    """Without holding up who does something else meanwhile."""
    await fill(site, owner, 10_000, "x" * 50)
    job = await owner.export()
    waits = []
    with fail_after(60):
        while (await owner.looked_at(job))["finished_at"] is None:
            before = trio.current_time()
            await site.runtime.workspace(owner.workspace_id).send(CreateNote("meanwhile"))
            waits.append(trio.current_time() - before)
    job = await owner.ended(job)
    assert sorted(waits)[len(waits) // 2] < 0.25, "of a commit, beside the export"
    whole = (await owner.http.get(job["artifact_path"])).content
    assert sha256(whole).hexdigest() == job["artifact"]["sha256"]
    manifest = msgspec.json.decode(zipfile.ZipFile(io.BytesIO(whole)).read(MANIFEST))
    assert len(manifest["files"]) == 10_000


async def test_who_leaves_in_the_middle_of_a_long_file_costs_nobody_anything(
    site: Site, owner: Owner
) -> None:
    """It goes on where it was, by a range, as after a connection that was cut."""
    for _ in range(20):
        await fill(site, owner, 1, "x" * 1_000_000)
    job = await owner.ended(await owner.export())
    path, size = job["artifact_path"], job["artifact"]["bytes"]
    stream = await trio.open_tcp_stream("127.0.0.1", site.port)
    cookies = "; ".join(f"{name}={value}" for name, value in owner.http.cookies.items())
    async with stream:
        asked = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {cookies}\r\n\r\n"
        await stream.send_all(asked.encode())
        received = b""
        with fail_after(20):
            while len(received) < 1_000_000:
                received += await stream.receive_some()
    head, begun = received.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 200")
    headers = {"range": f"bytes={len(begun)}-", "if-range": f'"{job["artifact"]["sha256"]}"'}
    rest = await owner.http.get(path, headers=headers)
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes {len(begun)}-{size - 1}/{size}"
    assert sha256(begun + rest.content).hexdigest() == job["artifact"]["sha256"]
