"""Folders of workspaces on a disk: what is staged, what is refused, what a full disk leaves."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import trio

from dalsegno.protocol import FolderError, Reject
from dalsegno.protocol.runs import Staged, StagedFile, StageWriter
from dalsegno.runtime.disk import RealDisk
from dalsegno.runtime.folders import LocalFolders
from dalsegno.runtime.folders._copying import loosen, removed
from dalsegno.runtime.folders._descriptors import Calls

NAME = "acme!r!a"
MIB = 1024 * 1024


class Failing(Calls):
    """Fails as a full disk does, from a call on, until it is told not to."""

    def __init__(self, call: str, *, after: int = 0) -> None:
        self.call = call
        self.left = after
        self.error = errno.ENOSPC

    def _count(self, call: str) -> None:
        if call == self.call:
            self.left -= 1
            if self.left < 0:
                raise OSError(self.error, os.strerror(self.error))

    def make_folder(self, name: str, at: int, mode: int) -> None:
        self._count("make_folder")
        super().make_folder(name, at, mode)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._count("write")
        return super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        self._count("sync")
        super().sync(descriptor)

    def rename(self, name: str, at: int, to: int) -> None:
        self._count("rename")
        super().rename(name, at, to)


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def stages(root: Path) -> list[str]:
    return sorted(set(os.listdir(root / ".staging")) - {".locks"})


async def staged(folders: LocalFolders, root: Path, files: dict[str, bytes]) -> Staged:
    async with folders.stage(str(root), "acme", NAME) as stage:
        for path, data in files.items():
            await stage.write(path, data)
        return await stage.finish()


async def place(folders: LocalFolders, root: Path, what: Staged) -> None:
    async with folders.settling(str(root), "acme"):
        await folders.place(str(root), "acme", what)


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(Reject) as caught:
        yield
    assert (caught.value.code, caught.value.status) == (code, 400)


@contextmanager
def failed(code: str) -> Iterator[None]:
    with pytest.raises(FolderError) as caught:
        yield
    assert caught.value.details == {"errno": code}
    assert "/" not in caught.value.message


# ------------------------------------------------------------------------------------- placing


async def test_what_is_staged_is_in_place_once_it_is_placed(tmp_path: Path) -> None:
    folders, root = LocalFolders(), tmp_path / "projects"
    own = Path(await folders.folder(str(root), "acme"))
    assert own == root / "acme"
    (own / "run.sh").write_bytes(b"old")
    (own / "run.sh").chmod(0o755)
    (own / "kept").write_bytes(b"kept")
    files = {"run.sh": b"new", "deep/er/x.py": os.urandom(MIB), "empty": b""}
    what = await staged(folders, root, files)
    assert what == Staged(
        name=NAME,
        files=tuple(
            StagedFile(path=path, bytes=len(data), sha256=sha256(data).hexdigest())
            for path, data in files.items()
        ),
    )
    assert tree(own) == {"run.sh": b"old", "kept": b"kept"}
    assert stages(root) == [NAME]
    await place(folders, root, what)
    assert tree(own) == {**files, "kept": b"kept"}
    assert (own / "run.sh").stat().st_mode & 0o777 == 0o755, "it keeps its permissions"
    assert stages(root) == []


async def test_what_is_not_finished_leaves_nothing(tmp_path: Path) -> None:
    folders = LocalFolders()
    async with folders.stage(str(tmp_path), "acme", NAME) as stage:
        await stage.write("a", b"x")
        assert stages(tmp_path) == [NAME]
    assert stages(tmp_path) == []
    with trio.CancelScope() as scope:
        async with folders.stage(str(tmp_path), "acme", NAME) as stage:
            await stage.write("a", b"x")
            scope.cancel()
            await trio.sleep_forever()
    assert stages(tmp_path) == []
    assert tree(tmp_path / "acme") == {}


@pytest.mark.parametrize("done", [0, 1, 2, 3])
async def test_who_goes_on_after_some_were_renamed_finishes(tmp_path: Path, done: int) -> None:
    calls = Failing("rename", after=done)
    folders = LocalFolders(calls=calls)
    files = {"a": b"1", "b/c": b"2", "b/d/e": b"3"}
    what = await staged(folders, tmp_path, files)
    if done < 3:
        with failed("ENOSPC"):
            await place(folders, tmp_path, what)
        assert len(tree(tmp_path / "acme")) == done
        assert stages(tmp_path) == [NAME]
    await place(LocalFolders(), tmp_path, what)
    assert tree(tmp_path / "acme") == files
    assert stages(tmp_path) == []


async def test_a_file_that_was_in_place_and_is_gone_does_not_come_back(tmp_path: Path) -> None:
    """Its stage was there still: who put it in place died before deleting it."""
    what = await staged(LocalFolders(), tmp_path, {"a/b": b"1", "c": b"2"})
    with failed("ENOSPC"):
        await place(LocalFolders(calls=Failing("rename", after=1)), tmp_path, what)
    removed(str(tmp_path / "acme" / "a"))
    await place(LocalFolders(), tmp_path, what)
    assert tree(tmp_path / "acme") == {"c": b"2"}


async def test_what_is_not_what_the_log_says_is_not_put_in_place(tmp_path: Path) -> None:
    folders = LocalFolders()
    what = await staged(folders, tmp_path, {"a": b"1", "b": b"2"})
    other = Staged(name=NAME, files=what.files[:1])
    with pytest.raises(FolderError, match="not the one that the log names"):
        await place(folders, tmp_path, other)
    (tmp_path / ".staging" / NAME / "files" / "b").write_bytes(b"3")
    with pytest.raises(FolderError, match="not what was staged"):
        await place(folders, tmp_path, what)
    (tmp_path / ".staging" / NAME / "manifest.json").unlink()
    with pytest.raises(FolderError, match="not the one that the log names"):
        await place(folders, tmp_path, what)
    assert tree(tmp_path / "acme") == {}


async def test_what_was_changed_after_it_was_staged_is_not_finished(tmp_path: Path) -> None:
    """By a command that is tried, say: the run fails, and holds up no other one."""
    files = tmp_path / ".staging" / NAME / "files"
    async with LocalFolders().stage(str(tmp_path), "acme", NAME) as stage:
        await stage.write("a", b"1")
        await stage.write("b", b"2")
        (files / "a").write_bytes(b"3")
        with pytest.raises(FolderError, match="not what was staged"):
            await stage.finish()
        (files / "a").unlink()
        with pytest.raises(FolderError, match="there no longer"):
            await stage.finish()
    assert stages(tmp_path) == []


async def test_a_link_that_came_meanwhile_is_replaced_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"theirs")
    root = tmp_path / "projects"
    folders = LocalFolders()
    what = await staged(folders, root, {"a": b"1", "b/x": b"2"})
    own = root / "acme"
    (own / "a").symlink_to(outside / "x")
    (own / "b").symlink_to(outside)
    with pytest.raises(FolderError, match="a link or a file is where a folder may be"):
        await place(folders, root, what)
    assert not (own / "a").is_symlink()
    assert stages(root) == [NAME]
    assert tree(outside) == {"x": b"theirs"}
    (own / "b").unlink()
    await place(folders, root, what)
    assert tree(own) == {"a": b"1", "b/x": b"2"}
    assert tree(outside) == {"x": b"theirs"}


async def test_one_at_a_time_puts_files_into_a_folder(tmp_path: Path) -> None:
    """In this process and in others."""
    one, other = LocalFolders(), LocalFolders()
    await one.folder(str(tmp_path), "acme")
    inside: list[str] = []

    async def enter(folders: LocalFolders, workspace_id: str) -> None:
        async with folders.settling(str(tmp_path), workspace_id):
            assert workspace_id not in inside
            inside.append(workspace_id)
            await trio.sleep(0.001)
            inside.remove(workspace_id)

    async with trio.open_nursery() as nursery, one.settling(str(tmp_path), "acme"):
        inside.append("acme")
        for folders in (one, other, one):
            nursery.start_soon(enter, folders, "acme")
        await enter(other, "beta")
        inside.remove("acme")


async def test_others_are_waited_for_ten_seconds(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    await LocalFolders().folder(str(tmp_path), "acme")
    async with LocalFolders().settling(str(tmp_path), "acme"):
        began = trio.current_time()
        with pytest.raises(FolderError, match="somebody else"):
            async with LocalFolders().settling(str(tmp_path), "acme"):
                raise AssertionError("it is locked")
        assert trio.current_time() - began >= 10


# -------------------------------------------------------------------------------------- refusals


def _link(own: Path, outside: Path) -> str:
    (own / "a").symlink_to(outside / "x")
    return "a"


def _dangling(own: Path, outside: Path) -> str:
    (own / "a").symlink_to(outside / "nothing")
    return "a"


def _link_above(own: Path, outside: Path) -> str:
    (own / "a").symlink_to(outside)
    return "a/x"


def _link_inside(own: Path, _outside: Path) -> str:
    (own / "real").mkdir()
    (own / "a").symlink_to("real")
    return "a/b/x"


def _fifo(own: Path, _outside: Path) -> str:
    os.mkfifo(own / "a")
    return "a"


def _fifo_above(own: Path, _outside: Path) -> str:
    os.mkfifo(own / "a")
    return "a/x"


def _socket(own: Path, _outside: Path) -> str:
    here = os.getcwd()
    os.chdir(own)  # an address is short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind("a")
    finally:
        os.chdir(here)
    return "a"


def _folder(own: Path, _outside: Path) -> str:
    (own / "a").mkdir()
    return "a"


def _file_above(own: Path, _outside: Path) -> str:
    (own / "a").write_bytes(b"x")
    return "a/x"


IN_THE_WAY: list[Callable[[Path, Path], str]] = [
    *(_link, _dangling, _link_above, _link_inside),
    *(_fifo, _fifo_above, _socket, _folder, _file_above),
]


@pytest.mark.parametrize("made", IN_THE_WAY)
async def test_what_is_no_file_is_neither_read_nor_replaced(
    tmp_path: Path, made: Callable[[Path, Path], str]
) -> None:
    root, outside = tmp_path / "projects", tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"theirs")
    folders = LocalFolders()
    path = made(Path(await folders.folder(str(root), "acme")), outside)
    async with folders.stage(str(root), "acme", NAME) as stage:
        with refused("PATH_FORBIDDEN"):
            await stage.write(path, b"x")
        with refused("PATH_FORBIDDEN"):
            await stage.read(path)
        await stage.write("other", b"x")
        assert len((await stage.finish()).files) == 1
    assert tree(outside) == {"x": b"theirs"}


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a/../../x", "a\x00", "", ".", "a//b", "\ud800", ".staging/x", "é" * 128]
)
async def test_no_other_file_can_be_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "x").write_bytes(b"theirs")
    folders = LocalFolders()
    async with folders.stage(str(tmp_path), "acme", NAME) as stage:
        with refused("PATH_FORBIDDEN"):
            await stage.write(path, b"")
        with refused("PATH_FORBIDDEN"):
            await stage.read(path)


@pytest.mark.parametrize("workspace_id", [".", "..", ".staging"])
async def test_a_workspace_whose_id_leads_elsewhere_has_no_folder(
    tmp_path: Path, workspace_id: str
) -> None:
    with refused("PATH_FORBIDDEN"):
        await LocalFolders().folder(str(tmp_path), workspace_id)


async def test_a_workspaces_folder_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "acme").symlink_to("elsewhere")
    with pytest.raises(FolderError, match="a link"):
        await LocalFolders().folder(str(tmp_path), "acme")


async def in_a_stage(root: Path, act: Callable[[StageWriter], Awaitable[None]]) -> None:
    async with LocalFolders().stage(str(root), "acme", NAME) as stage:
        await act(stage)


@pytest.mark.parametrize(
    ("first", "second"), [("a", "a"), ("a/b", "a"), ("a", "a/b"), ("a/b/c", "a/b"), ("a", "a/b/c")]
)
async def test_a_path_is_staged_once_and_is_no_folder_too(
    tmp_path: Path, first: str, second: str
) -> None:
    async def act(stage: StageWriter) -> None:
        await stage.write(first, b"1")
        with refused("FILE_TWICE"):
            await stage.write(second, b"2")

    await in_a_stage(tmp_path, act)


async def test_files_and_their_bytes_are_bounded(tmp_path: Path) -> None:
    async def few(stage: StageWriter) -> None:
        with refused("FILES_TOO_LARGE"):
            await stage.write("one", bytes(4 * MIB + 1))
        for number in range(4):
            await stage.write(f"{number}", bytes(4 * MIB))
        with refused("FILES_TOO_LARGE"):
            await stage.write("more", b"x")
        await stage.write("empty", b"")

    async def many(stage: StageWriter) -> None:
        for number in range(200):
            await stage.write(f"{number}", b"")
        with refused("FILES_TOO_LARGE"):
            await stage.write("more", b"")
        assert len((await stage.finish()).files) == 200

    await in_a_stage(tmp_path, few)
    await in_a_stage(tmp_path, many)


@pytest.mark.parametrize("call", ["write", "sync", "make_folder"])
async def test_a_full_disk_says_so_and_what_it_refused_may_be_staged_again(
    tmp_path: Path, call: str
) -> None:
    calls = Failing("")
    folders = LocalFolders(calls=calls)
    async with folders.stage(str(tmp_path), "acme", NAME) as stage:
        await stage.write("first", b"1")
        calls.call = call
        with failed("ENOSPC"):
            await stage.write("deep/a", b"x")
        calls.call = ""
        await stage.write("deep/a", b"2")
        calls.call = "sync"
        with failed("ENOSPC"):
            await stage.finish()
        calls.call = ""
        what = await stage.finish()
    await place(folders, tmp_path, what)
    assert tree(tmp_path / "acme") == {"first": b"1", "deep/a": b"2"}


class HangingDisk(RealDisk):
    """Does not answer until it is let go."""

    def __init__(self) -> None:
        self.is_asked = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._go_on = trio.Event()

    def let_go(self) -> None:
        self._go_on.set()

    def names(self, path: Path) -> list[str]:
        self._token.run_sync_soon(self.is_asked.set)
        trio.from_thread.run(self._go_on.wait, trio_token=self._token)
        return super().names(path)


async def test_a_disk_that_hangs_holds_up_nothing_else(tmp_path: Path) -> None:
    disk = HangingDisk()
    folders = LocalFolders(disk=disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(folders.names, str(tmp_path))
        await disk.is_asked.wait()
        await folders.folder(str(tmp_path), "acme")
        disk.let_go()


# --------------------------------------------------------------------------- reading and trying


async def test_the_folder_is_read_as_it_is(tmp_path: Path) -> None:
    folders = LocalFolders()
    own = Path(await folders.folder(str(tmp_path), "acme"))
    for path in ("b", "a/y", "a-b", "a/x/z", "a.b", ".hidden/f", "bad\nname", "bad\\name"):
        (own / path).parent.mkdir(parents=True, exist_ok=True)
        (own / path).write_bytes(path.encode())
    (own / "link").symlink_to("b")
    (own / "folder").symlink_to("a")
    os.mkfifo(own / "fifo")
    async with folders.stage(str(tmp_path), "acme", NAME) as stage:
        await stage.write("b", b"staged")
        await stage.write("new", b"staged")
        paths = [".hidden/f", "a-b", "a.b", "a/x/z", "a/y", "b"]
        assert await stage.paths() == paths == sorted(paths)
        assert await stage.paths(limit=2) == paths[:2]
        assert await stage.read("b") == b"b"
        assert await stage.read("new") is None
        assert await stage.read("no/such") is None
        assert await stage.read("a/x/z", bytes_max=5) == b"a/x/z"
        with refused("FILES_TOO_LARGE"):
            await stage.read("a/x/z", bytes_max=4)


async def test_a_copy_is_tried_on_and_the_folder_stays_as_it_is(tmp_path: Path) -> None:
    folders = LocalFolders()
    own = Path(await folders.folder(str(tmp_path), "acme"))
    (own / "deep").mkdir()
    (own / "deep" / "a").write_bytes(b"1")
    (own / "b").write_bytes(b"2")
    (own / "b").chmod(0o555)
    (own / "out").symlink_to(own / "b")
    (own / "empty").mkdir()
    before = tree(own)
    async with folders.stage(str(tmp_path), "acme", NAME) as stage:
        await stage.write("deep/a", b"staged")
        await stage.write("new/x", b"staged")
        async with stage.tried() as path:
            copy = Path(path)
            assert tree(copy) == {"deep/a": b"staged", "b": b"2", "new/x": b"staged"}
            assert (copy / "b").stat().st_mode & 0o777 == 0o755
            assert (copy / "empty").is_dir()
            assert "out" not in os.listdir(copy)
            for each in ("deep/a", "b", "new/x"):
                (copy / each).write_bytes(b"changed")
            (copy / "evil").symlink_to(own)
        assert os.listdir(tmp_path / ".staging" / NAME) == ["files"]
        async with stage.tried() as path:
            assert tree(Path(path))["new/x"] == b"staged", "what is staged is not changed either"
        what = await stage.finish()
    assert tree(own) == before
    await place(folders, tmp_path, what)
    assert tree(own) == {"deep/a": b"staged", "b": b"2", "new/x": b"staged"}


async def test_a_copy_is_bounded(tmp_path: Path) -> None:
    folders = LocalFolders()
    own = Path(await folders.folder(str(tmp_path), "acme"))
    with (own / "sparse").open("wb") as file:
        file.truncate(256 * MIB + 1)
    async with folders.stage(str(tmp_path), "acme", NAME) as stage:
        with refused("FILES_TOO_LARGE"):
            async with stage.tried():
                raise AssertionError("it is too large")
        assert os.listdir(tmp_path / ".staging" / NAME) == ["files"]
        (own / "sparse").write_bytes(b"")
        for number in range(20_000):
            os.link(own / "sparse", own / f"{number}")
        with refused("FILES_TOO_LARGE"):
            await stage.paths()
        with refused("FILES_TOO_LARGE"):
            async with stage.tried():
                raise AssertionError("it has too many files")


def test_what_a_command_has_locked_up_is_loosened(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "x").write_bytes(b"x")
    (tmp_path / "a" / "link").symlink_to("/")
    for each in (folder, tmp_path / "a"):
        each.chmod(0o500)
    mode = os.stat("/").st_mode
    loosen(str(tmp_path / "a"))
    assert (folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert os.stat("/").st_mode == mode
    removed(str(tmp_path / "a"))
    removed(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []
