"""How a model answers an iteration: the whole texts of the files that it changes.

    <<<<<< specs/login.md
    # Logging in
    >>>>>>

A line of a text that would begin or end a file has a backslash before it, which is taken off; so
any text can be said.  What stands outside of files is for people, and passed over.  The answer is
read in one pass over its lines.
"""

from __future__ import annotations

from dalsegno.protocol import Reject

BEGINS, ENDS = "<<<<<< ", ">>>>>>"
_ESCAPE = "\\"


def instructions() -> str:
    """Return how a model is told to answer."""
    return (
        "You revise the files of a proposal. Answer with the whole new text of each file that you "
        "change or create, and of no other, in this form:\n\n"
        f"{BEGINS}path/of/the/file\n"
        "the text, as it will be\n"
        f"{ENDS}\n\n"
        f"Paths are those that you were shown, with / between folders. A line of a text that "
        f"itself begins with {BEGINS.strip()} or {ENDS}, whatever backslashes stand before it, has "
        "one backslash more. What you want to explain stands outside of the files."
    )


def read_answer(text: str) -> dict[str, str]:
    """Return the files of an answer, by their paths: at least one.

    Raises:
        Reject: ``ANSWER_UNREADABLE``.

    """
    files: dict[str, str] = {}
    path: str | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        said = line.removesuffix("\r")
        if path is None:
            if said.startswith(BEGINS):
                path, lines = said.removeprefix(BEGINS).strip(), []
                if path in files:
                    raise _unreadable(f"it has {path[:200]!r} twice")
        elif said.rstrip() == ENDS:
            files[path] = "".join(f"{each}\n" for each in lines)
            path = None
        elif said.startswith(BEGINS):
            raise _unreadable(f"a file begins within {path[:200]!r}")
        else:
            lines.append(_plain(line))
    if path is not None:
        raise _unreadable(f"{path[:200]!r} does not end")
    if not files:
        raise _unreadable("it has no file")
    return files


def file_block(path: str, text: str) -> str:
    """Return a file as it stands in an answer, and in what a model is shown.

    What is read of it is the text, whose last line has an end then: a model that gives a file back
    as it was shown has not changed it.
    """
    end = "" if not text or text.endswith("\n") else "\n"
    return f"{BEGINS}{path}\n{escaped(text)}{end}{ENDS}"


def escaped(text: str) -> str:
    """Return a text with the backslashes that its lines have in an answer."""
    return "\n".join(_ESCAPE + line if _is_marked(line) else line for line in text.split("\n"))


def _plain(line: str) -> str:
    return line[1:] if line.startswith(_ESCAPE) and _is_marked(line) else line


def _is_marked(line: str) -> bool:
    """Return whether a line is one that has, or may have, a backslash too many."""
    return line.lstrip(_ESCAPE).startswith((BEGINS.strip(), ENDS))


def _unreadable(why: str) -> Reject:
    return Reject("ANSWER_UNREADABLE", f"the model's answer cannot be used: {why}")
