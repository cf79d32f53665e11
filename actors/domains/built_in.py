"""The domains that every runtime serves, beside those of its app."""

from __future__ import annotations

from typing import Any

from dalsegno.protocol import Domain
from dalsegno.protocol.audit import trail

from .accounts import account_domains

built_in_domains: tuple[Domain[Any, Any, Any], ...] = (*account_domains, trail)
"""Accounts and memberships, and the log of what is on record."""
