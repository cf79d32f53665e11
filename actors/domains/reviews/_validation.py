"""Validations: the operator's command on a project's files, each line as it is written.

It runs once.  Only where it could not be started, or somebody else's signal killed it before it
had written a line, it is tried again; where this node died in the middle of it, it is not, for
nobody knows what it has done.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dalsegno.protocol import Reject
from dalsegno.protocol.runs import (
    AsProgram,
    Done,
    ProcessNotStartedError,
    Retry,
    Worker,
)

from ._job_commands import RecordValidation
from ._jobs import DEADLINE_S, ValidationTask
from ._settings import ENVIRONMENT
from ._words import VALIDATOR

if TYPE_CHECKING:
    from dalsegno.protocol import Channel
    from dalsegno.protocol.runs import Work

    from ._settings import ReviewSettings

LINE_BYTES_MAX = 4_000
"""Of a line; the rest of it is left out.  So each is one frame, and its number the frame's."""
LINES_MAX = 20_000
"""Lines of a validation …"""
OUTPUT_BYTES_MAX = 2 * 1024 * 1024
"""… and bytes; one that writes more is killed."""
ERRORS_MAX, ERROR_CHARS_MAX = 20, 400
"""What a summary has of the last lines on stderr."""

NOT_STARTED, KILLED = "VALIDATION_NOT_STARTED", "VALIDATION_KILLED"
_RETRY = Retry(attempts_max=3, first_s=0.2, max_s=2.0, on=frozenset({NOT_STARTED, KILLED}))


class _Saved(msgspec.Struct, frozen=True):
    """A checkpoint."""

    started: bool = False


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a command has said of files."""

    status: Literal["passed", "failed"]
    summary: dict[str, Any]


def validator(settings: ReviewSettings) -> Worker:
    """Return the worker that validates proposals."""

    async def validate(run: Work) -> Done:
        task = msgspec.convert(run.input, ValidationTask)
        if run.checkpoint is not None and msgspec.convert(run.checkpoint, _Saved).started:
            message = "the server ended in the middle of it"
            raise Reject("VALIDATION_INTERRUPTED", message)
        folder = await run.folder()
        await run.save({"started": True})
        try:
            verified = await verify(run, settings, task, folder, says=True)
        except Reject as error:
            if error.code in {NOT_STARTED, KILLED}:
                await run.save({"started": False})
            raise
        recorded = RecordValidation(
            proposal_id=task.proposal_id,
            run_id=run.id,
            status=verified.status,
            summary=verified.summary,
        )
        return Done(result=msgspec.to_builtins(verified), commands=[AsProgram(recorded)])

    return Worker(
        name=VALIDATOR,
        function=validate,
        kind="validation",
        deadline_s=DEADLINE_S["validation"],
        concurrency=1,
        retry=_RETRY,
        allow=frozenset(),
        rolls_up_s=0.1,
        folder=settings.root,
    )


async def verify(
    run: Work, settings: ReviewSettings, task: ValidationTask, folder: str, *, says: bool
) -> Verified:
    """Run the command once, and return what it says.

    Args:
        run: the run.
        settings: which command.
        task: of which proposal.
        folder: where it runs.
        says: whether the run says each line.

    Raises:
        Reject: ``VALIDATION_NOT_STARTED``, ``VALIDATION_KILLED``; ``VALIDATION_CRASHED``,
            ``VALIDATION_TIMEOUT``, ``VALIDATION_TOO_LONG``.

    """
    argv = settings.argv(task.proposal_id, task.name, task.folder)
    counted, errors = {"stdout": 0, "stderr": 0}, list[str]()
    try:
        async with run.lines(
            argv,
            cwd=folder,
            env=settings.env,
            inherits=ENVIRONMENT,
            timeout_s=settings.timeout_s,
            line_bytes_max=LINE_BYTES_MAX,
            output_bytes_max=OUTPUT_BYTES_MAX,
        ) as process:
            async for line in process:
                if sum(counted.values()) == LINES_MAX:
                    raise Reject("VALIDATION_TOO_LONG", f"it wrote more than {LINES_MAX} lines")
                counted[line.channel] += 1
                text = _one_frame(line.text)
                if line.channel == "stderr":
                    errors = [*errors[1 - ERRORS_MAX :], text[:ERROR_CHARS_MAX]]
                if says:
                    await say(
                        run, f"{text}\n", "output", line.channel, or_else="VALIDATION_TOO_LONG"
                    )
        ended = process.ended
    except ProcessNotStartedError as error:
        known = {"error": error.details.get("error")}
        raise Reject(NOT_STARTED, "the command could not be started", **known) from error
    match ended.by:
        case "timeout":
            raise Reject("VALIDATION_TIMEOUT", f"it took more than {settings.timeout_s:g} s")
        case "output":
            message = f"it wrote more than {OUTPUT_BYTES_MAX} bytes"
            raise Reject("VALIDATION_TOO_LONG", message)
    if ended.returncode < 0:
        code = "VALIDATION_CRASHED" if any(counted.values()) else KILLED
        raise Reject(code, f"it was killed by {_signal(-ended.returncode)}")
    summary = {
        "exit_code": ended.returncode,
        "stdout_lines": counted["stdout"],
        "stderr_lines": counted["stderr"],
        "errors": errors,
    }
    return Verified(status="failed" if ended.returncode else "passed", summary=summary)


async def say(
    run: Work, text: str, message_id: str, channel: Channel = "text", *, or_else: str
) -> None:
    """Say something, as `Work.say`; where that is more than is kept of a run, refuse it by a code.

    Raises:
        Reject: ``or_else``, and what `Work.say` raises.

    """
    try:
        await run.say(text, message_id=message_id, channel=channel)
    except Reject as error:
        if error.code != "RUN_OUTPUT_TOO_LONG":
            raise
        raise Reject(or_else, "it said more than is kept of a run") from error


def _one_frame(text: str) -> str:
    """Return a line as the log can have it, short enough for a frame with its end."""
    encoded = text.replace("\0", "\ufffd").encode("utf-8", "replace")
    return encoded[:LINE_BYTES_MAX].decode("utf-8", "ignore")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
