"""Under whose identity the embedded PostgreSQL runs.

PostgreSQL refuses to run as root, and rightly so.  But a development container, a CI job or a
small server often is root, and then somebody else must own the cluster.  Who, in this order:

1. whoever owns the cluster already: PostgreSQL accepts nobody else;
2. the owner of the data directory, if it is not root;
3. a user made for such things: ``postgres``, else ``nobody``;
4. if that user cannot reach the data directory or the binaries, because a folder on the way is
   0700: root itself, in a user namespace where its name is that of an ordinary user.  There it
   has no privilege outside; it is merely the owner of root's files.

The way is never cleared by changing the mode of a folder: those are somebody's decision.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dalsegno.protocol import DalsegnoError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_TRY_TIMEOUT_S = 20.0

_DEDICATED = ("postgres", "nobody")


class EmbeddedPostgresError(DalsegnoError):
    """The embedded PostgreSQL cannot be started or stopped; the message says what to do."""

    code = "STORE_UNAVAILABLE"


class Ended(NamedTuple):
    """How a program ended."""

    ok: bool
    said: str


@dataclass(frozen=True, slots=True)
class Account:
    """Runs PostgreSQL's programs as one user, and gives it the files that it needs."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()
    """What comes before a command: how to enter the user namespace, if there is one."""

    def run(self, command: Sequence[str | Path], *, timeout_s: float) -> Ended:
        """Run a command to its end, or to its kill after ``timeout_s``, and catch what it says.

        Raises:
            OSError: this user may not run it.
        """
        other = os.geteuid() != self.uid
        try:
            ended = subprocess.run(  # noqa: S603 - the wheel's programs
                [*self.prefix, *command],
                # Ctrl-C in the terminal is for the runtime, which then stops things in order.
                start_new_session=True,
                user=self.uid if other else None,
                group=self.gid if other else None,
                extra_groups=[] if other else None,
                umask=0o077,
                # The present folder may be out of this user's reach.
                cwd="/",
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            return Ended(False, str(error))
        return Ended(ended.returncode == 0, ended.stdout)

    def own(self, path: Path) -> None:
        """Give a file or folder that we have just made to this user."""
        if os.geteuid() != self.uid:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def refusal(self, directory: Path, program: Path) -> str | None:
        """Try whether this user can enter a folder and run a program; say why not."""
        script = 'cd -- "$1" && exec "$2" --version'
        try:
            tried = self.run(
                ["/bin/sh", "-c", script, "sh", directory, program], timeout_s=_TRY_TIMEOUT_S
            )
        except OSError as error:
            return str(error)
        return None if tried.ok else tried.said.strip() or "no reason given"


def own_account() -> Account:
    """Whoever this process runs as."""
    return Account(os.geteuid(), os.getegid())


def choose_account(directory: Path, cluster: Path, program: Path) -> Account:
    """Find a user who can run ``program`` on ``cluster``, which may not exist yet.

    Raises:
        EmbeddedPostgresError: there is none.
    """
    owner = cluster.stat().st_uid if cluster.exists() else None
    myself = own_account()
    if myself.uid != 0:
        if owner is not None and owner != myself.uid:
            raise EmbeddedPostgresError(
                f"{cluster} belongs to {_name(owner)}: start as that user, or as root"
            )
        return myself
    refusals = []
    for account in _candidates(directory, owner):
        refusal = account.refusal(directory, program)
        if refusal is None:
            return account
        who = "root in a user namespace" if account.prefix else _name(account.uid)
        refusals.append(f"as {who}: {refusal}")
    raise EmbeddedPostgresError(
        "PostgreSQL does not run as root, and here it runs as nobody else. Start as an ordinary "
        f"user, or put {directory} and {program.parent} where one can reach them.\n"
        + "\n".join(refusals)
    )


def _candidates(directory: Path, owner: int | None) -> Iterator[Account]:
    dedicated = next(filter(None, map(_user, _DEDICATED)), None)
    if owner:
        yield Account(owner, _group(owner))
        return
    if owner is None:
        host = directory.stat().st_uid
        # initdb wants a user with a name; the owner of a container's volume may have none.
        if host != 0 and _name(host) != str(host):
            yield Account(host, _group(host))
        if dedicated is not None:
            yield Account(dedicated.pw_uid, dedicated.pw_gid)
    if dedicated is not None:
        alias = (f"--map-user={dedicated.pw_uid}", f"--map-group={dedicated.pw_gid}")
        yield Account(0, 0, ("unshare", "--user", *alias, "--"))


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
    # PGDATA, PGPORT, PGOPTIONS and the like are meant for somebody else's server, and messages
    # are searched for below.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C"}
