"""What is wrong where no session could be opened: what waiting may mend, and what a person has to.

libpq gives no SQLSTATE for a session that was never opened, only words.  They are the server's, in
the language of its ``lc_messages``, or the driver's own, which are English here.  So what is not
known to be for good counts as passing: it is tried again for a while, and then told in the same
words.
"""

from __future__ import annotations

import re

_FOR_GOOD = (
    # Words, and what to do about them.  Those of servers are ERROR messages of PostgreSQL 15 to 18
    # and of PgBouncer; the others are libpq's and asyncpg's.
    (r"password authentication failed|SASL authentication failed", "check the user's password"),
    (r"no password supplied", "put the password into the address, PGPASSWORD or ~/.pgpass"),
    (r"role .* does not exist|no such user", "create the user, or name another one"),
    (r"database .* does not exist|no such database", "create the database, or name another one"),
    (r"permission denied for database", "let the user connect: grant connect on database …"),
    (r"pg_hba\.conf", "allow the user, the database and this machine in pg_hba.conf"),
    (r"is not currently accepting connections", "alter database … allow_connections true"),
    (r"unsupported startup parameter", "set ignore_startup_parameters in the pooler"),
    (r"does not support SSL", "set sslmode in the address, or turn on TLS at the server"),
    (r"rejected SSL upgrade", "set sslmode in the address, or turn on TLS at the server"),
    (r"certificate verify failed|root certificate file", "check sslmode and sslrootcert"),
    (r"local user with ID \d+ does not exist", "name the user in the address, or in PGUSER"),
    (r"invalid .*value|invalid connection option", "correct the address"),
)
_KNOWN = tuple((re.compile(words), advice) for words, advice in _FOR_GOOD)

_PREFIX = re.compile(r"^(connection failed|connection is bad): ")


def advice_on(words: str) -> str | None:
    """Return what a person has to do about a failure; None if it may pass by itself."""
    return next((advice for pattern, advice in _KNOWN if pattern.search(words)), None)


def in_one_line(words: str) -> str:
    """Return a failure's words without line breaks, and without libpq's first words."""
    return _PREFIX.sub("", " ".join(words.split()))
