"""JMESPath within bounds: what an expression costs is counted, so that its verdict is one.

An expression of a few characters can ask for more than a machine has: ``[@,@][]`` doubles a list
each time it stands there, and `to_string` writes out in full what is shared a thousand times.  So
every visit of the interpreter counts, and so do the values that it is about to copy, compare or
write.  Past the bound is an error, at the same place for the same input, on every machine.

What would be another on each is refused when the expression is read: nesting that depends on how
deep the stack is already, and references to expressions as values, whose text has an address.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import jmespath.exceptions
from jmespath.functions import Functions
from jmespath.parser import Parser
from jmespath.visitor import Options, TreeInterpreter

if TYPE_CHECKING:
    from jmespath.visitor import _TreeNode as Node

VISITS_MAX = 10_000
"""Visits of the interpreter, and elements that are copied, compared or written, in an evaluation.
Text counts by the thousand of characters."""
DEPTH_MAX = 64
"""Of the parts of an expression within each other, and so of brackets."""

_CHARS_A_VISIT = 1_000
_OPENING, _CLOSING = "([{", ")]}"
_BY_EXPRESSION = frozenset({"map", "sort_by", "min_by", "max_by"})
"""The functions that take a reference to an expression."""
_DEEP = frozenset({"to_string", "contains"})
"""Those that look at all that their arguments have within."""


class InvalidExpressionError(ValueError):
    """A text is no expression, or one that is not taken."""


class EvaluationError(Exception):
    """An expression has no value: it is wrong for what it was evaluated over, or costs too much."""


class _TooMuchError(jmespath.exceptions.JMESPathError):
    """The bound of visits is reached."""


_RAISED = (ValueError, TypeError, ArithmeticError, AttributeError)
"""What jmespath raises: errors of its own, which are of the first, and Python's, where it does not
look at the type of a value first."""


def parse(text: str) -> Node:
    """Return an expression as a tree.

    Raises:
        InvalidExpressionError: it is none, or not one that is taken; with the reason.

    """
    _check_brackets(text)
    try:
        with catch_warnings():
            simplefilter("error", PendingDeprecationWarning)
            tree = Parser().parse(text).parsed
    except PendingDeprecationWarning:  # ``a == `b` ``, with quotes left out
        raise InvalidExpressionError("between backticks stands JSON") from None
    except jmespath.exceptions.JMESPathError as error:
        raise InvalidExpressionError(str(error)) from error
    except RecursionError:  # ``!!!!…``
        raise _too_deep() from None
    _check(tree)
    return tree


def _check_brackets(text: str) -> None:
    """Raise for brackets that are too deep, whatever they are in: the parser is recursive."""
    depth = 0
    for character in text:
        if character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        if depth > DEPTH_MAX:
            raise _too_deep()


def _check(tree: Node) -> None:
    left: list[tuple[Node, int, bool]] = [(tree, 1, False)]
    while left:
        node, depth, is_argument = left.pop()
        kind = node["type"]
        if depth > DEPTH_MAX:
            raise _too_deep()
        if kind == "expref" and not is_argument:
            names = ", ".join(sorted(_BY_EXPRESSION))
            raise InvalidExpressionError(f"& stands in {names} only")
        if kind == "function_expression" and node["value"] not in Functions.FUNCTION_TABLE:
            raise InvalidExpressionError(f"no function: {node['value']}()")
        takes = kind == "function_expression" and node["value"] in _BY_EXPRESSION
        children: list[Any] = node["children"]  # of a slice they are numbers
        left += [
            (child, depth + 1, takes) for child in children if not isinstance(child, int | None)
        ]


def _too_deep() -> InvalidExpressionError:
    return InvalidExpressionError(f"its parts are more than {DEPTH_MAX} deep")


def evaluate(tree: Node, value: object) -> object:
    """Return the value of an expression over a JSON value.

    Raises:
        EvaluationError: there is none; with the reason.

    """
    try:
        return _Interpreter().visit(tree, value)
    except _RAISED as error:
        raise EvaluationError(f"{type(error).__name__}: {error}"[:500]) from error


def is_true(value: object) -> bool:
    """Return JMESPath's truth: all but null, false, and an empty text, array or object."""
    return not (value is None or value is False or value in ("", [], {}))


class _Interpreter(TreeInterpreter):
    """Counts what an evaluation costs."""

    def __init__(self) -> None:
        super().__init__(Options(custom_functions=_Functions(self)))
        self._left = VISITS_MAX

    def __repr__(self) -> str:
        return f"<_Interpreter, {self._left} visits left>"

    def spend(self, count: int) -> None:
        """Count something.

        Raises:
            _TooMuchError: it is past the bound.

        """
        self._left -= count
        if self._left < 0:
            raise _TooMuchError(f"it takes more than {VISITS_MAX} visits")

    def weigh(self, value: object, *, within: bool) -> None:
        """Count a value that is about to be looked at, with all that it has within, or without."""
        values = [value]
        while values:
            each = values.pop()
            self.spend(1 + (len(each) // _CHARS_A_VISIT if isinstance(each, str) else 0))
            if isinstance(each, (list, dict)) and (within or each is value):
                self.spend(len(each))
                values += each.values() if isinstance(each, dict) else each

    def visit(self, node: Node, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - jmespath's
        """Visit a part of the expression."""
        self.spend(1)
        return super().visit(node, *args, **kwargs)

    def visit_flatten(self, node: Node, value: object) -> Any:  # noqa: ANN401 - JSON
        """Put the lists in a list together."""
        base = self.visit(node["children"][0], value)
        if not isinstance(base, list):
            return None
        self.spend(sum(len(each) if isinstance(each, list) else 1 for each in base))
        return super().visit_flatten({**node, "children": [_literal(base)]}, value)

    def visit_slice(self, node: Node, value: object) -> Any:  # noqa: ANN401 - JSON
        """Copy a part of a list."""
        if isinstance(value, list):
            self.spend(len(value))
        return super().visit_slice(node, value)

    def visit_comparator(self, node: Node, value: object) -> Any:  # noqa: ANN401 - JSON
        """Compare two values."""
        literals = []
        for child in node["children"]:
            side = self.visit(child, value)
            self.weigh(side, within=True)
            literals.append(_literal(side))
        return super().visit_comparator({**node, "children": literals}, value)


def _literal(value: object) -> Node:
    return {"type": "literal", "value": value, "children": []}


class _Functions(Functions):
    """Counts what a function is about to look at; what it returns is no larger."""

    def __init__(self, interpreter: _Interpreter) -> None:
        self._interpreter = interpreter

    def call_function(self, function_name: str, resolved_args: Iterable[Any]) -> Any:  # noqa: ANN401 - JSON
        """Call a function."""
        given = list(resolved_args)
        for each in given:
            self._interpreter.weigh(each, within=function_name in _DEEP)
        match given:
            case [str(glue), list(parts)] if function_name == "join":
                self._interpreter.spend(len(glue) * len(parts) // _CHARS_A_VISIT)
        return super().call_function(function_name, given)
