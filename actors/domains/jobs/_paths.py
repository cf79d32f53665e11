"""Where a note stands in an archive: a path that its title and its id decide, and nothing else.

The title is for people, so much of it as every file system takes; the id tells notes of one title
apart.  What Unicode says of a character is not asked, since that is another on each Python.
"""

from __future__ import annotations

import re
from hashlib import blake2b

FOLDER = "notes"
STEM_CHARS_MAX = 80
STEM_BYTES_MAX = 120
"""Of UTF-8: with the id and the ending a name has less than the 255 that file systems take."""

_FORBIDDEN = re.compile(
    '[\x00-\x1f\x7f-\x9f<>:"/\\\\|?*\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]+'
)
"""Controls, those that turn the direction of text, and what Windows takes in no name."""
_BLANKS = re.compile(r"[ \u00a0]+")
_PLAIN_ID = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)", re.IGNORECASE | re.ASCII)
"""Names of devices on Windows, whatever their ending."""


def path_of(note_id: str, title: str) -> str:
    """Return the path of a note: ``notes/From the sign.0190….md``."""
    return f"{FOLDER}/{_stem(title)}.{_tail(note_id)}.md"


def _stem(title: str) -> str:
    stem = _BLANKS.sub(" ", _FORBIDDEN.sub("-", title))[:STEM_CHARS_MAX]
    cut = stem.encode()[:STEM_BYTES_MAX].decode(errors="ignore")
    cut = cut.strip(" .") or "untitled"
    return f"_{cut}" if _RESERVED.match(cut) else cut


def _tail(note_id: str) -> str:
    """Return what stands for an id: itself, or a digest where it is none of the runtime's.

    Two ids that differ in case alone would be one file on some systems.
    """
    if _PLAIN_ID.fullmatch(note_id):
        return note_id
    return "~" + blake2b(note_id.encode(), digest_size=16).hexdigest()
