"""M8: a librarian's markup against a model of it, and its answers under every small damage.

The model reads one character after the other and knows nothing of the parser.  What both read has
to be the same, and what one refuses the other refuses; so an answer that was damaged in a byte is
read as what now stands there, or is refused with a code and diagnostics, and nothing else.
"""

from __future__ import annotations

import re
import string
import sys
import time
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings, strategies as st

from dalsegno.actors.domains.automation.librarian import (
    Element,
    LibrarianResponse,
    MarkupError,
    Operation,
    OperationKind,
    ParseError,
    element,
    escaped,
    group,
    read,
    read_response,
)

pytestmark = pytest.mark.long

DEPTH_MAX = 16
NAME = frozenset(string.ascii_letters + string.digits + "_:-")
CODES = {"LIBRARIAN_PROTOCOL_INVALID", "LIBRARIAN_PARSE_FAILED"}
ERROR = re.compile(
    r"MALFORMED_NESTING_OR_TAG|MISSING_ROOT_LIBRARIAN_RESPONSE"
    r"|(MISSING_TAG|MULTIPLE_TAGS|EMPTY_TAG):[a-z_.\[\]0-9]+"
    r"|UNKNOWN_TAG:[A-Za-z0-9_:.\[\]-]+"
    r"|INVALID_STATUS:.+"
    r"|operation\[\d+\]:(INVALID_KIND:.+|MISSING_TARGET|INVALID_CONFIDENCE_FORMAT)"
    r"|operation\[\d+\]:(INVALID_CONFIDENCE_RANGE:.+|INVALID_ID|DUPLICATE_ID:.+)"
    r"|TOO_MANY_OPERATIONS:\d+",
    re.DOTALL,
)


@pytest.fixture
def examples(pytestconfig: pytest.Config) -> settings:
    return settings(max_examples=10_000 if pytestconfig.getoption("--soak") else 300)


# ------------------------------------------------------------------------------------- the model


def in_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def meaning(text: str) -> Element | None:
    """Return the element that a text is, None where it is none."""
    text = in_lines(text)
    names: list[str] = []
    texts: list[str] = []
    inside: list[list[Element]] = [[]]
    place = 0
    while place < len(text):
        if text[place] != "<":
            if names:
                texts[-1] += text[place]
            elif not text[place].isspace():
                return None
            place += 1
            continue
        end = text.find(">", place)
        name = text[place + 1 : end].removeprefix("/")
        if end < 0 or not name or not NAME.issuperset(name) or (not names and inside[0]):
            return None
        if text[place + 1] != "/":
            names.append(name)
            texts.append("")
            inside.append([])
        elif names and names[-1] == name:
            closed = Element(names.pop(), unescaped(texts.pop().strip()), tuple(inside.pop()))
            inside[-1].append(closed)
        else:
            return None
        if len(names) > DEPTH_MAX:
            return None
        place = end + 1
    return inside[0][0] if not names and inside[0] else None


def unescaped(text: str) -> str:
    meant, place = "", 0
    while place < len(text):
        for written, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
            if text.startswith(written, place):
                meant += character
                place += len(written)
                break
        else:
            meant += text[place]
            place += 1
    return meant


def what_is_read(text: str) -> Element | None:
    try:
        return read(text)
    except MarkupError:
        return None


# ------------------------------------------------------------------------------------------- trees

PIECES = ("&lt;", "&amp;", "&gt;", "&", "lt;", "amp;", "<", ">", "</a>", "\r\n", " ", "\x1c", "é")
TEXTS = st.one_of(st.text(max_size=20), st.lists(st.sampled_from(PIECES), max_size=6).map("".join))
NAMES = st.text(sorted(NAME), min_size=1, max_size=8)
LEAVES = st.builds(Element, NAMES, TEXTS)


def trees(depth: int = 4) -> st.SearchStrategy[Element]:
    """Trees of elements that hold a text or elements, or, which is not meant, both."""
    if depth == 0:
        return LEAVES
    inside = st.lists(trees(depth - 1), max_size=4).map(tuple)
    return LEAVES | st.builds(Element, NAMES, st.just("") | TEXTS, inside)


def written(tree: Element) -> str:
    if not tree.elements:
        return element(tree.name, tree.text)
    inside = [written(each) for each in tree.elements]
    if not tree.text:
        return group(tree.name, inside)
    return f"<{tree.name}>{escaped(tree.text)}{''.join(inside)}</{tree.name}>"


def as_kept(tree: Element) -> Element:
    """Return what is kept of a tree: ends of lines are one, and no blanks stand around a text."""
    text = in_lines(tree.text).strip()
    return Element(tree.name, text, tuple(map(as_kept, tree.elements)))


def test_m8_a_tree_that_was_written_is_read_as_it_was(examples: settings) -> None:
    @examples
    @given(trees())
    def search(tree: Element) -> None:
        text = written(tree)
        assert read(text) == as_kept(tree) == meaning(text)
        assert read(written(read(text))) == read(text), "and so on for ever"
        assert read(in_lines(text).replace("\n", "\r\n")) == as_kept(tree)

    search()


@pytest.mark.parametrize("depth", [1, DEPTH_MAX, DEPTH_MAX + 1])
def test_m8_no_deeper_than_it_may_be(depth: int) -> None:
    text = "<a>" * depth + "x" + "</a>" * depth
    assert (what_is_read(text) is not None) == (depth <= DEPTH_MAX)
    assert what_is_read(text) == meaning(text)


# ------------------------------------------------------------------------------------------ damage

BYTES = st.one_of(st.integers(0, 255), st.sampled_from(b"<>/&;ltgamp \r\n\t\0_:-"))
Damage = tuple[str, int, int, int]
MARKUP = (b"<a>", b"</a>", b"<a></a>", b"<a/>", b"< a>", b"<!--", b"<?x?>", b"&lt;", b"x", b" ")
DAMAGES: st.SearchStrategy[list[Damage]] = st.lists(
    st.tuples(
        st.sampled_from(
            ["change", "change", "insert", "remove", "repeat", "cut", "markup", "append", "twice"]
        ),
        st.integers(0, 1 << 20),
        BYTES,
        st.integers(1, 40),
    ),
    min_size=1,
    max_size=4,
)


def damaged(text: str, damages: list[Damage]) -> str:
    """Change, insert, remove or repeat some of it; what is no UTF-8 then is U+FFFD."""
    data = bytearray(text.encode())
    for how, where, byte, length in damages:
        place = where % (len(data) + 1)
        match how:
            case "change":
                data[place : place + 1] = bytes([byte])
            case "insert":
                data[place:place] = bytes([byte])
            case "remove":
                del data[place : place + 1]
            case "repeat":
                data[place:place] = data[place : place + length]
            case "cut":
                del data[place : place + length]
            case "markup":
                data[place:place] = MARKUP[byte % len(MARKUP)]
            case "append":
                data += MARKUP[byte % len(MARKUP)]
            case _:
                data *= 2
    return data.decode(errors="replace")


def test_m8_a_damaged_tree_is_read_as_what_stands_there_or_refused(examples: settings) -> None:
    @examples
    @given(trees(), DAMAGES)
    @example(Element("a", "b"), [("change", 4, ord("<"), 1)])
    @example(Element("a", ""), [("insert", 3, 0, 1)])
    def search(tree: Element, damages: list[Damage]) -> None:
        text = damaged(written(tree), damages)
        assert what_is_read(text) == meaning(text)

    search()


# ----------------------------------------------------------------------------------------- answers

SAID = TEXTS.filter(lambda text: text.strip() != "")
IDS = st.text(max_size=64).map(str.strip).filter(lambda text: text and text.isprintable())
KINDS = st.sampled_from(get_args(OperationKind))
TARGETS = st.sampled_from([("n1", None), (None, "a/b.md"), ("n2", "workspace:w/c.md")])


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    target_note_id, target_path = draw(TARGETS)
    return Operation(
        operation_id=draw(IDS),
        kind=draw(KINDS),
        target_note_id=target_note_id,
        target_path=target_path,
        title=kept(draw(TEXTS)),
        body_markdown=kept(draw(TEXTS)),
        reason=kept(draw(SAID)),
        confidence=draw(st.floats(0, 1)),
    )


def kept(text: str) -> str:
    return in_lines(text).strip()


ANSWERS = st.builds(
    LibrarianResponse,
    request_id=SAID.map(kept),
    status=st.sampled_from(["ok", "needs_clarification", "rejected"]),
    summary=SAID.map(kept),
    operations=st.lists(operations(), max_size=4, unique_by=lambda each: each.operation_id).map(
        tuple
    ),
    warnings=st.lists(TEXTS.map(kept), max_size=3).map(tuple),
)


def surely(confidence: float) -> LibrarianResponse:
    operation = Operation(
        operation_id="o", kind="defer", target_path="a", reason="r", confidence=confidence
    )
    return LibrarianResponse(request_id="q", status="ok", summary="s", operations=(operation,))


def answer_text(answer: LibrarianResponse, order: Any = None) -> str:
    """Write an answer as a model does, its parts in an order of its own."""
    parts = [
        element("request_id", answer.request_id),
        element("status", answer.status),
        element("summary", answer.summary),
        group("operations", [_operation(each, order) for each in answer.operations]),
        group("warnings", [element("warning", each) for each in answer.warnings]),
    ]
    if order is not None:
        order.shuffle(parts)
    return group("librarian_response", parts)


def _operation(operation: Operation, order: Any) -> str:
    said = {
        "operation_id": operation.operation_id,
        "kind": operation.kind,
        "target_note_id": operation.target_note_id,
        "target_path": operation.target_path,
        "title": operation.title,
        "body_markdown": operation.body_markdown,
        "reason": operation.reason,
        "confidence": repr(operation.confidence),
    }
    parts = [element(name, text) for name, text in said.items() if text is not None]
    if order is not None:
        order.shuffle(parts)
    return group("operation", parts)


def check_refusal(error: ParseError, *, is_element: bool | None = None) -> None:
    assert error.code in CODES
    if is_element is not None:
        assert is_element == (error.code == "LIBRARIAN_PARSE_FAILED")
    assert 1 <= len(error.errors) <= 100
    assert all(ERROR.fullmatch(each) for each in error.errors), error.errors
    malformed = error.errors == ["MALFORMED_NESTING_OR_TAG"]
    assert malformed == (error.code == "LIBRARIAN_PROTOCOL_INVALID")


def test_m8_an_answer_is_read_as_it_was_meant(examples: settings) -> None:
    @examples
    @given(ANSWERS, st.randoms(use_true_random=False), st.booleans())
    @example(surely(0.0037714107005901234), None, False)
    @example(surely(5e-324), None, False)
    def search(answer: LibrarianResponse, order: Any, strict: bool) -> None:
        assert read_response(answer_text(answer, order), strict=strict) == answer

    search()


def test_m8_a_damaged_answer_is_read_as_what_stands_there_or_refused_with_a_code(
    examples: settings,
) -> None:
    @examples
    @given(ANSWERS, DAMAGES, st.booleans())
    def search(answer: LibrarianResponse, damages: list[Damage], strict: bool) -> None:
        text = damaged(answer_text(answer), damages)
        root = meaning(text)
        try:
            found = read_response(text, strict=strict)
        except ParseError as error:
            check_refusal(error, is_element=root is not None)
            return
        assert root is not None
        assert found == read_response(written(root)), "of the same meaning"
        assert found == read_response(answer_text(found)), "which can be written"
        said = [each.text for each in root.all("summary")]
        assert [found.summary] == said, "and is what stands there"
        assert len(found.operations) == len(root.all("operations")[0].all("operation"))

    search()


# ------------------------------------------------------------------------------------------ linear

SIZE = 200_000
HOSTILE: dict[str, Callable[[int], str]] = {
    "opened": lambda size: "<" * size,
    "opened in one": lambda size: "<a>" + "<" * size,
    "names": lambda size: "<" + "a" * size,
    "ends": lambda size: "<a>" + "</a>" * (size // 4),
    "deep": lambda size: "<a>" * (size // 3),
    "flat": lambda size: "<a>" + "<b></b>" * (size // 7) + "</a>",
    "escapes": lambda size: "<a>" + "&lt;" * (size // 4) + "</a>",
    "ampersands": lambda size: "<a>" + "&" * size + "</a>",
    "blanks": lambda size: " " * size + "<a></a>" + "\r" * size,
    "text": lambda size: "<a>" + "x > y " * (size // 6) + "</a>",
    "texts": lambda size: "<a>" + "x<b></b>" * (size // 8) + "</a>",
}
ANSWER = answer_text(LibrarianResponse(request_id="q", status="ok", summary="s"))
OPERATION = group("operation", [element("kind", "x"), element("reason", ""), element("z", "z")])
HOSTILE |= {
    "operations": lambda size: ANSWER.replace(
        "<operations>", "<operations>" + OPERATION * (size // len(OPERATION))
    ),
    "parts": lambda size: ANSWER.replace(
        "<operations>", f"<operations><operation>{'<kind></kind>' * (size // 13)}</operation>"
    ),
    "warnings": lambda size: ANSWER.replace(
        "<warnings>", "<warnings>" + "<warning></warning>" * (size // 19)
    ),
}


def parse(text: str) -> None:
    try:
        read_response(text, strict=True)
    except ParseError as error:
        check_refusal(error)


def calls_of(text: str) -> int:
    """Count the calls that it takes, the interpreter's own among them."""
    count = 0

    def tell(_frame: object, kind: str, _argument: object) -> None:
        nonlocal count
        count += kind in {"call", "c_call"}

    sys.setprofile(tell)
    try:
        parse(text)
    finally:
        sys.setprofile(None)
    return count


def seconds_of(text: str) -> float:
    """Return the processor time that it takes at the least: what the calls do in C."""
    times = []
    for _ in range(3):
        began = time.process_time()
        parse(text)
        times.append(time.process_time() - began)
    return min(times)


def test_m8_a_megabyte_that_opens_and_opens_is_refused_at_its_first_tag() -> None:
    one, two = ("<" * size for size in (1_000_000, 2_000_000))
    assert calls_of(one) == calls_of(two) < 100
    assert seconds_of(two) < 8 * seconds_of(one) or seconds_of(two) < 0.02


@pytest.mark.parametrize("name", HOSTILE)
def test_m8_twice_the_text_is_at_most_twice_the_work(name: str) -> None:
    one, two = (calls_of(HOSTILE[name](size)) for size in (SIZE, 2 * SIZE))
    assert two < 2.1 * one + 100
    # Four times the text: 4 where it is linear, 16 where it is not.  Milliseconds say nothing.
    once, four_times = (seconds_of(HOSTILE[name](size)) for size in (SIZE, 4 * SIZE))
    assert four_times < 8 * once or four_times < 0.02
