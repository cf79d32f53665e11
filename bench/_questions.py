"""Which questions there are: each is a module of this folder whose name has no underscore.

Such a module has ``async def ask(options: Options) -> Report``; the first line of its docstring is
the question, and ``HEADLINE`` the id of the ratio that tells most.  It is imported only when it is
asked, so that a library that one of them needs and that is not installed does not prevent the
others.
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
        return (ast.get_docstring(self._read()) or self.name).split("\n\n")[0]

    @property
    def headline(self) -> str:
        """The id of the ratio that tells most; empty if the module names none."""
        for node in self._read().body:
            match node:
                case ast.Assign([ast.Name("HEADLINE")], ast.Constant(str(ratio_id))):
                    return ratio_id
        return ""

    def _read(self) -> ast.Module:
        return ast.parse((_FOLDER / f"{self.name}.py").read_text())

    def ask(self, options: Options) -> Report:
        """Measure; this takes a while."""
        module = import_module(f"{__package__}.{self.name}")
        ask = cast("Callable[[Options], Awaitable[Report]]", module.ask)
        return trio.run(ask, options)


def questions() -> dict[str, Question]:
    """Find them all, in the order of their names."""
    names = [found.name for found in pkgutil.iter_modules([str(_FOLDER)])]
    return {name: Question(name) for name in sorted(names) if not name.startswith("_")}
