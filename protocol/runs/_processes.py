"""Processes of the machine, as a worker that runs one sees them."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, TypeAlias

from dalsegno.protocol._errors import DalsegnoError

LineChannel: TypeAlias = Literal["stdout", "stderr"]
EndedBy: TypeAlias = Literal["itself", "timeout", "output"]


class Line(NamedTuple):
    """A line that a process wrote, without its end."""

    channel: LineChannel
    text: str
    is_cut: bool = False
    """Whether it was longer than a line may be, and the rest of it is not here."""


class Ended(NamedTuple):
    """How a process ended."""

    returncode: int
    """Its exit status; that of the signal, negated, where one killed it."""
    by: EndedBy = "itself"
    """Or it was killed: it took too long, or wrote too much."""


class ProcessNotStartedError(DalsegnoError):
    """A command could not be started: it is not there, or may not be executed."""

    code = "PROCESS_NOT_STARTED"


class RunningProcess(Protocol):
    """A process: an async iterator of the lines that it writes, until it has ended."""

    def __aiter__(self) -> RunningProcess:
        """Return it."""

    async def __anext__(self) -> Line:
        """Wait for the next line, in the order of its channel."""

    @property
    def ended(self) -> Ended:
        """How it ended; known once there are no more lines."""
