"""What a route is to those who call it: method, path, parameters, bodies and answers."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

Method: TypeAlias = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

_PARAMETER = re.compile(r"\{([a-z][a-z0-9_]*)\}")


class Access(enum.Enum):
    """Who may call a route."""

    ANYBODY = "anybody"
    KNOWN = "known"
    """People who have logged in, and programs with a key or a token."""
    PEOPLE = "people"
    """People alone: it is about accounts, or who owns what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A route's outside."""

    method: Method
    path: str
    """With its parameters in braces: ``/api/notes/{note_id}``."""
    summary: str
    """What it does, in a line."""
    group: str
    """Under which it is listed with others: ``notes``."""
    access: Access = Access.KNOWN
    params: type[msgspec.Struct] | None = None
    """What the path and the query have."""
    body: Any = None
    """The type of the request's body; None: there is none."""
    answers: Mapping[int, Any] = field(default_factory=dict)
    """The type of the answer's body by status; None: there is none, `bytes`: it is a file."""
    media_types: tuple[str, ...] = ()
    """What these files are."""
    adds_request_id: bool = True
    """Whether an answer has the request's id beside what it is made of."""
    refusals: frozenset[int] = frozenset()
    """The statuses that it may refuse with, besides those that all have."""
    headers: tuple[str, ...] = ()
    """The request's headers that it looks at: ``idempotency-key``."""
    name: str = ""
    """Its id in documents, made of method and path if it has none."""
    fixed: frozenset[str] = frozenset()
    """The parameters that stand in the path with one value: a domain's name, a command's."""

    @property
    def operation_id(self) -> str:
        """Its id in documents."""
        steps = re.sub(r"[^a-z0-9]+", "_", self.path.lower()).strip("_")
        return self.name or f"{self.method.lower()}_{steps or 'root'}"

    @property
    def is_of_workspace(self) -> bool:
        """Whether it is about one workspace, which it names or finds."""
        names = () if self.params is None else self.params.__struct_fields__
        body = getattr(self.body, "__struct_fields__", ())
        return "workspace_id" in {*self.path_params, *names, *body}

    @property
    def sends_command(self) -> bool:
        """Whether it sends a command, which its domain may refuse in its own way."""
        return "idempotency-key" in self.headers

    @property
    def shape(self) -> str:
        """The path with its parameters nameless: two routes of one shape are one path."""
        return _PARAMETER.sub("{}", self.path)

    @property
    def path_params(self) -> list[str]:
        """The names of the parameters in the path."""
        return _PARAMETER.findall(self.path)
