"""Models that answer badly, or not at all: nothing is written, and the lock is given back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from dalsegno.actors.domains.reviews._comments import SelectComment, proposal_comments
from dalsegno.actors.domains.reviews._iteration import LOOKED_AT_MAX
from dalsegno.actors.domains.reviews._job_commands import CancelJob
from dalsegno.actors.domains.reviews._jobs import DEADLINE_S
from dalsegno.actors.domains.reviews._locks import LockProject, UnlockProject
from dalsegno.actors.domains.reviews._proposals import DeleteProposal, EditProposal
from dalsegno.actors.domains.reviews._said import Token
from dalsegno.actors.testing import MemoryStore
from dalsegno.protocol import Limits, Reject
from dalsegno.protocol.providers import ProviderSettings
from dalsegno.runtime.seams import WORLD
from tests._patience import fail_after, patient
from tests._provider import (
    Reply,
    ScriptedProvider,
    Wire,
    chunk,
    cuts,
    says,
    scripted,
    status,
    then,
)
from tests.runtime._reviewed import AT_ONCE, SOON, Reviewed, Told, reviewed, status_in

pytestmark = pytest.mark.processes

BEFORE = {"a.md": "TODO\n", "docs/b.md": "fine\n"}
FILE = "<<<<<< a.md\nIt is done.\n>>>>>>\n"
PASSES = ""


@asynccontextmanager
async def iterating(
    root: Path,
    *script: Reply,
    validate: str | Sequence[str] = (),
    models: Callable[[ScriptedProvider], list[ProviderSettings]] | None = None,
    **more: Any,
) -> AsyncIterator[tuple[Reviewed, ScriptedProvider]]:
    """A project with two files, a proposal, and a model that does as its script says."""
    async with scripted(*script) as provider:
        given = None if models is None else models(provider)
        async with reviewed(root, validate, provider=provider, models=given, **more) as it:
            for path, text in BEFORE.items():
                it.write(path, text)
            yield it, provider


def of_text(text: str) -> Reply:
    return says(*(text[at : at + 1_000] for at in range(0, len(text), 1_000)))


async def nothing_was_done(it: Reviewed, told: Told) -> None:
    assert told.run.status in {"failed", "cancelled"}
    assert told.kinds[0] == "iteration_start"
    assert sum(each == "iteration_start" for each in told.kinds) == 1
    ended = [each for each in told.kinds if each not in {"iteration_start", "token"}]
    assert ended in (["iteration_error"], ["iteration_cancelled"])
    await it.free()
    with fail_after(10):
        while (await it.proposal()).job is not None:
            await trio.sleep(0.01)
    await it.settled()
    assert it.files() == BEFORE


def text_of(told: Told) -> str:
    return "".join(each.content for each in told.messages if isinstance(each, Token))


# --------------------------------------------------------------------------------- bad answers


BAD: dict[str, tuple[str, str]] = {
    "a file twice": (FILE + FILE, "ANSWER_UNREADABLE"),
    "no file": ("There is nothing to do.", "ANSWER_UNREADABLE"),
    "nothing": ("", "ANSWER_UNREADABLE"),
    "a file without an end": ("<<<<<< a.md\nIt is", "ANSWER_UNREADABLE"),
    "a file within a file": ("<<<<<< a.md\n<<<<<< b.md\n>>>>>>\n>>>>>>", "ANSWER_UNREADABLE"),
    "a path above": ("<<<<<< ../x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a path above, within": ("<<<<<< docs/../../x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "an absolute path": ("<<<<<< /etc/passwd\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "no path": ("<<<<<<  \ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a backslash": ("<<<<<< ..\\x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a control character": ("<<<<<< a\x07\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a staged path": ("<<<<<< .staging/x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a long path": (f"<<<<<< {'d/' * 600}x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a long name": (f"<<<<<< {'d' * 300}\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a link as target": ("<<<<<< link\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a link as parent": ("<<<<<< linked/x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a folder as target": ("<<<<<< docs\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a file as folder": ("<<<<<< a.md/x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a file that is a folder of another": (
        "<<<<<< n\ny\n>>>>>>\n<<<<<< n/m\ny\n>>>>>>",
        "FILE_TWICE",
    ),
    "too many files": (
        "".join(f"<<<<<< {number}\n>>>>>>\n" for number in range(201)),
        "FILES_TOO_LARGE",
    ),
    "one good file and one bad": (f"{FILE}<<<<<< ../x\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a NUL in a path": ("<<<<<< a\0.md\ny\n>>>>>>", "PATH_FORBIDDEN"),
    "a lone surrogate in a path": ("<<<<<< a\ud800.md\ny\n>>>>>>", "PATH_FORBIDDEN"),
}


@pytest.mark.parametrize("what", BAD)
async def test_of_an_answer_that_cannot_be_used_nothing_is_written(
    what: str, tmp_path: Path
) -> None:
    answer, code = BAD[what]
    outside = tmp_path / "outside"
    outside.mkdir()
    async with iterating(tmp_path / "root", of_text(answer)) as (it, _):
        (it.folder / "link").symlink_to(outside / "x")
        (it.folder / "linked").symlink_to(outside)
        await it.propose()
        told = await it.iterated()
        assert told.code == code
        await nothing_was_done(it, told)
        assert [*outside.iterdir()] == []
        assert sorted(each.name for each in it.root.iterdir()) == [".staging", "acme"]


@pytest.mark.parametrize("path", ["a.md", "docs", "docsx/y", "docs/../a.md", "Docs/b.md"])
async def test_a_file_outside_of_the_proposals_folder_is_not_written(
    path: str, tmp_path: Path
) -> None:
    async with iterating(tmp_path, of_text(f"<<<<<< {path}\ny\n>>>>>>")) as (it, provider):
        await it.propose(folder="docs")
        told = await it.iterated()
        assert told.code == "PATH_FORBIDDEN"
        await nothing_was_done(it, told)
        shown = provider.asked[0].body["messages"][-1]["content"]
        assert "docs/b.md" in shown
        assert "a.md" not in shown


async def test_a_flood_is_cut_off(tmp_path: Path) -> None:
    sent, gone = 0, trio.Event()

    async def floods(wire: Wire) -> None:
        nonlocal sent
        await wire.events()
        try:
            while sent < 2**30:
                await wire.say(chunk({"content": "x" * 50_000}))
                sent += 50_000
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            gone.set()
            raise

    async with iterating(tmp_path, floods) as (it, _):
        await it.propose()
        told = await it.iterated()
        assert told.code == "ANSWER_TOO_LONG"
        with fail_after(5):
            await gone.wait()
        assert sent < 32 * 2**20
        assert 1_900_000 < len(text_of(told)) <= 2 * 2**20
        await nothing_was_done(it, told)


async def test_answers_that_are_long_together_are_cut_off(tmp_path: Path) -> None:
    longest = [chunk({"content": "x" * 50_000})] * 40
    async with iterating(
        tmp_path,
        then(*longest, cut=True),
        then(*longest, cut=True),
        then(*longest, cut=True),
        models=lambda provider: [provider.settings()] * 3,
    ) as (it, _):
        await it.propose()
        told = await it.iterated()
        assert told.code == "ANSWER_TOO_LONG"
        await nothing_was_done(it, told)


# ----------------------------------------------------------------------------------- good answers


async def test_what_is_shown_and_given_back_stays_as_it_is(tmp_path: Path) -> None:
    async def echoes(wire: Wire) -> None:
        shown = wire.asked.body["messages"][-1]["content"]
        await of_text(shown[shown.index("<<<<<<") :])(wire)

    async with iterating(tmp_path, echoes) as (it, _):
        it.write("marked.md", "\\>>>>>>\n<<<<<< x\n>>>>>>\n")
        it.write("empty.md", "")
        before = it.files()
        await it.propose()
        for _ in range(2):
            told = await it.iterated()
            assert told.code is None
            assert told.end()["files_modified"] == sorted(before)
            await it.settled()
            assert it.files() == before


async def test_what_is_no_text_is_replaced(tmp_path: Path) -> None:
    async with iterating(tmp_path, of_text("<<<<<< a.md\n\0\ud800\n>>>>>>")) as (it, _):
        await it.propose()
        assert (await it.iterated()).code is None
        await it.settled()
        assert it.files()["a.md"] == "\ufffd\ufffd\n"


async def test_a_project_without_files_is_iterated_on(tmp_path: Path) -> None:
    async with iterating(tmp_path, of_text(FILE), validate="print('x')") as (it, _):
        for path in BEFORE:
            (it.folder / path).unlink()
        (it.folder / "docs").rmdir()
        it.folder.rmdir()
        await it.propose()
        told = await it.iterated()
        assert told.code is None
        await it.settled()
        assert it.files() == {"a.md": "It is done.\n"}
        assert told.end()["validation"]["status"] == "passed"


async def test_files_that_are_no_text_are_not_shown(tmp_path: Path) -> None:
    async with iterating(tmp_path, of_text(FILE)) as (it, provider):
        (it.folder / "nul.bin").write_bytes(b"a\0b")
        (it.folder / "latin.txt").write_bytes(b"\xe9")
        (it.folder / "long.txt").write_bytes(b"x" * 600_000)
        await it.propose()
        assert (await it.iterated()).code is None
        shown = provider.asked[0].body["messages"][-1]["content"]
        for name in ("nul.bin", "latin.txt", "long.txt"):
            assert name not in shown
        assert "<<<<<< docs/b.md\nfine\n>>>>>>" in shown


async def test_what_a_comment_is_about_is_shown_however_many_files_there_are(
    tmp_path: Path,
) -> None:
    async with iterating(tmp_path, of_text(FILE), validate=PASSES) as (it, provider):
        for number in range(LOOKED_AT_MAX):
            it.write(f"m{number:04}.bin", "\0")
        it.write("zzz.md", "the last one\n")
        (it.folder / "link").symlink_to("a.md")
        await it.propose()
        for number, path in enumerate(["link", "docs", "not/there", "a.md/x", "zzz.md"]):
            await it.remark(f"c{number}", path)
        assert (await it.iterated()).code is None
        shown = provider.asked[0].body["messages"][-1]["content"]
        assert "<<<<<< zzz.md\nthe last one\n>>>>>>" in shown
        assert shown.count("<<<<<<") == 3


@pytest.mark.parametrize(
    "script", ["import sys\nsys.exit(1)", "import os\nos.kill(os.getpid(), 9)"]
)
async def test_files_are_put_there_with_what_is_said_of_them(script: str, tmp_path: Path) -> None:
    async with iterating(tmp_path, of_text(FILE), validate=script) as (it, _):
        await it.propose()
        told = await it.iterated()
        assert told.code is None
        validation = told.end()["validation"]
        is_killed = "kill" in script
        assert validation["status"] == ("error" if is_killed else "failed")
        verdict = (await it.proposal()).verdict
        assert verdict is not None
        assert (verdict.status, verdict.summary) == (validation["status"], validation["summary"])
        await it.settled()
        assert it.files() == {**BEFORE, "a.md": "It is done.\n"}
        await it.free()


async def test_cf_3_what_was_selected_is_resolved_and_what_was_since_is_not(
    tmp_path: Path,
) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def waits(wire: Wire) -> None:
        begun.set()
        await go_on.wait()
        await of_text(FILE)(wire)

    async with iterating(tmp_path, waits, validate=PASSES) as (it, provider):
        await it.propose()
        await it.remark("c", "docs/b.md")
        await it.remark("since")
        deselect = SelectComment(proposal_comment_id="since", selected=False)
        await it.by("author").send(deselect)
        run_id = await it.iterate()
        with fail_after(10):
            await begun.wait()
        await it.by("author").send(SelectComment(proposal_comment_id="since"))
        go_on.set()
        told = await it.told(run_id)
        assert told.code is None
        proposal = await it.proposal()
        assert (proposal.selected, proposal.unresolved) == (("since",), ("since",))
        comment = await it.workspace.get(proposal_comments, "c")
        assert comment is not None
        assert (comment.status, comment.is_selected) == ("RESOLVED", False)
        shown = provider.asked[0].body["messages"][-1]["content"]
        assert "Comment on docs/b.md:\nWhy?" in shown
        assert shown.index("<<<<<< docs/b.md") < shown.index("<<<<<< a.md")


# -------------------------------------------------------------------------------------- providers


async def test_where_the_first_model_fails_the_second_one_answers(tmp_path: Path) -> None:
    broken = then(chunk({"content": "<<<<<< a.md\nNo"}), cut=True)
    async with iterating(
        tmp_path,
        broken,
        of_text(FILE),
        models=lambda provider: [provider.settings(), provider.settings(model="second")],
    ) as (it, provider):
        await it.propose()
        told = await it.iterated()
        assert told.code is None
        assert provider.models == ["first", "second"]
        tokens = [each for each in told.messages if isinstance(each, Token)]
        assert [each.message_id for each in tokens] == ["answer-1", "answer-2"]
        assert tokens[-1].content == FILE
        await it.settled()
        assert it.files()["a.md"] == "It is done.\n"


async def test_a_model_that_begins_anew_voids_what_it_said(tmp_path: Path) -> None:
    broken = then(chunk({"content": "<<<<<< a.md\nNo"}), cut=True)
    async with iterating(
        tmp_path,
        broken,
        of_text(FILE),
        models=lambda provider: [provider.settings(retry_limit=1)],
    ) as (it, _):
        await it.propose()
        told = await it.iterated()
        assert told.code is None
        said: dict[str, str] = {}
        for each in told.messages:
            if isinstance(each, Token):
                said[each.message_id] = said.get(each.message_id, "") + each.content
        assert said == {"answer-1": "<<<<<< a.md\nNo", "answer-1.2": FILE}
        await it.settled()
        assert it.files()["a.md"] == "It is done.\n"


async def test_where_all_models_fail_nothing_is_modified(tmp_path: Path) -> None:
    async with iterating(
        tmp_path,
        status(500, error={"message": "no"}),
        cuts,
        validate=PASSES,
        models=lambda provider: [provider.settings(), provider.settings(model="second")],
    ) as (it, provider):
        await it.propose()
        await it.remark()
        before = (await it.proposal()).verdict
        told = await it.iterated()
        assert told.code == "PROVIDERS_FAILED"
        assert provider.models == ["first", "second"]
        failed = told.run.checkpoint["providers"]
        assert [each["model"] for each in failed] == ["first", "second"]
        await nothing_was_done(it, told)
        proposal = await it.proposal()
        assert (proposal.selected, proposal.unresolved) == (("c",), ("c",))
        assert proposal.verdict == before


# ------------------------------------------------------------------------------ in the middle of it


class Stalling:
    """A model that begins to answer, and then says nothing until its client hangs up."""

    def __init__(self) -> None:
        self.begun = trio.Event()
        self.gone = trio.Event()

    async def __call__(self, wire: Wire) -> None:
        await wire.events()
        await wire.say(chunk({"content": FILE}))
        self.begun.set()
        await wire.stall()
        self.gone.set()


Ending = Callable[[Reviewed, str], Awaitable[None]]


async def cancelled(it: Reviewed, run_id: str) -> None:
    await it.by("author").send(CancelJob(proposal_id="p", job_id=run_id))


async def late(it: Reviewed, _run_id: str) -> None:
    it.clock.move(DEADLINE_S["iteration"])


@pytest.mark.parametrize("ending", [cancelled, late])
async def test_x_prj_3_a_model_that_stalls_is_hung_up_on(ending: Ending, tmp_path: Path) -> None:
    stalling = Stalling()
    async with iterating(tmp_path, stalling, validate=PASSES) as (it, _):
        await it.propose()
        await it.remark()
        run_id = await it.iterate()
        with fail_after(20):
            await stalling.begun.wait()
        began = trio.current_time()
        await ending(it, run_id)
        with fail_after(10):
            await stalling.gone.wait()
        told = await it.told(run_id)
        assert trio.current_time() - began < patient(1)
        is_cancelled = ending is cancelled
        assert told.kinds[-1] == ("iteration_cancelled" if is_cancelled else "iteration_error")
        assert told.code == (None if is_cancelled else "DEADLINE_EXCEEDED")
        await nothing_was_done(it, told)
        assert (await it.proposal()).selected == ("c",)


@pytest.mark.parametrize("limits", [SOON, AT_ONCE], ids=["drains", "just stops"])
async def test_the_servers_end_cancels_an_iteration(limits: Limits, tmp_path: Path) -> None:
    stalling, store = Stalling(), MemoryStore(WORLD)
    async with iterating(tmp_path, stalling, store=store, limits=limits) as (it, _):
        await it.propose()
        run_id = await it.iterate()
        with fail_after(20):
            await stalling.begun.wait()
    status = "cancelled" if limits is SOON else "running"
    assert await status_in(store, run_id) == status
    async with iterating(tmp_path, of_text(FILE), store=store) as (it, provider):
        told = await it.told(run_id)
        assert told.kinds[-1] == "iteration_cancelled"
        await nothing_was_done(it, told)
        assert provider.asked == []
        assert (await it.iterated()).code is None


@pytest.mark.parametrize("is_locked", [False, True])
async def test_an_iteration_whose_lock_is_taken_away_writes_nothing(
    is_locked: bool, tmp_path: Path
) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def waits(wire: Wire) -> None:
        begun.set()
        await go_on.wait()
        await of_text(FILE)(wire)

    async with iterating(tmp_path, waits, validate=PASSES) as (it, _):
        await it.propose()
        await it.remark()
        run_id = await it.iterate()
        with fail_after(10):
            await begun.wait()
        await it.by("admin").send(UnlockProject(force=True))
        if is_locked:
            await it.by("reviewer").send(LockProject())
        told = await it.told(run_id)
        assert told.kinds[-1] == "iteration_cancelled"
        go_on.set()
        if is_locked:
            lock = await it.lock()
            assert lock is not None
            assert lock.locked_by == "reviewer"
            await it.by("reviewer").send(UnlockProject())
        await nothing_was_done(it, told)
        comment = await it.workspace.get(proposal_comments, "c")
        assert comment is not None
        assert (comment.status, comment.is_selected) == ("OPEN", True)


async def test_while_an_iteration_is_under_way_its_proposal_stays_and_there_is_no_other(
    tmp_path: Path,
) -> None:
    stalling = Stalling()
    async with iterating(tmp_path, stalling, validate=PASSES) as (it, _):
        await it.propose("p")
        await it.propose("q")
        await it.iterate()
        with fail_after(20):
            await stalling.begun.wait()
        for asked in (it.iterate, it.validate):
            for proposal_id in ("p", "q"):
                with pytest.raises(Reject) as caught:
                    await asked("author", proposal_id)
                assert caught.value.code == "JOB_RUNNING"
        for command in (
            EditProposal(proposal_id="p", description="else"),
            DeleteProposal(proposal_id="p"),
        ):
            with pytest.raises(Reject) as caught:
                await it.by("author").send(command)
            assert caught.value.code == "JOB_RUNNING"
        await it.by("author").send(CancelJob(proposal_id="p"))
