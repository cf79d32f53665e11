"""Iterations: a model revises a proposal's files, as its selected comments say.

The files are staged beside the project, and validated there once if anything validates; the end
that is committed says exactly which they are, and they take their places behind it.  Cancelled,
failed, or without the lock: nothing is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dalsegno.protocol import Reject
from dalsegno.protocol.providers import (
    ChatMessage,
    ProviderError,
    Restarted,
    TextDelta,
)
from dalsegno.protocol.runs import STAGED, AsProgram, Done, Retry, Worker

from ._answers import file_block, instructions, read_answer
from ._comments import Comment, proposal_comments
from ._job_commands import RecordIteration
from ._jobs import DEADLINE_S, IterationTask
from ._validation import say, verify
from ._words import ITERATOR

if TYPE_CHECKING:
    from dalsegno.protocol.runs import StageWriter, Work

    from ._settings import ReviewSettings

ANSWER_BYTES_MAX = 2 * 1024 * 1024
"""What is read of an answer; one that is longer is none."""
SHOWN_FILES_MAX = 50
"""Files that a model is shown …"""
SHOWN_BYTES_MAX = 512 * 1024
"""… and how long they are together."""
LOOKED_AT_MAX = 2_000
"""Files of a project among which those are, beside the ones that comments are about."""


def iterator(settings: ReviewSettings) -> Worker:
    """Return the worker that iterates on proposals."""

    async def iterate(run: Work) -> Done:
        task = msgspec.convert(run.input, IterationTask)
        async with run.stage() as stage:
            asked = await _request(run, stage, task)
            files = read_answer(await _answer(run, settings, asked))
            for path, text in files.items():
                await stage.write(_within(task.folder, path), text.encode())
            validation = await _validated(run, settings, task, stage)
            staged = await stage.finish()
        paths = tuple(each.path for each in staged.files)
        recorded = RecordIteration(
            proposal_id=task.proposal_id,
            run_id=run.id,
            files=paths,
            comment_ids=task.comment_ids,
            validation=validation,
        )
        result = {
            "files_modified": list(paths),
            "validation": validation,
            STAGED: msgspec.to_builtins(staged),
        }
        return Done(result=result, commands=[AsProgram(recorded)])

    return Worker(
        name=ITERATOR,
        function=iterate,
        kind="iteration",
        deadline_s=DEADLINE_S["iteration"],
        concurrency=1,
        retry=Retry(attempts_max=1),
        on_disconnect="cancel",
        allow=frozenset(),
        rolls_up_s=0.1,
        folder=settings.root,
    )


def _within(folder: str, path: str) -> str:
    """Return a path of an answer, which is within the proposal's folder.

    What a model says that is no text, such as a NUL, stands there as U+FFFD, and is in no path.

    Raises:
        Reject: ``PATH_FORBIDDEN``.

    """
    if "\ufffd" in path:
        message = "a path has what is no text"
        raise Reject("PATH_FORBIDDEN", message, status=400, path=path[:200])
    if not _is_within(folder, path):
        message = "a file outside of the proposal's folder"
        raise Reject("PATH_FORBIDDEN", message, status=400, path=path[:200])
    return path


def _is_within(folder: str, path: str) -> bool:
    return not folder or path.startswith(f"{folder}/")


# ---------------------------------------------------------------------------------- the request


async def _request(run: Work, stage: StageWriter, task: IterationTask) -> list[ChatMessage]:
    comments: list[Comment] = []
    for comment_id in task.comment_ids:
        comment: Comment | None = await run.get(proposal_comments, comment_id)
        if comment is not None:
            comments.append(comment)
    parts = [f"Proposal: {task.name}", task.description]
    if task.instructions:
        parts.append(f"Instructions:\n{task.instructions}")
    parts += [_shown(each) for each in comments]
    wanted = [each.target_file for each in comments]
    parts += await _files(stage, task.folder, wanted)
    text = "\n\n".join(each for each in parts if each)
    return [ChatMessage("system", instructions()), ChatMessage("user", text)]


def _shown(comment: Comment) -> str:
    at = "" if comment.line_number is None else f", line {comment.line_number}"
    said = [comment.comment_text, *(each.text for each in comment.replies)]
    return "\n".join([f"Comment on {comment.target_file}{at}:", *said])


async def _files(stage: StageWriter, folder: str, wanted: list[str]) -> list[str]:
    """Return the files that a model is shown: those that comments are about before the others."""
    there = await stage.paths(LOOKED_AT_MAX)
    first = {each: None for each in wanted if _is_within(folder, each)}
    own = [each for each in there if _is_within(folder, each)]
    shown: list[str] = []
    left = SHOWN_BYTES_MAX
    for path in [*first, *(each for each in own if each not in first)]:
        if len(shown) == SHOWN_FILES_MAX or left <= 0:
            break
        text = await _text(stage, path, left)
        if text is None:
            continue
        left -= len(text.encode())
        shown.append(file_block(path, text))
    return shown


async def _text(stage: StageWriter, path: str, bytes_max: int) -> str | None:
    """Return a file's text; None for one that is too long, or has none, or is no file."""
    try:
        data = await stage.read(path, bytes_max=bytes_max)
    except Reject as error:
        if error.code not in {"FILES_TOO_LARGE", "PATH_FORBIDDEN"}:
            raise
        return None
    if data is None or b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


# ----------------------------------------------------------------------------------- the answer


async def _answer(run: Work, settings: ReviewSettings, asked: list[ChatMessage]) -> str:
    """Ask one provider after the other, say what comes back as it comes, and return all of it.

    Raises:
        Reject: ``PROVIDERS_FAILED``; each of them is in the checkpoint, with why.
            ``ANSWER_TOO_LONG``.

    """
    failed: list[dict[str, Any]] = []
    for number, model in enumerate(settings.models, start=1):
        message_id, parts, size = f"answer-{number}", list[str](), 0
        try:
            async with run.chat(model, asked) as stream:
                async for part in stream:
                    match part:
                        case TextDelta(text):
                            size += len(text.encode())
                            if size > ANSWER_BYTES_MAX:
                                message = f"the answer has more than {ANSWER_BYTES_MAX} bytes"
                                raise Reject("ANSWER_TOO_LONG", message)
                            parts.append(text)
                            await say(run, text, message_id, or_else="ANSWER_TOO_LONG")
                        case Restarted(attempt):  # what was said is void
                            message_id, parts, size = f"answer-{number}.{attempt}", [], 0
        except ProviderError as error:
            failed.append({"code": error.code, **error.details})
            continue
        return "".join(parts)
    await run.save({"providers": failed})
    raise Reject("PROVIDERS_FAILED", "no provider has answered")


async def _validated(
    run: Work, settings: ReviewSettings, task: IterationTask, stage: StageWriter
) -> dict[str, Any]:
    """Return what the command says of the files as they would be; nothing where there is none."""
    if not settings.validate:
        return {}
    async with stage.tried() as folder:
        try:
            verified = await verify(run, settings, task, folder, says=False)
        except Reject as error:
            return {"status": "error", "summary": {"code": error.code, "error": error.message}}
    found: dict[str, Any] = msgspec.to_builtins(verified)
    return found
