"""How jobs are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dalsegno.protocol import Reject, renamed

if TYPE_CHECKING:
    from dalsegno.protocol import DalsegnoError


def no_job() -> Reject:
    """Return the refusal of what is no job, or none that the caller may see."""
    return Reject("JOB_NOT_FOUND", "no such job")


def as_job(error: DalsegnoError) -> DalsegnoError:
    """Return an error as those know it who ask for jobs, which are runs."""
    if error.code == "RUN_NOT_FOUND":
        return renamed(error, "JOB_NOT_FOUND")
    return error
