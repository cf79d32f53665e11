"""Every bound on what providers are asked and what they may answer."""

from __future__ import annotations

from dataclasses import dataclass

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLimits:
    """Every bound; each may be set.  How long a provider may be silent is in its settings."""

    token_s: float = 120.0
    """Seconds to the first token, and from one to the next, while comments keep the connection
    alive: a model that is loaded from a disk takes a minute."""
    answer_s: float = 600.0
    """Seconds that an answer is waited for altogether; a run has as many, unless it says
    otherwise."""
    retry_after_max_s: float = 30.0
    """The longest ``Retry-After`` that is waited for; one that says more is a failure at once."""
    request_bytes_max: int = 8 * _MIB
    """A question, as JSON: far above what any model reads."""
    line_bytes_max: int = 1 * _MIB
    """A line of a stream: some send a whole tool call in one."""
    event_bytes_max: int = 1 * _MIB
    """The lines of an event together."""
    answer_bytes_max: int = 16 * _MIB
    """All that comes back: a token takes 250 bytes of a stream."""
    error_bytes_max: int = 64 * _KIB
    """What is read of an answer that is an error; the rest is not looked at."""
    tool_calls_max: int = 128
    """Tool calls of an answer."""
    connections_max: int = 100
    """Connections at a time, as many as a node carries out runs; a question that finds none waits,
    and its silence counts."""
    connections_idle_max: int = 20
    """Connections that are kept for later questions …"""
    connections_idle_s: float = 30.0
    """… in seconds: below what servers keep theirs for."""
