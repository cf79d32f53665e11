"""How a model's answer is read: any text comes back as it was, and nothing takes long."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, strategies as st

from dalsegno.actors.domains.reviews._answers import (
    BEGINS,
    ENDS,
    escaped,
    file_block,
    instructions,
    read_answer,
)
from dalsegno.protocol import Reject
from tests._patience import patient

MARKS = st.sampled_from(["<<<<<<", "<<<<<< a", ">>>>>>", ">>>>>> ", "\\", "\r", "\n", " ", "x"])
LINES = st.lists(MARKS, max_size=20).map("".join) | st.text(max_size=40)
TEXTS = st.lists(LINES, max_size=8).map("\n".join)
PATHS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Z"], exclude_characters="\\"), min_size=1
)


@given(TEXTS)
def test_any_text_comes_back_out_of_an_answer(text: str) -> None:
    answer = f"I say:\n{BEGINS}a.md\n{escaped(text)}\n{ENDS}\nThat is all."
    assert read_answer(answer) == {"a.md": f"{text}\n"}


@given(
    st.dictionaries(PATHS, TEXTS, min_size=1, max_size=4), st.sampled_from(["", "\n", "\nSo:\n"])
)
def test_what_is_shown_of_files_and_given_back_has_not_changed(
    files: dict[str, str], between: str
) -> None:
    answer = f"\n{between}".join(file_block(path, text) for path, text in files.items())
    read = read_answer(answer)
    assert {path: text.removesuffix("\n") for path, text in read.items()} == {
        path: text.removesuffix("\n") for path, text in files.items()
    }
    for path, text in files.items():
        if not text or text.endswith("\n"):
            assert read[path] == text
    assert read_answer("\n".join(file_block(*each) for each in read.items())) == read


@given(TEXTS)
def test_any_text_is_an_answer_or_is_refused(text: str) -> None:
    for answer in (text, f"{BEGINS}a\n{text}", f"{BEGINS}a\n{text}\n{ENDS}"):
        try:
            files = read_answer(answer)
        except Reject as error:
            code = error.code
        else:
            code, _ = "ANSWER_UNREADABLE", [each.encode() for each in files.values()]
        assert code == "ANSWER_UNREADABLE"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "it has no file"),
        ("I have nothing to change.", "it has no file"),
        ("<<<<<<\ntext\n>>>>>>", "it has no file"),
        ("<<<<<< a\ntext", "'a' does not end"),
        ("<<<<<< a\ntext\n>>>>>>>", "'a' does not end"),
        ("<<<<<< a\ntext\n\\>>>>>>", "'a' does not end"),
        ("<<<<<< a\n1\n>>>>>>\n<<<<<< a\n2\n>>>>>>", "it has 'a' twice"),
        ("<<<<<< a\n1\n>>>>>>\n<<<<<<  a \n2\n>>>>>>", "it has 'a' twice"),
        ("<<<<<< a\n<<<<<< b\n>>>>>>", "a file begins within 'a'"),
        ("<<<<<< a\n1\n>>>>>>\n<<<<<< b", "'b' does not end"),
    ],
)
def test_what_is_no_answer(answer: str, why: str) -> None:
    for text in (answer, answer.replace("\n", "\r\n")):
        with pytest.raises(Reject, match="cannot be used") as caught:
            read_answer(text)
        assert caught.value.code == "ANSWER_UNREADABLE"
        assert caught.value.message.endswith(why)


@pytest.mark.parametrize(
    ("answer", "files"),
    [
        ("<<<<<< a\n>>>>>>", {"a": ""}),
        ("<<<<<< a\n\n>>>>>>", {"a": "\n"}),
        ("<<<<<< a b/c.md\n1\r\n2\r\n>>>>>>\r\n", {"a b/c.md": "1\r\n2\r\n"}),
        (">>>>>>\n<<<<<< a\n1\n>>>>>>  \n>>>>>>", {"a": "1\n"}),
        ("<<<<<< a\n\\>>>>>>\n\\\\<<<<<< b\n\\x\n>>>>>>", {"a": ">>>>>>\n\\<<<<<< b\n\\x\n"}),
        (" <<<<<< b\n<<<<<< a\n >>>>>>\n>>>>>>", {"a": " >>>>>>\n"}),
    ],
)
def test_what_is_an_answer(answer: str, files: dict[str, str]) -> None:
    assert read_answer(answer) == files


@pytest.mark.parametrize(
    "text",
    [
        "<" * 2_000_000,
        f"{BEGINS}a\n" + "<" * 2_000_000,
        f"{BEGINS}a\n" + "\\" * 2_000_000,
        f"{BEGINS}a\n" + "\\\n" * 1_000_000,
        f"{BEGINS}a\n" + "<<<<<<\n" * 300_000,
        f"{BEGINS}a\n" + "\\" * 999_000 + ">>>>>>\n" + ">" * 999_000,
        "".join(f"{BEGINS}{number}\n{ENDS}\n" for number in range(100_000)),
        f"{BEGINS}{'a' * 1_000_000}\n" * 2,
    ],
    ids=map(str, range(8)),
)
def test_two_megabytes_are_read_in_one_pass(text: str) -> None:
    began = time.perf_counter()
    for _ in range(2):
        try:
            read_answer(text)
        except Reject as error:
            shown: Any = error.message
            assert len(shown) < 1_000, "no error is as long as an answer"
    assert time.perf_counter() - began < patient(4)


def test_a_model_is_told_the_form_that_is_read() -> None:
    assert f"{BEGINS}path/of/the/file\n" in instructions()
    assert read_answer(instructions()) == {"path/of/the/file": "the text, as it will be\n"}
