"""The app that a server is told to serve, by the name or the path of the file that declares it.

    board:app             the value ``app`` of the module ``board``, found from the current folder
    shop.board            the value ``app`` of ``shop.board``
    examples/board.py     that of a file, which may import what lies beside it
    board.py:tasks        another value of it

What is wrong in the file is said in one line, with the place in it: whoever starts a server for the
first time has just written that file.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

from dalsegno.actors.domains.built_in import built_in_domains
from dalsegno.protocol import App, Domain, DomainError

from ._config import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

_DEFAULT = "app"


def load_app(named: str) -> App:
    """Import the app that a setting names.

    Raises:
        ConfigError: there is no such file, it cannot be imported, or it declares no app that could
            be served.

    """
    where, _, name = named.partition(":")
    name = name or _DEFAULT
    if not where or not name.isidentifier():
        raise ConfigError(f"{named!r} is neither MODULE:NAME nor FILE.py:NAME")
    try:
        module = _file(Path(where)) if where.endswith(".py") else _module(where)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{where} cannot be imported: {_described(error)}") from error
    return _app_in(module, where, name)


def _module(name: str) -> ModuleType:
    """Import a module as ``python -m`` would: from the current folder, too."""
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise ConfigError(f"there is no module {name!r}, neither here nor installed") from None


def _file(path: Path) -> ModuleType:
    """Import a file as ``python FILE`` would, with its folder first among those that are looked in.

    Domains look up the types in their functions' annotations by their module's name, so it needs
    one of its own.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    sys.path.insert(0, str(path.parent.resolve()))
    module = importlib.import_module(path.stem)
    if module.__file__ is None or not path.samefile(module.__file__):
        raise ConfigError(f"{path} has the name of another module: rename it")
    return module


def _described(error: BaseException) -> str:
    """Return what an import has raised, with the last place that is neither Python's nor ours."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {error.msg}"
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] not in {"dalsegno", "importlib"}:
            place = f"{frame.f_code.co_filename}, line {line}: "
    return f"{place}{type(error).__name__}: {error}"


def _app_in(module: ModuleType, where: str, name: str) -> App:
    """Return the app of a module that was imported.

    Raises:
        ConfigError: there is none of this name, or it cannot be served.

    """
    found = getattr(module, name, None)
    if found is None:
        others = [each for each, value in vars(module).items() if isinstance(value, App)]
        hint = f"; it has {', '.join(others)}" if others else f": {name} = App([…])"
        raise ConfigError(f"{where} has no {name!r}{hint}")
    if isinstance(found, Domain):
        raise ConfigError(f"{where}:{name} is a domain, not an app: App([{name}])")
    if not isinstance(found, App):
        raise ConfigError(f"{where}:{name} is no App, but of type {type(found).__name__}")
    try:
        found.check(built_in_domains)
    except DomainError as error:
        raise ConfigError(f"{where}:{name}: {error}") from error
    return found
