"""What workers and reactors are given, and what a worker returns, for packages that are pure.

The runtime's own objects, `Run` and `Reaction`, have these and more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence  # at run time, as a field's type
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from dalsegno.protocol._listing import BEGINNING, Place, Snapshot

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from dalsegno.protocol._domain import Domain
    from dalsegno.protocol._event import Event
    from dalsegno.protocol._rate import Rate
    from dalsegno.protocol._receipt import Receipt
    from dalsegno.protocol._spoken import Channel
    from dalsegno.protocol.providers import ChatMessage, ChatStream, ProviderSettings, Tool

    from ._processes import RunningProcess
    from ._staging import StageWriter
    from ._vocabulary import Trigger


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker may return: a result, and commands that take effect with the end, or not."""

    result: Any = None
    """JSON."""
    commands: Sequence[msgspec.Struct] = ()


class AsProgram(msgspec.Struct, frozen=True):
    """A command that a worker sends as the program itself, and not as who asked for the run.

    For what nobody else may say (``allow=()``), such as what the run has come to.
    """

    command: msgspec.Struct


class WorkspaceReads(Protocol):
    """What a run or a reactor reads of its workspace, as it is now."""

    @property
    def workspace_id(self) -> str:
        """The workspace's id."""

    async def get(self, domain: Domain[Any, Any, Any], entity_id: str) -> Any:  # noqa: ANN401 - the domain's
        """Return an entity's state; None where there is none."""

    async def snapshot(
        self,
        domain: Domain[Any, Any, Any],
        *,
        key: str | None = None,
        after: Place = BEGINNING,
        limit: int = 100,
    ) -> Snapshot[Any]:
        """List entities with their states."""


class Work(WorkspaceReads, Protocol):
    """One attempt at a run, as its worker sees it."""

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def input(self) -> Any:  # noqa: ANN401 - JSON
        """What was asked."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The run's labels."""

    @property
    def trigger(self) -> Trigger | None:
        """The event that it was asked for because of."""

    @property
    def attempt(self) -> int:
        """Counts from 1, for people."""

    @property
    def checkpoint(self) -> Any:  # noqa: ANN401 - JSON
        """What was saved last, by this attempt or one before it."""

    async def save(self, checkpoint: Any) -> None:  # noqa: ANN401 - JSON
        """Record how far it got, for the attempt after this one."""

    async def send(self, command: msgspec.Struct, *, step: str | None = None) -> Receipt:
        """Send a command, or an `AsProgram`; a step takes effect once in the run's life."""

    async def say(
        self, text: str, *, message_id: str | None = None, channel: Channel = "text"
    ) -> None:
        """Say something, at once, to those who follow the run."""

    def chat(
        self,
        settings: ProviderSettings,
        messages: Sequence[ChatMessage],
        *,
        tools: Sequence[Tool] = (),
    ) -> AbstractAsyncContextManager[ChatStream]:
        """Ask a model for the length of a block."""

    def lines(
        self,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        inherits: Collection[str] | None = None,
        timeout_s: float = 60.0,
        line_bytes_max: int = 65_536,
        output_bytes_max: int = 10 * 1024 * 1024,
    ) -> AbstractAsyncContextManager[RunningProcess]:
        """Run a command for the length of a block, and read what it writes by line.

        Raises:
            ProcessNotStartedError: it could not be started.

        """

    async def folder(self) -> str:
        """Return the path of the workspace's folder, with all that its runs have put there.

        Raises:
            DomainError: the worker has no ``folder=``.
            FolderError: what an earlier run has staged cannot be put in place now.

        """

    def stage(self) -> AbstractAsyncContextManager[StageWriter]:
        """Stage files of the workspace's folder, for the length of a block.

        What was not finished is deleted at its end.  What was is put in place once the run has
        succeeded with it as its result's `STAGED`, and else is deleted.

        Raises:
            DomainError: as `folder`; or the attempt has another stage, open or finished.
            FolderError: as `folder`; or the disk fails.

        """


class ReactionTo(WorkspaceReads, Protocol):
    """An event, as a reactor that asks for runs sees it."""

    @property
    def record(self) -> Event:
        """The event as it stands in the log."""

    async def state(self) -> Any:  # noqa: ANN401 - the domain's
        """Return the state of the event's entity right after it."""

    async def pause(self) -> None:
        """Let others have a turn, where this has taken long: for one that computes."""

    def spend(self, rate: Rate, key: str) -> bool:
        """Count the event for a key; return whether that is within the rate."""

    def fail(self, what: str, error: Exception) -> None:
        """Count and log that something of the event failed."""
