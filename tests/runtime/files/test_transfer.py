"""Sessions between files and a workspace: what is the same afterwards, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from dalsegno.actors.domains.sessions import session_domains
from dalsegno.actors.testing import MemoryStore
from dalsegno.runtime import Runtime
from dalsegno.runtime._cli import run
from dalsegno.runtime.files import (
    EventIoError,
    EventStore,
    FileEventStore,
    Replayed,
    WorkspaceEventStore,
    session_ids_of,
    transfer,
)
from dalsegno.runtime.seams import WORLD

from ._sessions import FROM_RUNTIME, S, a_world, envelope, log_of, owner_of


@pytest.fixture
def in_files(tmp_path: Path) -> FileEventStore:
    return FileEventStore(tmp_path / "events", world=a_world())


@pytest.fixture
async def in_workspace() -> AsyncIterator[WorkspaceEventStore]:
    async with Runtime.open(domains=session_domains, store=MemoryStore(WORLD)) as rt:
        yield WorkspaceEventStore(rt.workspace("w"), world=a_world())


async def envelopes_of(store: EventStore, session_id: str = S) -> list[object]:
    return [(row.seq, row.to_envelope()) for row in await store.read_from(session_id, 1)]


async def test_events_keep_their_numbers_and_their_identity_there_and_back(
    in_files: FileEventStore, in_workspace: WorkspaceEventStore, tmp_path: Path
) -> None:
    await in_files.append_envelopes(S, [FROM_RUNTIME, *(envelope(n) for n in range(10, 250))])
    await in_files.append("other", [{"a": [1, None, "ä"]}])
    told: list[int] = []
    done = await transfer(in_files, in_workspace, [S, "other"], progress=told.append)
    assert (done.sessions, done.events, done.appended, done.refused) == (2, 242, 242, {})
    assert sum(told) == 242
    back = FileEventStore(tmp_path / "back")
    ids = await session_ids_of(in_workspace)
    assert ids == sorted([S, "other"])
    assert (await transfer(in_workspace, back, ids)).appended == 242
    for session_id in ids:
        ours = await envelopes_of(in_files, session_id)
        assert ours == await envelopes_of(in_workspace, session_id)
        assert ours == await envelopes_of(back, session_id)
    assert await in_workspace.append_once(S, [FROM_RUNTIME]) == Replayed(1), "known by its id"


async def test_only_what_is_missing_is_appended(
    in_files: FileEventStore, in_workspace: WorkspaceEventStore
) -> None:
    await in_files.append(S, [1, 2])
    await transfer(in_files, in_workspace, [S])
    await in_files.append(S, [3])
    done = await transfer(in_files, in_workspace, [S])
    assert (done.events, done.appended) == (3, 1)
    assert (await transfer(in_files, in_workspace, [S])).appended == 0
    assert await envelopes_of(in_files) == await envelopes_of(in_workspace)


async def test_events_without_an_id_and_twice_the_same_one_are_taken_as_they_are(
    in_files: FileEventStore, in_workspace: WorkspaceEventStore
) -> None:
    for ids in (["", ""], ["a", "a"], ["b"], ["b", "c"]):
        await in_files.append_envelopes(S, [envelope(1, event_id=each) for each in ids])
        await transfer(in_files, in_workspace, [S])
    assert await envelopes_of(in_files) == await envelopes_of(in_workspace)


async def test_what_differs_is_refused_and_the_others_are_not(
    in_files: FileEventStore, in_workspace: WorkspaceEventStore, tmp_path: Path
) -> None:
    await in_files.append("same", [1])
    await in_files.append("other", [1])
    await in_workspace.append_envelopes("other", [envelope(1, "else")])
    await in_files.append("longer", [1])
    await transfer(in_files, in_workspace, ["longer"])
    await in_workspace.append("longer", [2])
    await in_files.append("halted", [1])
    await in_files.record_projection_halt("halted", "lost")
    await in_files.append("gap", [1])
    owner_of(tmp_path / "events", "gap").write_text("41\n")
    await in_files.append("gap", [42])
    await in_files.append("corrupt", [1])
    log_of(tmp_path / "events", "corrupt").write_bytes(b"x\n" * 200)
    done = await transfer(
        in_files, in_workspace, ["corrupt", "gap", "halted", "longer", "other", "same", "a b"]
    )
    assert done.sessions == done.appended == done.events == 1
    assert {name: error.code for name, error in done.refused.items()} == {
        "corrupt": "EVENT_SERIALIZATION",
        "gap": "EVENT_STORE",
        "halted": "SESSION_HALTED",
        "longer": "EVENT_CONFLICT",
        "other": "EVENT_CONFLICT",
        "a b": "EVENT_STORE",
    }
    assert "numbers 1 to 42 are not all there" in done.refused["gap"].message
    assert "event 1 differs" in done.refused["other"].message
    assert "event 2 is there" in done.refused["longer"].message
    assert await in_workspace.last_seq("gap") == 0


async def test_a_store_that_is_away_ends_it(
    in_files: FileEventStore, in_workspace: WorkspaceEventStore, tmp_path: Path
) -> None:
    log_of(tmp_path / "events").mkdir(parents=True)
    with pytest.raises(EventIoError):
        await transfer(in_files, in_workspace, [S])


def test_the_commands_import_and_export(
    migrated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        store = FileEventStore(tmp_path / "events")
        for session_id in ("a", "b"):
            await store.append_envelopes(session_id, [envelope(n) for n in range(1, 151)])
        await store.append("halted", [1])
        await store.record_projection_halt("halted", "lost")

    trio.run(fill)
    events, out, where = str(tmp_path / "events"), str(tmp_path / "out"), ["--database", migrated]
    assert run(["files", "import", events, "acme", *where]) == 1
    said = capsys.readouterr()
    assert said.out == (
        "2 sessions with 300 events are the same in both now, 300 of these were appended\n"
    )
    assert "dalsegno: halted: the session was halted: lost" in said.err
    assert run(["files", "import", events, "acme", *where, "--session", "b"]) == 0
    assert "150 events are the same in both now, 0 of" in capsys.readouterr().out
    assert run(["files", "export", "acme", out, *where]) == 0
    assert "300 of these were appended" in capsys.readouterr().out
    for name in ("a", "b"):
        ours, theirs = (
            trio.run(envelopes_of, FileEventStore(folder), name) for folder in (events, out)
        )
        assert ours == theirs
        assert len(ours) == 150
    assert run(["files", "import", str(tmp_path / "none"), "acme", *where]) == 2
    assert "there is no folder" in capsys.readouterr().err
