"""An answer, whatever its chunks are: put together as it was, or refused in words."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, strategies as st

from dalsegno.runtime.providers import Answered, ProviderError, TextDelta, ToolCallDelta
from dalsegno.runtime.providers._answer import Answer, parse_json


def an_answer() -> Answer:
    return Answer(model="m", provider_kind="k", tool_calls_max=4)


def halves(text: str) -> list[str]:
    """The text in UTF-16, unit by unit, as JSON escapes each of them."""
    units = text.encode("utf-16-be")
    return [chr(int.from_bytes(units[at : at + 2])) for at in range(0, len(units), 2)]


def cut(units: list[str], places: list[int]) -> list[str]:
    ends = [0, *sorted(min(place, len(units)) for place in places), len(units)]
    return ["".join(units[a:b]) for a, b in pairwise(ends)]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(texts, st.lists(st.integers(0, 40), max_size=6))
def test_text_that_is_cut_anywhere_is_whole_again(text: str, places: list[int]) -> None:
    """Also within a character, as some do that cut by UTF-16."""
    answer, said, arguments = an_answer(), "", ""
    for piece in cut(halves(text), places):
        call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": piece}}
        document = {"choices": [{"delta": {"content": piece, "tool_calls": [call]}}]}
        for delta in answer.take(parse_json(json.dumps(document))):
            assert not isinstance(delta, TextDelta) or delta.text
            said += delta.text if isinstance(delta, TextDelta) else ""
            arguments += delta.arguments if isinstance(delta, ToolCallDelta) else ""
    answer.take({"choices": [{"finish_reason": "tool_calls"}]})
    (call_,) = answer.end().tool_calls
    assert said == arguments == call_.arguments == text


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


def like(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object with some of these fields, or now and then anything at all in their place."""
    well_made = st.fixed_dictionaries({}, optional=fields)
    return st.integers(0, 19).flatmap(lambda luck: well_made if luck else anything)


functions = like(name=st.sampled_from(["f", ""]), arguments=st.text(max_size=4))
calls = like(index=st.integers(-1, 6), id=st.sampled_from(["a", "b", ""]), function=functions)
said = like(
    content=st.text(max_size=6),
    refusal=st.just(""),
    reasoning=st.text(max_size=6),
    tool_calls=st.lists(calls, max_size=3),
)
reasons = st.sampled_from([None, "stop", "length", "tool_calls", "content_filter", "other"])
choices = like(index=st.integers(0, 1), delta=said, message=said, finish_reason=reasons)
usages = like(prompt_tokens=st.integers(), completion_tokens=st.integers())
errors = like(code=st.integers() | st.just("insufficient_quota"), message=st.text()) | st.none()
chunks = like(choices=st.lists(choices, max_size=2), usage=usages)
with_errors = chunks | like(choices=st.lists(choices, max_size=2), error=errors)


@given(st.lists(with_errors, max_size=6))
def test_whatever_comes_is_an_answer_or_a_failure(documents: list[Any]) -> None:
    answer, told = an_answer(), []
    try:
        for document in documents:
            told += answer.take(document)
        end = answer.end()
    except ProviderError:  # and nothing else
        return
    assert isinstance(end, Answered)
    for index, call in enumerate(end.tool_calls):
        deltas = [d for d in told if isinstance(d, ToolCallDelta) and d.index == index]
        assert "".join(delta.arguments for delta in deltas) == call.arguments
        assert {(delta.call_id, delta.name) for delta in deltas} == {(call.call_id, call.name)}
    for delta in told:
        text = delta.arguments if isinstance(delta, ToolCallDelta) else delta.text
        assert "\0" not in text
        text.encode()
