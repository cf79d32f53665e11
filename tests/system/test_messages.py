"""What was done → the one line that is printed → the exit status, played in a terminal."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict

from dalsegno.runtime._cli import cli, run
from tests.system._processes import EMAIL, PASSWORD, Owner, Server
from tests.system._terminal import CTRL_C, Terminal

pytestmark = pytest.mark.processes

SOON = {"DALSEGNO_LIMIT_DATABASE_WAIT_S": "0.2"}
LOGIN = ("--email", "a@example.org", "--password", "a password")
AT = ("serve", "--bind", "127.0.0.1:0")


@contextmanager
def terminal(*arguments: str, environment: dict[str, str] | None = None) -> Iterator[Terminal]:
    terminal = Terminal(*arguments, environment=environment)
    try:
        yield terminal
    finally:
        terminal.kill()


def play(*arguments: str, environment: dict[str, str] | None = None) -> tuple[list[str], int]:
    """Return what is shown, and the exit status."""
    with terminal(*arguments, environment=environment) as played:
        status = played.end()
        assert "Traceback" not in played.shown
        return played.lines, status


@pytest.mark.parametrize(
    ("arguments", "environment", "said", "status"),
    [
        (
            ("serve", "--bind", "192.0.2.1:8000"),
            {},
            "192.0.2.1:8000 is no address of this machine; choose one that is: "
            "--bind HOST:PORT, or make run BIND=HOST:PORT",
            1,
        ),
        (("serve", "--bind", "nobody.invalid:1"), {}, "nobody.invalid:1 has no address: …", 1),
        (("serve", "--bind", "nowhere"), {}, "--bind: 'nowhere' is not HOST:PORT", 2),
        (("serve",), {"DALSEGNO_BIND": "[::1]"}, "DALSEGNO_BIND: '[::1]' is not HOST:PORT", 2),
        (("serve", "--node-id", "a b"), {}, "--node-id: 'a b' is not a node id: …", 2),
        (("serve", "--advertise", "x"), {}, "--advertise: 'x' is not http://HOST:PORT …", 2),
        (
            ("serve", "--origins", "example.com"),
            {},
            "--origins: 'example.com' is not an origin: write https://example.com",
            2,
        ),
        (
            ("serve",),
            {"DALSEGNO_ORIGINS": "https://a.example, http://b.example/app"},
            "DALSEGNO_ORIGINS: 'http://b.example/app' is not an origin: write http://b.example",
            2,
        ),
        (("serve",), {"DALSEGNO_PROXIES": "10.0.0.1,x"}, "DALSEGNO_PROXIES: 'x' does not …", 2),
        (
            ("serve",),
            {"DALSEGNO_LIMIT_PAGE_EVENT": "7"},
            "there is no limit DALSEGNO_LIMIT_PAGE_EVENT; did you mean DALSEGNO_LIMIT_PAGE_EVENTS?",
            2,
        ),
        (
            ("migrate",),
            {"DALSEGNO_LIMIT_PAGE_EVENTS": "many"},
            "limit DALSEGNO_LIMIT_PAGE_EVENTS: 'many' is not a whole number above 0",
            2,
        ),
        (("serve", "--config", "/none.toml"), {}, "/none.toml: No such file or directory", 2),
        (
            (*AT, "--database", "postgresql://me:hun/ter2@localhost/x"),
            {},
            "the database refuses us: libpq cannot read this database address; …",
            1,
        ),
        (
            ("send", "w", "c", "{}", "--url", "localhost:8000", *LOGIN),
            {},
            "BAD_URL: 'localhost…",
            1,
        ),
        (
            ("tail", "workspace:w", "--url", "http://127.0.0.1:1", *LOGIN),
            {},
            "UNREACHABLE: http://127.0.0.1:1 does not answer: …",
            1,
        ),
    ],
)
def test_what_is_done_the_line_that_is_printed_and_the_status(
    arguments: tuple[str, ...], environment: dict[str, str], said: str, status: int
) -> None:
    (line,), ended = play(*arguments, environment=environment)
    assert re.fullmatch(as_pattern(f"dalsegno: {said}"), line), line
    assert ended == status


def as_pattern(said: str) -> str:
    """``…`` stands for anything."""
    return ".+".join(map(re.escape, said.split("…")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("databse = 'x'", "{file}: there is no setting 'databse'; did you mean database?"),
        ("bind = 7", "{file}: bind: expected str, got int"),
        ("bind = ", "{file}: …"),
        ("bind = 'nowhere'", "bind in {file}: 'nowhere' is not HOST:PORT"),
        ("data-dir = 'x'\ndata_dir = 'y'", "{file}: 'data_dir' is there twice, …"),
        (
            "[limits]\npage-event = 7",
            "there is no limit 'page-event' in {file}; did you mean page_events?",
        ),
        (
            "[limits]\npage_events = 0.5",
            "limit 'page_events' in {file}: 0.5 is not a whole number above 0",
        ),
    ],
)
def test_a_line_of_the_settings_file(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "d.toml"
    file.write_text(text)
    assert run(["serve", "--config", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(as_pattern(f"dalsegno: {said}".replace("{file}", str(file))), line), line


def test_the_database_that_there_is_not(database: str) -> None:
    """Away, refused and missing are three things."""
    parts = conninfo_to_dict(database)
    name = parts["dbname"]
    place = f"host={parts['host']} port={parts['port']}"
    *waiting, line = play(*AT, "--database", "postgresql://127.0.0.1:1/x", environment=SOON)[0]
    assert line.startswith("dalsegno: the database cannot be reached: ")
    assert "Connection refused" in line
    assert [("waiting for the database" in text) for text in waiting] == [True]
    for dsn, said in (
        (f"{place} dbname={name} user=postgres password=guessed", "password authentication failed"),
        (database.replace(f"/{name}?", "/missing?"), 'database "missing" does not exist: create'),
    ):
        (line,), status = play(*AT, "--database", dsn)
        assert line.startswith("dalsegno: the database refuses us: ")
        assert said in line
        assert status == 1


async def test_what_a_server_says_to_its_second_and_to_its_clients(
    server: Server, owner: Owner
) -> None:
    place = f"127.0.0.1:{server.port}"
    user = {"DALSEGNO_URL": server.url, "DALSEGNO_EMAIL": EMAIL, "DALSEGNO_PASSWORD": PASSWORD}
    patch = '{"note_id": "x", "title": "y", "base_version": 1}'
    refused: list[tuple[tuple[str, ...], dict[str, str], str]] = [
        (
            ("serve", "--bind", place),
            {},
            f"{place} is in use by another program; stop that one, or choose another address: "
            "--bind HOST:PORT, or make run BIND=HOST:PORT",
        ),
        (
            ("tail", "workspace:w", "--url", f"{server.url}/app/"),
            user,
            f"BAD_URL: there is no server at {server.url}/app; it may be at {server.url}",
        ),
        (
            ("tail", f"workspace:{owner.workspace}", "--after", "7"),
            user,
            'CURSOR_AHEAD: the stream is not that long {…"…}',
        ),
        (("send", owner.workspace, "set_title", patch), user, "NOTE_NOT_FOUND: no such note"),
    ]
    played: list[tuple[list[str], int]] = []

    async def play_here(arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        def work() -> tuple[list[str], int]:
            return play(*arguments, environment=environment)

        played.append(await trio.to_thread.run_sync(work))

    for arguments, environment, said in refused:
        await play_here(arguments, environment)
        (line,), status = played[-1]
        assert re.fullmatch(as_pattern(f"dalsegno: {said}"), line), line
        assert status == 1
    await play_here(("send", owner.workspace, "set_title", patch, "--json"), user)
    (line,), status = played[-1]
    envelope = msgspec.json.decode(line)
    assert envelope["code"] == "NOTE_NOT_FOUND"
    assert {*envelope} == {"code", "message", "details"}
    assert status == 1


# --------------------------------------------------------------------------------------- Ctrl-C


@pytest.mark.parametrize(
    "moment",
    [
        "click.core",
        "runtime._config",
        "trio._core",
        "psycopg",
        "waiting for",
    ],
)
def test_ctrl_c_during_the_start_is_no_traceback(moment: str) -> None:
    """While it imports this or that, and while it waits.  Earlier it is Python's own affair."""
    shows_imports = {"PYTHONPROFILEIMPORTTIME": "1"}
    database = ("--database", "postgresql://127.0.0.1:1/x")
    with terminal(*AT, *database, environment=shows_imports) as played:
        played.wait_for(moment)
        played.type(CTRL_C)
        assert played.end() == 130
        assert "Traceback" not in played.shown


def test_ctrl_c_at_the_password_leaves_the_terminal_in_order() -> None:
    with terminal("tail", "workspace:w", "--email", "a@example.org") as played:
        played.wait_for("Password: ")
        played.type(CTRL_C)
        assert played.end() == 130
        assert "Traceback" not in played.shown


# ------------------------------------------------------------------------------- help and version


def test_help_is_whole() -> None:
    for arguments in (["--help"], *([name, "--help"] for name in cli.commands)):
        lines, status = play(*arguments)
        assert status == 0
        assert not [line for line in lines[1:] if line.rstrip().endswith(("...", "…"))]
        assert all(len(line) <= 80 for line in lines)


HEAVY = {"trio", "psycopg", "quart", "httpx", "structlog", "dalsegno.actors", "hypercorn"}


@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        (["--version"], {*HEAVY, "dalsegno.protocol", "msgspec"}),
        (["--help"], HEAVY),
        (["serve", "--help"], HEAVY),
        (["serve", "--bind", "nowhere"], HEAVY),
        (["tail", "workspace:w", *LOGIN, "--url", "x"], {"psycopg", "quart", "hypercorn"}),
    ],
)
def test_a_command_imports_what_it_needs(arguments: list[str], without: set[str]) -> None:
    program = (
        "import sys; from dalsegno.runtime._cli import run; run(sys.argv[1:]);"
        "print('IMPORTED', *sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    imported = ran.stdout.rpartition("IMPORTED")[2].split()
    assert "click" in imported
    assert not without & {*imported}


def test_what_is_offered_by_name_is_what_checkers_see() -> None:
    """The package imports its names when they are asked for."""
    import dalsegno.runtime as package

    source = Path(str(package.__file__)).read_text()
    declared = {*re.findall(r"^ +(?:from .* )?\w+ as (\w+),?$", source, re.MULTILINE)}
    declared |= {*re.findall(r"\w+ as (\w+)(?:,|$)", source, re.MULTILINE)}
    assert declared == {*package.__all__}
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        package.Nothing  # noqa: B018
