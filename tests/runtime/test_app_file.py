"""The app of a file: found by module or path, and what is wrong in it is said in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dalsegno.runtime._app_file import load_app
from dalsegno.runtime._cli import run
from dalsegno.runtime._config import ConfigError
from tests.tasks_domain import tasks

TASKS = "from tests.tasks_domain import tasks\nfrom dalsegno.protocol import App\n"
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file in the current folder; what is imported of it is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "named",
    [
        "a_board",
        "a_board:app",
        "a_board:",
        "a_board.py",
        "./a_board.py:app",
        "a_shop.a_board",
        "a_shop/a_board.py",
        "a_shop/a-board.py",
    ],
)
def test_an_app_is_found_by_its_module_or_its_path(write: Write, named: str) -> None:
    for name in ("a_board.py", "a_shop/a_board.py", "a_shop/a-board.py"):
        write(name, f"{TASKS}app = App([tasks], version=3)")
    app = load_app(named)
    assert (app.domains, app.version) == ((tasks,), 3)


def test_a_file_imports_what_lies_beside_it(write: Write) -> None:
    write("shops/beside_it.py", TASKS)
    path = write("shops/an_app.py", "from beside_it import App, tasks\nother = App([tasks])")
    assert load_app(f"{path}:other").domains == (tasks,)
    assert load_app(f"{path}:other").domains == (tasks,), "again"


@pytest.mark.parametrize(
    ("text", "named", "said"),
    [
        (None, "no_board", "there is no module 'no_board', neither here nor installed"),
        (None, "no_board.py", "there is no file no_board.py"),
        (None, "no_shop.no_board", "there is no module 'no_shop.no_board'"),
        ("", "", "'' is neither MODULE:NAME nor FILE.py:NAME"),
        ("", "its_board:a-b", "'its_board:a-b' is neither"),
        ("", "its_board:a:b", "'its_board:a:b' is neither"),
        ("", "its_board", "its_board has no 'app': app = App([…])"),
        (f"{TASKS}one = App([tasks])", "its_board.py", "its_board.py has no 'app'; it has one"),
        (f"{TASKS}app = tasks", "its_board", "its_board:app is a domain, not an app: App([app])"),
        ("app = 1", "its_board", "its_board:app is no App, but of type int"),
        (f"{TASKS}app = App([tasks, tasks])\nx", "its_board", "its_board.py, line 4: NameError"),
        ("import nothing_like_it", "its_board", "ModuleNotFoundError: No module named"),
        ("\nif x", "its_board", "its_board.py, line 2: expected ':'"),
        ("raise SystemExit(3)", "its_board.py", "its_board.py, line 1: SystemExit: 3"),
        (f"{TASKS}App([tasks], version=-1)", "its_board", "line 3: DomainError: an app's version"),
        (
            f"{TASKS}from dalsegno.protocol import Domain\n"
            "app = App([tasks, Domain('task', state=tasks.state, commands=tuple, events=int)])",
            "its_board",
            "its_board.py, line 4: DomainError",
        ),
        (
            f"{TASKS}import copy\napp = App([tasks, copy.copy(tasks)])",
            "its_board",
            "its_board:app: two domains are named 'task'",
        ),
        (
            f"{TASKS}from dalsegno.runtime import Role\n"
            "app = App([tasks], roles={'ghost': Role(commands=frozenset({'haunt'}))})",
            "its_board",
            "its_board:app: role 'ghost' may send 'haunt', which no domain offers",
        ),
    ],
)
def test_what_is_wrong_is_said(write: Write, text: str | None, named: str, said: str) -> None:
    if text is not None:
        write("its_board.py", text)
    with pytest.raises(ConfigError) as raised:
        load_app(named)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_of_a_name_that_is_taken_is_refused(write: Write) -> None:
    path = write("json.py", f"{TASKS}app = App([tasks])")
    with pytest.raises(ConfigError, match=r"json.py has the name of another module: rename it"):
        load_app(str(path))


@pytest.mark.parametrize("command", [["serve"], ["repair", "acme"]])
def test_the_command_line_names_the_setting(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    assert run([*command, "--app", "no_board"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dalsegno: --app: there is no module 'no_board'")
    monkeypatch.setenv("DALSEGNO_APP", "no_board")
    assert run(command) == 2
    assert capsys.readouterr().err.startswith("dalsegno: DALSEGNO_APP: there is no module")
    monkeypatch.delenv("DALSEGNO_APP")
    write("settings.toml", "app = 'no_board.py'")
    assert run([*command, "--config", "settings.toml"]) == 2
    assert capsys.readouterr().err == (
        "dalsegno: app in settings.toml: there is no file no_board.py\n"
    )
