"""Elements without attributes, in which a librarian is asked and answers (`xml_attrless`).

An element is ``<name>`` … ``</name>``, with a name of letters, digits, ``_``, ``:`` and ``-``, and
holds either text or elements.  There is nothing else: no attribute, no blank in a tag, no ``<a/>``,
no comment, no declaration, hence no entity of one's own, and nothing that could be expanded.  A
text is written with ``&lt;`` for ``<`` and ``&amp;`` for ``&``, and read back.

A model's answer is hostile input: each character is looked at once, and no deeper than three
elements is ever meant.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_TAG = re.compile(r"<(/?)([A-Za-z0-9_:-]+)>", re.ASCII)
_ESCAPED = re.compile(r"&(lt|gt|amp);")
_MEANT = {"lt": "<", "gt": ">", "amp": "&"}
_DEPTH_MAX = 16


class MarkupError(ValueError):
    """A text that is no element: a tag or the nesting of tags is wrong."""


class Element(msgspec.Struct, frozen=True):
    """An element that was read: its text, or what is in it."""

    name: str
    text: str
    """Without the elements in it; as it was meant, blanks at both ends left out."""
    elements: tuple[Element, ...] = ()

    def all(self, name: str) -> Sequence[Element]:
        """Return the elements of a name that are in it, in their order."""
        return [each for each in self.elements if each.name == name]


class _Open:
    """An element whose end has not come yet."""

    __slots__ = ("elements", "name", "texts")

    def __init__(self, name: str) -> None:
        self.name = name
        self.texts: list[str] = []
        self.elements: list[Element] = []

    def closed(self) -> Element:
        text = "".join(self.texts).strip()
        return Element(self.name, unescaped(text), tuple(self.elements))


def read(text: str) -> Element:
    """Return the one element that a text is.

    Ends of lines may be CRLF or CR.

    Raises:
        MarkupError: it is none, or more than one; something stands beside it; a tag has blanks or
            attributes, is empty, is not ended, or closes itself; or tags are not nested.

    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    opened: list[_Open] = []
    place = 0
    root: Element | None = None
    while (begin := text.find("<", place)) >= 0:
        _add_text(opened, text[place:begin])
        tag = _TAG.match(text, begin)
        if tag is None or root is not None:
            raise MarkupError("no tag" if tag is None else "more than one element")
        place, (closes, name) = tag.end(), tag.groups()
        if not closes:
            if len(opened) == _DEPTH_MAX:
                raise MarkupError("too deep")
            opened.append(_Open(name))
            continue
        if not opened or opened[-1].name != name:
            raise MarkupError("not nested")
        element = opened.pop().closed()
        if opened:
            opened[-1].elements.append(element)
        else:
            root = element
    _add_text(opened, text[place:])
    if root is None or opened:
        raise MarkupError("not ended")
    return root


def _add_text(opened: list[_Open], text: str) -> None:
    if opened:
        opened[-1].texts.append(text)
    elif text.strip():
        raise MarkupError("text outside")


def escaped(text: str) -> str:
    """Return a text as it is written into an element."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def unescaped(text: str) -> str:
    """Return what is meant by a text of an element; what is no escape stays as it is."""
    return _ESCAPED.sub(lambda found: _MEANT[found[1]], text)


def element(name: str, text: str) -> str:
    """Write an element with a text."""
    return f"<{name}>{escaped(text)}</{name}>"


def group(name: str, elements: Sequence[str]) -> str:
    """Write an element with elements that are written already."""
    return f"<{name}>\n{chr(10).join(elements)}\n</{name}>"
