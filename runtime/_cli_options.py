"""Options that are settings: on the command line, in the environment or in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ._config import FileSettings, read_file

CommandT = TypeVar("CommandT", bound=Callable[..., Any] | click.Command)

FILE = "dalsegno.file"
"""The key of the context's ``meta`` under which the settings file is kept."""


def option(name: str, **attributes: Any) -> Callable[[CommandT], CommandT]:  # noqa: ANN401 - click's
    """Declare an option that can also be set by ``DALSEGNO_…``."""
    variable = "DALSEGNO_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(name, envvar=variable, show_envvar=True, show_default=True, **attributes)


def _load(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    settings = FileSettings() if path is None else read_file(path)
    context.default_map = settings.defaults()
    context.meta[FILE] = settings


CONFIG = option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_load,
    is_eager=True,
    expose_value=False,
    help="A TOML file of these settings; bounds are in its table [limits].",
)
"""The settings file; the command line and the environment take precedence over it."""
