"""Which questions there are: each is a module of this folder whose name has no underscore.

Such a module has ``async def ask(options: Options) -> Report``; the first line of its docstring is
the question.  It is imported only when it is asked, so that a library that one of them needs and
that is not installed does not prevent the others.
"""

from __future__ import annotations

import ast
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._harness import Options, Report

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Question:
    """A question, by the name of its module."""

    name: str

    @property
    def says(self) -> str:
        """The question in words."""
        source = (_FOLDER / f"{self.name}.py").read_text()
        return (ast.get_docstring(ast.parse(source)) or self.name).split("\n\n")[0]

    def ask(self, options: Options) -> Report:
        """Measure; this takes a while."""
        module = import_module(f"{__package__}.{self.name}")
        ask = cast("Callable[[Options], Awaitable[Report]]", module.ask)
        return trio.run(ask, options)


def questions() -> dict[str, Question]:
    """Find them all, in the order of their names."""
    names = [found.name for found in pkgutil.iter_modules([str(_FOLDER)])]
    return {name: Question(name) for name in sorted(names) if not name.startswith("_")}
