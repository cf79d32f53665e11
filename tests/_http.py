"""Clients of a test's own servers, which have no TLS."""

from __future__ import annotations

import ssl
from typing import Any

PLAIN: dict[str, Any] = {
    "trust_env": False,
    "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
}
"""How an `httpx` client is made: it asks the environment for no proxy, and reads no certificates.

Unless it is told otherwise, each client reads all of the machine's, which takes 30 ms of processor
time; and one is made each time that somebody looks whether a server has started.
"""
