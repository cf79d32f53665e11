"""How rules are refused."""

from __future__ import annotations

from dalsegno.protocol import Reject


def invalid(field: str, detail: str) -> Reject:
    """Return the refusal of a rule that says something wrong; ``detail`` says what."""
    return Reject("RULE_INVALID", f"{field}: {detail}", status=422, field=field, detail=detail)


def no_rule() -> Reject:
    """Return the refusal for a rule that there is not, or no longer."""
    return Reject("RULE_NOT_FOUND", "no such rule")
