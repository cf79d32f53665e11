"""The port to processes of the machine: what a worker runs, and reads by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from dalsegno.protocol.runs import RunningProcess


class ProcessRunner(Protocol):
    """Starts processes of which nothing is left, whatever becomes of who started them."""

    def start(
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
        """Run a command for the length of a block, at whose end it is killed with its group.

        It reads nothing, and has a session of its own.  Who does not take its lines has it wait.

        Args:
            argv: the command, found by ``PATH``, and its arguments; no shell is asked.
            cwd: its folder; None: this process's.
            env: its environment, all of it; None: this process's.
            inherits: the names of what it is given of this process's, unless ``env`` says it; None:
                all of it, secrets too.
            timeout_s: how long it may run, in seconds; then its group is told to end, and killed
                two seconds later.
            line_bytes_max: how long a line may be; the rest of a longer one is dropped.
            output_bytes_max: how much it may write; one that writes more is killed.

        Raises:
            ProcessNotStartedError: it could not be started; the code of the system is in
                ``details``.

        """
