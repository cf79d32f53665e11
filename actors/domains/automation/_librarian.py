"""The librarian: a run that shows a model notes, and records what it proposes.

    ingest ─► plan ─► propose ─► validate

What the model answers is streamed as it comes, and read when it is whole.  One that cannot be read
is given back to it, with what is wrong, twice at most.  The rest of the seed's pipeline, to apply
and to index, is a review's (`_reviewer`) and the notes' own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from dalsegno.actors.domains.notes import LIVE, RULE_LABEL, Note, notes
from dalsegno.protocol import BEGINNING, Reject
from dalsegno.protocol.providers import (
    Answered,
    ChatMessage,
    ProviderError,
    ProviderSettings,
    ProviderSettingsError,
    ReasoningDelta,
    Restarted,
    TextDelta,
    read_provider_settings,
)
from dalsegno.protocol.runs import AsProgram, Done

from ._actions import LIBRARIAN_STRUCTURE
from .librarian import (
    PACK_VERSION,
    PROTOCOL,
    Guarded,
    LibrarianResponse,
    ParseDiagnostic,
    ParseError,
    PlanError,
    ProposedOperation,
    RecordReport,
    Source,
    StructuringPlan,
    guard,
    instructions,
    prompt_hash,
    read_response,
    repair_instructions,
    repair_text,
    request_text,
)

if TYPE_CHECKING:
    from dalsegno.protocol.runs import Work

    from ._runs import Task

SOURCES_MAX = 50
"""Notes that a model is shown …"""
SOURCES_BYTES_MAX = 512 * 1024
"""… and how long their texts are together."""
REPAIRS_MAX = 2
"""How often a model may mend its answer (KJ §1.5.5)."""
ANSWER_BYTES_MAX = 512 * 1024
"""What is read of an answer; one that is longer is none."""
RAW_BYTES_MAX = 64 * 1024
"""What a report keeps of the request, and of each answer; all of an answer is in the run's output.
"""
LOOKED_AT_MAX = 200
"""Notes that are looked at for those: some may be too long for what is left."""
SOURCES_LEFT_OUT = "SOURCES_LEFT_OUT"
"""The warning where there are more notes than the model was shown."""
_PAGE = 20
"""Notes that are read at once."""


class _Ingested(msgspec.Struct, frozen=True):
    """The notes that a model is shown."""

    sources: tuple[Source, ...]
    versions: dict[str, int]
    """Of each of them, as it is shown."""
    is_cut: bool
    """Whether there are more."""


async def structure(run: Work, task: Task) -> Done:
    """Ask a model for a proposal, and record it.

    Raises:
        Reject: ``RULE_ACTION_INVALID``, ``RULE_ACTION_FAILED``.
        ParseError: a model answers, and not as it should.
        ProviderError: no model answers.

    """
    try:
        settings = read_provider_settings(task.action.get("provider"))
        plan = StructuringPlan.of(task.action.get("plan"), run.workspace_id)
    except (ProviderSettingsError, PlanError) as error:
        raise Reject("RULE_ACTION_INVALID", str(error)) from error
    ingested = await _ingest(run, plan, task.note_id)
    talk = _Talk(run, settings, request_text(run.id, plan, ingested.sources))
    try:
        response = await talk.response()
    except (ParseError, ProviderError):
        if talk.outputs:  # so that people see what was answered
            await run.send(AsProgram(_failed_report(run, talk)))
        raise
    guarded = guard(
        response.operations,
        plan,
        workspace_id=run.workspace_id,
        note_ids=ingested.versions.keys(),
    )
    cut = (SOURCES_LEFT_OUT,) if ingested.is_cut else ()
    warnings = (*cut, *response.warnings, *guarded.warnings)
    report = _report(run, talk, response, warnings, guarded.rejected, ingested.versions)
    return Done(result=_result(talk, response, report), commands=[AsProgram(report)])


# ---------------------------------------------------------------------------------------- ingest


async def _ingest(run: Work, plan: StructuringPlan, note_id: str | None) -> _Ingested:
    """Return the notes of a plan's scope, the one that set the rule off first.

    Raises:
        Reject: ``RULE_ACTION_FAILED`` where the plan is about one note, which is gone.

    """
    gathered = _Gathering()
    if plan.note_id is not None:
        note = await _live(run, plan.note_id)
        if note is None or not gathered.add(plan.note_id, note):
            raise Reject("RULE_ACTION_FAILED", "the note is gone, or too long")
        return gathered.done()
    first = None if note_id is None else await _live(run, note_id)
    if note_id is not None and first is not None:
        gathered.add(note_id, first)
    place, looked_at = BEGINNING, 0
    while not gathered.is_full and looked_at < LOOKED_AT_MAX:
        page = await run.snapshot(notes, key=LIVE, after=place, limit=_PAGE)
        for item in page.items:
            if item.entity_id != note_id:
                gathered.add(item.entity_id, item.state)
        looked_at += len(page.items)
        if page.next is None:
            return gathered.done()
        place = page.next
    return gathered.done(has_more=True)


async def _live(run: Work, note_id: str) -> Note | None:
    note: Note | None = await run.get(notes, note_id)
    return None if note is None or note.deleted_at is not None else note


class _Gathering:
    """Sources, up to their bounds."""

    def __init__(self) -> None:
        self._sources: list[Source] = []
        self._versions: dict[str, int] = {}
        self._bytes_left = SOURCES_BYTES_MAX
        self._left_out = False

    @property
    def is_full(self) -> bool:
        """Whether no other one is taken, however short."""
        return len(self._sources) == SOURCES_MAX

    def add(self, note_id: str, note: Note) -> bool:
        """Add a note; return False where there is no room for it."""
        size = len(note.markdown.encode()) + len(note.title.encode())
        if self.is_full or size > self._bytes_left:
            self._left_out = True
            return False
        self._bytes_left -= size
        self._sources.append(Source(note_id, note.title, note.markdown, note.note_kind))
        self._versions[note_id] = note.version
        return True

    def done(self, *, has_more: bool = False) -> _Ingested:
        is_cut = self._left_out or has_more
        return _Ingested(tuple(self._sources), self._versions, is_cut)


# --------------------------------------------------------------------------------------- propose


class _Talk:
    """A conversation with a model, until it has answered what can be read."""

    def __init__(self, run: Work, settings: ProviderSettings, request: str) -> None:
        self.request = request
        self.model = settings.model
        """Who has answered last."""
        self.provider_kind: str = settings.provider_kind
        self.outputs: list[str] = []
        self.diagnostics: list[ParseDiagnostic] = []
        self._run = run
        self._settings = settings

    async def response(self) -> LibrarianResponse:
        """Return an answer.

        Raises:
            ParseError: the last one; `diagnostics` has all of them.
            ProviderError: no model answers.

        """
        while True:
            text = await self._answer()
            self.outputs.append(text)
            try:
                return read_response(text, request_id=self._run.id)
            except ParseError as error:
                attempt = len(self.outputs)
                self.diagnostics.append(
                    ParseDiagnostic(
                        attempt=attempt,
                        code=error.code,
                        detail=error.message,
                        errors=tuple(error.errors),
                    )
                )
                if attempt > REPAIRS_MAX:
                    raise

    async def _answer(self) -> str:
        """Ask, say what comes back as it comes, and return all of it.

        Raises:
            ParseError: it is too long; nobody would mend that.
            ProviderError: no model answers.

        """
        number = len(self.outputs) + 1
        message_id, parts, size = f"answer-{number}", list[str](), 0
        async with self._run.chat(self._settings, self._messages()) as stream:
            async for part in stream:
                match part:
                    case TextDelta(text):
                        size += len(text.encode())
                        if size > ANSWER_BYTES_MAX:
                            raise ParseError([f"ANSWER_TOO_LONG:{ANSWER_BYTES_MAX}"])
                        parts.append(text)
                        await self._run.say(text, message_id=message_id)
                    case ReasoningDelta(text):
                        await self._run.say(text, message_id=message_id, channel="reasoning")
                    case Restarted(attempt):  # what was said is void
                        message_id, parts, size = f"answer-{number}.{attempt}", [], 0
                    case Answered():
                        self.model, self.provider_kind = part.model, part.provider_kind
        return "".join(parts)

    def _messages(self) -> list[ChatMessage]:
        """Return the conversation: the request, and after it the last answer and its faults.

        Roles take turns, since templates of small models know nothing else.
        """
        asked = [ChatMessage("system", instructions()), ChatMessage("user", self.request)]
        if not self.outputs:
            return asked
        original = self.outputs[-1]
        return [
            ChatMessage("system", f"{instructions()}\n{repair_instructions()}"),
            asked[1],
            ChatMessage("assistant", original or "(nothing)"),
            ChatMessage("user", repair_text(self.diagnostics[-1].errors, original)),
        ]

    @property
    def prompt_hash(self) -> str:
        """The hash of what the model was told first."""
        return prompt_hash(instructions(), self.request)


# --------------------------------------------------------------------------------------- recording


def _failed_report(run: Work, talk: _Talk) -> RecordReport:
    return RecordReport(
        run_id=run.id,
        rule_id=run.labels[RULE_LABEL],
        provider_kind=talk.provider_kind,
        model=talk.model,
        attempts=len(talk.outputs),
        pack_version=PACK_VERSION,
        prompt_hash=talk.prompt_hash,
        raw_prompt=_kept(talk.request),
        raw_outputs=tuple(map(_kept, talk.outputs)),
        parse_diagnostics=tuple(talk.diagnostics),
    )


def _report(
    run: Work,
    talk: _Talk,
    response: LibrarianResponse,
    warnings: tuple[str, ...],
    rejected: tuple[Guarded, ...],
    versions: dict[str, int],
) -> RecordReport:
    reasons = {each.operation_id: each.reason for each in rejected}
    return msgspec.structs.replace(
        _failed_report(run, talk),
        response_status=response.status,
        response_summary=response.summary,
        warnings=warnings,
        operations=tuple(
            ProposedOperation(
                operation_id=each.operation_id,
                kind=each.kind,
                target_note_id=each.target_note_id,
                target_path=each.target_path,
                title=each.title,
                body_markdown=each.body_markdown,
                reason=each.reason,
                confidence=each.confidence,
                seen_version=versions.get(each.target_note_id or ""),
                guard_reason=reasons.get(each.operation_id),
            )
            for each in response.operations
        ),
    )


def _result(talk: _Talk, response: LibrarianResponse, report: RecordReport) -> dict[str, object]:
    """Return what the run says of itself: the lists of the workspace's stream (KJ §1.2.8)."""
    preview, rejected = list[object](), list[object]()
    for each in report.operations:
        said = {"operation_id": each.operation_id, "kind": each.kind}
        if each.guard_reason is None:
            preview.append({**said, "target_note_id": each.target_note_id})
        else:
            rejected.append({**said, "reason": each.guard_reason})
    return {
        "kind": LIBRARIAN_STRUCTURE,
        "applied": False,
        "provider_kind": talk.provider_kind,
        "model": talk.model,
        "protocol": PROTOCOL,
        "attempts": len(talk.outputs),
        "response_status": response.status,
        "operation_preview": preview,
        "operation_applied": [],
        "operation_rejected": rejected,
    }


def _kept(text: str) -> str:
    """Return as much of a text as a report keeps."""
    data = text.encode()
    return text if len(data) <= RAW_BYTES_MAX else data[:RAW_BYTES_MAX].decode("utf-8", "ignore")
