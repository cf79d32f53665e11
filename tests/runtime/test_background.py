"""What leaves a block beside which something runs: its own exception as it is, and nothing lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial

import pytest
import trio

from dalsegno.runtime import RuntimeFailedError
from dalsegno.runtime._background import in_background
from tests._patience import fail_after, patient

PROGRAM = """
import sys, trio
from dalsegno.runtime import Runtime

class Odd(BaseException):
    pass

async def main():
    async with Runtime.open(sys.argv[1]) as rt:
        print("open", flush=True)
        match sys.argv[2]:
            case "exit": sys.exit(3)
            case "interrupt": raise KeyboardInterrupt
            case "odd": raise Odd
            case "wait": await trio.sleep_forever()

trio.run(main)
"""


class OddError(BaseException):
    pass


OWN = [
    SystemExit(3),
    KeyboardInterrupt(),
    OddError(),
    ValueError(),
    BaseExceptionGroup("", [OddError()]),
]


def failing(group: ExceptionGroup[Exception]) -> Exception:
    failure = RuntimeFailedError("a service failed")
    failure.__cause__ = group
    return failure


async def fail(error: BaseException, *, at: trio.Event | None = None) -> None:
    """Fail at once, or when the block is over."""
    try:
        if at is not None:
            await trio.sleep_forever()
    finally:
        raise error


@pytest.mark.parametrize("own", OWN, ids=repr)
async def test_what_the_block_raises_leaves_as_it_is(own: BaseException) -> None:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever it is
        async with in_background(trio.sleep_forever), in_background(trio.sleep_forever):
            raise own
    assert caught.value is own
    assert own.__context__ is None


async def test_a_failure_of_the_task_is_translated() -> None:
    with pytest.raises(RuntimeFailedError):
        async with in_background(partial(fail, ZeroDivisionError()), translate=failing):
            await trio.sleep_forever()


@pytest.mark.parametrize("own", OWN, ids=repr)
async def test_where_both_fail_nothing_is_lost(
    own: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of the runtime goes before the program's error, an exit before both."""
    task = partial(fail, ZeroDivisionError(), at=trio.Event())

    async def play() -> None:
        async with in_background(task, translate=failing):
            await trio.lowlevel.checkpoint()
            raise own

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        await play()
    first = caught.value
    if isinstance(own, Exception):
        assert isinstance(first, RuntimeFailedError)
        assert first.__context__ is own
    else:
        assert first is own
        assert isinstance(first.__context__, RuntimeFailedError)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert any("and beside it" in note for note in first.__notes__)


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
async def test_an_interrupt_that_hits_the_task_leaves_bare(interrupt: BaseException) -> None:
    task = partial(fail, interrupt)
    with pytest.raises(type(interrupt)) as caught:
        async with in_background(trio.sleep_forever), in_background(task, translate=failing):
            await trio.sleep_forever()
    assert caught.value is interrupt


async def test_an_interrupt_during_the_start_leaves_bare() -> None:
    async def interrupted(task_status: trio.TaskStatus[None]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with in_background(interrupted, starts=True, translate=failing):
            raise AssertionError("it has not begun")


async def test_a_cancelled_block_is_cancelled_and_no_more() -> None:
    with trio.move_on_after(0) as scope:
        async with in_background(trio.sleep_forever):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_what_a_cancelled_block_raises_is_not_lost() -> None:
    async def alone() -> None:
        with trio.CancelScope() as scope:
            async with in_background(trio.sleep_forever):
                scope.cancel()
                raise ValueError("mine")

    async def in_a_group() -> None:
        with trio.CancelScope() as scope:
            async with in_background(trio.sleep_forever), trio.open_nursery() as nursery:
                nursery.start_soon(fail, ValueError("mine"))
                nursery.start_soon(trio.sleep_forever)
                scope.cancel()

    with pytest.raises(ValueError, match="mine"):
        await alone()
    with pytest.raises(ExceptionGroup) as caught:
        await in_a_group()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


@pytest.mark.processes
async def test_a_programs_own_end_is_its_status(migrated: str) -> None:
    """A real Ctrl-C, too: the process dies of the signal, as Python's do."""
    expected = {"exit": 3, "interrupt": -signal.SIGINT, "odd": 1, "wait": -signal.SIGINT}
    ended: dict[str, tuple[int, str]] = {}

    def play(how: str) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, migrated, how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            if how == "wait":
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=patient(20))
            ended[how] = process.returncode, said

    with fail_after(60):
        async with trio.open_nursery() as nursery:
            for how in expected:
                nursery.start_soon(trio.to_thread.run_sync, play, how)
    assert {how: status for how, (status, _) in ended.items()} == expected
    assert not ended["exit"][1]
    for how in ("interrupt", "odd", "wait"):
        assert "ExceptionGroup" not in ended[how][1]
