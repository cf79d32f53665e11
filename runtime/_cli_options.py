"""Options that are settings: on the command line, in the environment or in a file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from ._interrupts import raise_on_interrupt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from dalsegno.protocol import App, Limits

    from ._config import FileSettings

CommandT = TypeVar("CommandT", bound=Callable[..., Any] | click.Command)
T = TypeVar("T")

_FILE = "dalsegno.file"
"""The key of the context's ``meta`` under which the settings file is kept."""


def option(name: str, **attributes: Any) -> Callable[[CommandT], CommandT]:  # noqa: ANN401 - click's
    """Declare an option that can also be set by ``DALSEGNO_…``."""
    return click.option(
        name, envvar=_variable(name), show_envvar=True, show_default=True, **attributes
    )


def _variable(name: str) -> str:
    return "DALSEGNO_" + name.removeprefix("--").replace("-", "_").upper()


def _load(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    from ._config import FileSettings, read_file

    settings = FileSettings() if path is None else read_file(path)
    context.default_map = settings.defaults()
    context.meta[_FILE] = path, settings


CONFIG = option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_load,
    is_eager=True,
    expose_value=False,
    help="A TOML file of these settings; bounds are in its table [limits].",
)
"""The settings file; the command line and the environment take precedence over it."""


APP = option(
    "--app",
    metavar="MODULE:NAME",
    help="What is served, or FILE.py:NAME; without it notes.",
)
"""The app that a program declares."""


def app_of(context: click.Context, named: str | None) -> App:
    """Return the app that a setting names; without one that of notes, their rules and jobs.

    Raises:
        ConfigError: there is none, or it cannot be served.

    """
    if named is None:
        from dalsegno.actors.domains.jobs import job_app

        return job_app
    from ._app_file import load_app

    with setting(context, "app"):
        return load_app(named)


def limits_of(context: click.Context) -> Limits:
    """Return the bounds that the environment and the settings file give.

    Raises:
        ConfigError: one is unknown, or cannot be used.

    """
    import os

    from ._config import read_limits

    path: Path | None
    settings: FileSettings
    path, settings = context.meta[_FILE]
    return read_limits(settings.limits, os.environ, file=path)


@contextmanager
def setting(context: click.Context, parameter: str) -> Iterator[None]:
    """Name a setting, as the user wrote it, before what is wrong with it."""
    from ._config import ConfigError

    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{_written(context, parameter)}: {error}") from error


def _written(context: click.Context, parameter: str) -> str:
    option = "--" + parameter.replace("_", "-")
    match context.get_parameter_source(parameter):
        case ParameterSource.ENVIRONMENT:
            return _variable(option)
        case ParameterSource.DEFAULT_MAP:
            return f"{parameter} in {context.meta[_FILE][0]}"
    return option


def run_trio(task: Callable[..., Awaitable[T]], *arguments: object) -> T:
    """Run a task to its end; Trio is imported when there is something to run."""
    import trio

    raise_on_interrupt()
    result: T = trio.run(task, *arguments)
    return result
