"""The user that the embedded PostgreSQL runs as.

PostgreSQL refuses to run as root, and rightly so.  But a development container, a CI job or a
small server often runs as root, and then another user must own the cluster.  In this order:

1. the present owner of the cluster: PostgreSQL accepts no other user;
2. the owner of the data directory, if it is not root;
3. a user made for such purposes: ``postgres``, else ``nobody``;
4. if that user cannot reach the data directory or the binaries, because a folder above them is
   0700: root itself, in a user namespace that maps it to an ordinary user.  There it has no
   privileges outside the namespace; it is merely the owner of root's files.

A user without a name, who is not root, has one lent for `initdb`, which asks for it.

The mode of an existing folder is never changed: somebody chose it.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.protocol import DalsegnoError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_TRY_TIMEOUT_S = 20.0

_DEDICATED = ("postgres", "nobody")

_running: list[subprocess.Popen[str]] = []
"""The programs that run at this moment; each leads a group of processes."""


class EmbeddedPostgresError(DalsegnoError):
    """The embedded PostgreSQL cannot be started or stopped; the message says what to do."""

    code = "STORE_UNAVAILABLE"


class Ended(NamedTuple):
    """How a program ended."""

    ok: bool
    said: str


@dataclass(frozen=True, slots=True)
class Account:
    """Runs PostgreSQL's programs as one user, and makes that user the owner of their files."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()
    """The command that enters the user namespace, if there is one."""

    def run(self, command: Sequence[str | Path], *, timeout_s: float) -> Ended:
        """Run a command, kill it after ``timeout_s``, and capture its output.

        Raises:
            OSError: this user may not run it.
        """
        with self._started(command) as program:
            _running.append(program)
            try:
                said, _ = program.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired as error:
                program.kill()
                return Ended(False, str(error))
            except BaseException:
                program.kill()
                raise
            finally:
                _running.remove(program)
        return Ended(program.returncode == 0, said)

    def _started(self, command: Sequence[str | Path]) -> subprocess.Popen[str]:
        other = os.geteuid() != self.uid
        return subprocess.Popen(  # noqa: S603 - the wheel's programs
            [*self.prefix, *command],
            # Ctrl-C in the terminal is for the runtime, which then stops everything in order.
            start_new_session=True,
            user=self.uid if other else None,
            group=self.gid if other else None,
            extra_groups=[] if other else None,
            umask=0o077,
            # This user may have no access to the current folder.
            cwd="/",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def own(self, path: Path) -> None:
        """Make this user the owner of a file or folder that we have just created."""
        if os.geteuid() != self.uid:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def refusal(self, directory: Path, program: Path) -> str | None:
        """Return why this user cannot enter a folder and run a program; None if it can."""
        script = 'cd -- "$1" && exec "$2" --version'
        try:
            tried = self.run(
                ["/bin/sh", "-c", script, "sh", directory, program], timeout_s=_TRY_TIMEOUT_S
            )
        except OSError as error:
            return str(error)
        return None if tried.ok else tried.said.strip() or "no reason given"


def kill_programs() -> None:
    """Kill what runs at this moment, with what it has started, from any thread."""
    for program in _running.copy():  # it changes meanwhile
        with suppress(OSError):  # it has just ended
            os.killpg(program.pid, signal.SIGKILL)


def own_account() -> Account:
    """Return the user that this process runs as."""
    return Account(os.geteuid(), os.getegid())


def choose_account(directory: Path, cluster: Path, program: Path) -> Account:
    """Find a user who can run ``program`` on ``cluster``, which may not exist yet.

    Raises:
        EmbeddedPostgresError: no user can.
    """
    owner = cluster.stat().st_uid if cluster.exists() else None
    myself = own_account()
    if myself.uid != 0:
        if owner is not None and owner != myself.uid:
            raise EmbeddedPostgresError(
                f"{cluster} belongs to {_name(owner)}: start as that user, or as root"
            )
        has_name = _name(myself.uid) != str(myself.uid)
        return myself if owner is not None or has_name else _named(directory, program)
    refusals = []
    for account in _candidates(directory, owner):
        refusal = account.refusal(directory, program)
        if refusal is None:
            return account
        user = "root in a user namespace" if account.prefix else _name(account.uid)
        refusals.append(f"as {user}: {refusal}")
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root, and no other user can run it here. Start as an ordinary "
        f"user, or put {directory} and {program.parent} where one can reach them.\n"
        + "\n".join(refusals)
    )


def _named(directory: Path, program: Path) -> Account:
    """Give a user without a name, as platforms assign them to containers, a name for `initdb`.

    That looks it up.  In a user namespace the same user appears as one that has a name; what it
    makes there belongs to it outside, where PostgreSQL then runs without a name.
    """
    alias = _in_namespace()
    refusal = "no user is named postgres or nobody"
    if alias is not None:
        refused = alias.refusal(directory, program)
        if refused is None:
            return alias
        refusal = refused
    uid, gid = os.geteuid(), os.getegid()
    raise EmbeddedPostgresError(
        f"PostgreSQL's initdb wants a user with a name, and uid {uid} has none here; a user "
        f"namespace, which would lend it one, is not allowed either ({refusal}). Give it a name, "
        f"with a line like `app:x:{uid}:{gid}::/:/bin/false` in /etc/passwd; or start as another "
        "user; or name a PostgreSQL of your own with --database"
    )


def _in_namespace() -> Account | None:
    """Return this process's user under the name of a dedicated one, in a user namespace."""
    dedicated = next(filter(None, map(_user, _DEDICATED)), None)
    if dedicated is None:
        return None
    alias = (f"--map-user={dedicated.pw_uid}", f"--map-group={dedicated.pw_gid}")
    return Account(os.geteuid(), os.getegid(), ("unshare", "--user", *alias, "--"))


def _candidates(directory: Path, owner: int | None) -> Iterator[Account]:
    dedicated = next(filter(None, map(_user, _DEDICATED)), None)
    if owner:
        yield Account(owner, _group(owner))
        return
    if owner is None:
        host = directory.stat().st_uid
        # initdb needs a user with a name; the owner of a container's volume may have none.
        if host != 0 and _name(host) != str(host):
            yield Account(host, _group(host))
        if dedicated is not None:
            yield Account(dedicated.pw_uid, dedicated.pw_gid)
    alias = _in_namespace()
    if alias is not None:
        yield alias


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _group(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _environment() -> dict[str, str]:
    # PGDATA, PGPORT, PGOPTIONS and the like are meant for another server.  LC_ALL: messages are
    # searched for words.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}
