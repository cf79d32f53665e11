"""Processes: their lines, their bounds, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from dalsegno.actors.ports import Ended, Line, ProcessNotStartedError
from dalsegno.runtime.processes import Processes
from tests._patience import fail_after, until
from tests._pids import is_alive

pytestmark = pytest.mark.processes


async def all_of(argv: list[str], **more: Any) -> tuple[list[Line], Ended]:
    with fail_after(20):
        async with Processes().start(argv, **more) as process:
            lines = [line async for line in process]
            return lines, process.ended


async def sh(script: str, **more: Any) -> tuple[list[Line], Ended]:
    return await all_of(["sh", "-c", script], **more)


def descriptors() -> int:
    """How many this process has, where the system tells."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def test_the_lines_of_both_channels_in_their_order_and_the_status() -> None:
    lines, ended = await sh("echo one; echo two; echo three >&2; echo four >&2; exit 3")
    assert [line.text for line in lines if line.channel == "stdout"] == ["one", "two"]
    assert [line.text for line in lines if line.channel == "stderr"] == ["three", "four"]
    assert ended == Ended(3, "itself")
    assert await sh("true") == ([], Ended(0, "itself"))


async def test_a_last_line_without_an_end_empty_ones_and_no_text() -> None:
    lines, _ = await sh(r"printf '\n\nlast\r\n\377\303\244'")
    assert [line.text for line in lines] == ["", "", "last", "\ufffdä"]


async def test_a_signal_is_its_number_negated() -> None:
    _, ended = await sh("kill -TERM $$")
    assert ended == Ended(-signal.SIGTERM, "itself")


async def test_it_has_nothing_to_read_a_folder_and_an_environment(tmp_path: Path) -> None:
    lines, _ = await sh("cat; pwd -P; echo $GREETING", cwd=tmp_path, env={"GREETING": "hi", **PATH})
    assert [line.text for line in lines] == [str(tmp_path), "hi"]
    lines, _ = await all_of(["echo", "$HOME; rm -rf *", "-n"])
    assert lines == [Line("stdout", "$HOME; rm -rf * -n")]


PATH = {"PATH": os.environ["PATH"]}


@pytest.mark.parametrize(
    ("argv", "more", "error"),
    [
        (["dalsegno-has-no-such-command"], {}, "ENOENT"),
        (["/"], {}, "EACCES"),
        (["true"], {"cwd": "/no/such/folder"}, "ENOENT"),
        (["true"], {"env": {"PATH": "/nowhere"}}, "ENOENT"),
        (["a\0b"], {}, "EINVAL"),
    ],
)
async def test_what_cannot_be_started(argv: list[str], more: dict[str, Any], error: str) -> None:
    with pytest.raises(ProcessNotStartedError) as raised:
        await all_of(argv, **more)
    assert raised.value.code == "PROCESS_NOT_STARTED"
    assert raised.value.details["error"] == error


async def test_a_line_that_is_too_long_is_cut() -> None:
    lines, _ = await sh("printf 123456789; echo; echo 1234; echo 12345", line_bytes_max=4)
    assert lines == [
        Line("stdout", "1234", is_cut=True),
        Line("stdout", "1234"),
        Line("stdout", "1234", is_cut=True),
    ]


async def test_one_that_writes_without_an_end_of_line_is_one_line_and_no_more_memory() -> None:
    lines, ended = await sh("head -c 5000000 /dev/zero | tr '\\0' x", line_bytes_max=1_000)
    assert [(len(line.text), line.is_cut) for line in lines] == [(1_000, True)]
    assert ended == Ended(0, "itself")


async def test_one_that_writes_too_much_is_killed() -> None:
    lines, ended = await sh("yes", output_bytes_max=100_000)
    assert ended == Ended(-signal.SIGKILL, "output")
    assert 0 < len(lines) <= 50_000


async def test_one_that_takes_too_long_is_told_to_end_and_then_killed() -> None:
    lines, ended = await sh(
        "exec 2>&-; trap 'echo bye; exit 7' TERM; while :; do sleep 0.1; done", timeout_s=0.3
    )
    assert (lines, ended) == ([Line("stdout", "bye")], Ended(7, "timeout"))
    _, ended = await sh("trap '' TERM; while :; do sleep 0.1; done", timeout_s=0.2)
    assert ended == Ended(-signal.SIGKILL, "timeout")


async def test_one_whose_lines_nobody_takes_waits_and_is_killed_with_the_block() -> None:
    with fail_after(20):
        async with Processes().start(["sh", "-c", "echo $$; yes"]) as process:
            pid = int((await process.__anext__()).text)
            await trio.sleep(0.3)
            assert is_alive(pid)
        await until(lambda: not is_alive(pid))


@pytest.mark.parametrize("how", ["ends", "is killed", "is cancelled"])
async def test_what_it_has_started_goes_with_it(how: str) -> None:
    """Its group, in the background too, whatever ended it."""
    script = "sleep 1000 & echo $!; (sleep 1000 & echo $!; wait) &\nsleep 0.3; "
    script += "exit 0" if how == "ends" else "wait"
    pids: list[int] = []
    with trio.move_on_after(20) as scope:
        async with Processes().start(["sh", "-c", script]) as process:
            async for line in process:
                pids.append(int(line.text))
                if len(pids) == 2 and how == "is killed":
                    break
                if len(pids) == 2 and how == "is cancelled":
                    scope.cancel()
    assert len(pids) == 2
    await until(lambda: not any(map(is_alive, pids)))


async def test_many_at_a_time() -> None:
    await all_of(["true"])  # what is opened once
    seen, before = list[str](), descriptors()

    async def one(number: int) -> None:
        lines, ended = await all_of(["echo", str(number)])
        assert ended == Ended(0)
        seen.extend(line.text for line in lines)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    assert sorted(map(int, seen)) == list(range(20))
    assert descriptors() <= before


_SERVER = """
import sys, trio
from dalsegno.runtime.processes import Processes

async def main():
    script = "trap '' TERM HUP; sleep 1000 & echo $$ $!; wait"
    async with Processes().start(["sh", "-c", script]) as p:
        sys.stdout.write((await p.__anext__()).text + "\\n")
        sys.stdout.flush()
        await trio.sleep(float(sys.argv[1]))
        sys.stdout.write("still\\n")
        sys.stdout.flush()
        await trio.sleep_forever()

trio.run(main)
"""


async def test_nothing_is_left_of_it_when_the_server_is_killed() -> None:
    server = await trio.lowlevel.open_process(
        [sys.executable, "-c", _SERVER, "1000"], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        with fail_after(20):
            text = b""
            while not text.endswith(b"\n"):
                text += await server.stdout.receive_some()
        pids = [int(each) for each in text.split()]
        assert all(map(is_alive, pids))
    finally:
        server.kill()
        await server.wait()
        await server.stdout.aclose()
    await until(lambda: not any(map(is_alive, pids)))


@pytest.mark.soak
async def test_it_outlives_the_threads_of_the_server() -> None:
    """A signal on the death of its parent would come with that of an idle worker thread."""
    server = await trio.lowlevel.open_process(
        [sys.executable, "-c", _SERVER, "30"], stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        with fail_after(60):
            text = b""
            while text.count(b"\n") < 2:
                text += await server.stdout.receive_some()
        pids = [int(each) for each in text.split()[:2]]
        assert all(map(is_alive, pids))
    finally:
        server.kill()
        await server.wait()
        await server.stdout.aclose()
    await until(lambda: not any(map(is_alive, pids)))
