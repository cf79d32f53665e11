"""Parameters, in the text that PostgreSQL reads them from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
from psycopg.adapt import PyFormat

from ._answers import DATA_EXCEPTION, INTERNAL_ERROR
from ._driver import DatabaseError

if TYPE_CHECKING:
    from psycopg.abc import Buffer, Transformer


def as_text(param: object, values: Transformer) -> Buffer:
    """Return a parameter in PostgreSQL's text format.

    Raises:
        DatabaseError: it has no such form; nothing was sent.
    """
    if isinstance(param, str):
        if "\0" in param:
            raise DatabaseError(DATA_EXCEPTION, "a text in PostgreSQL has no NUL (0x00)")
        try:
            return param.encode()
        except UnicodeEncodeError as error:
            raise DatabaseError(DATA_EXCEPTION, "a text holds a lone surrogate") from error
    try:
        dumped = values.get_dumper(param, PyFormat.TEXT).dump(param)
    except psycopg.DataError as error:
        raise DatabaseError(DATA_EXCEPTION, str(error)) from error
    except psycopg.Error as error:
        raise DatabaseError(INTERNAL_ERROR, str(error)) from error
    assert dumped is not None, "None is dumped nowhere"
    return dumped
