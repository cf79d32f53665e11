"""Settings of model providers: what they may be, and in which words they are refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from dalsegno.protocol.providers import (
    ProviderSettings,
    ProviderSettingsError,
    provider_problem,
    read_provider_settings,
)

LEAST = {"provider_kind": "lmstudio", "model": "qwen"}


def test_what_is_not_said_is_as_the_kind_has_it() -> None:
    settings = read_provider_settings(LEAST)
    assert settings == ProviderSettings(provider_kind="lmstudio", model="qwen")
    assert (settings.timeout_ms, settings.retry_limit, settings.models) == (2_000, 1, ("qwen",))
    assert settings.url == "http://127.0.0.1:1234/v1/chat/completions"
    settings = read_provider_settings({**LEAST, "provider_kind": "openrouter", "base_url": None})
    assert settings.url == "https://openrouter.ai/api/v1/chat/completions"


def test_all_of_it() -> None:
    document = {
        "provider_kind": "openrouter",
        "model": "a/b",
        "base_url": "http://[::1]:8080/v1/chat/completions?x=1",
        "timeout_ms": 120_000,
        "retry_limit": 0,
        "max_tokens": -1,
        "temperature": 2,
        "fallback_models": ["c", "d"],
    }
    settings = read_provider_settings(document)
    assert settings.models == ("a/b", "c", "d")
    assert settings.url == document["base_url"]
    assert msgspec.to_builtins(settings) == {**document, "fallback_models": ("c", "d")}


MODELS = "a list of at most 8 models of 1 to 128 characters"
ADDRESS = "http://HOST… or https://HOST…, without a user"


@pytest.mark.parametrize(
    ("field", "values", "detail"),
    [
        ("provider_kind", ["openai", "", 1, None, ["lmstudio"]], "one of openrouter, lmstudio"),
        ("model", ["", "x" * 129, 1, None, "a\n", " ", "a\0", "\ud83d"], "1 to 128 characters"),
        ("timeout_ms", [49, 120_001, 50.0, "50", True], "50 to 120000"),
        ("retry_limit", [-1, 3, 1.0, "1", False], "0 to 2"),
        ("max_tokens", [0, 1.5, "1", True, 2**31], "a whole number other than 0"),
        ("temperature", [-0.1, 2.1, "1", True, float("nan"), float("inf")], "0 to 2"),
        ("fallback_models", ["c", [""], [1], ["c"] * 9, {"c": 1}], MODELS),
        (
            "base_url",
            [
                *("", "ftp://a/", "http://", "http:///v1", "https://u:p@a/", "http://a:b/", "/v1"),
                *("http://a:0/", "http://a/#x", "http://a/ b", "http://a/\r\n", "http://[::1/", 1),
                "http://a/" + "x" * 2_048,
            ],
            ADDRESS,
        ),
    ],
)
def test_what_is_wrong_is_told_in_words_that_stay(
    field: str, values: list[Any], detail: str
) -> None:
    for value in values:
        assert provider_problem({**LEAST, field: value}) == f"provider.{field}: {detail}", value


def test_no_object_no_fields_and_fields_that_there_are_not() -> None:
    assert provider_problem([]) == "provider: an object"
    assert provider_problem({}) == "provider.provider_kind: one of openrouter, lmstudio"
    assert provider_problem({"provider_kind": "lmstudio"}) == "provider.model: 1 to 128 characters"
    problem = provider_problem({**LEAST, "api_key": "sk-1"})
    assert problem is not None
    assert problem.startswith("provider: a field that is none of provider_kind, model,")
    assert "sk-1" not in problem
    assert provider_problem({**LEAST, "max_tokens": None}) is None


def test_none_can_be_made_that_is_wrong() -> None:
    with pytest.raises(ProviderSettingsError, match=r"provider\.retry_limit: 0 to 2"):
        ProviderSettings(provider_kind="lmstudio", model="m", retry_limit=9)
    with pytest.raises(ProviderSettingsError):
        msgspec.structs.replace(read_provider_settings(LEAST), timeout_ms=1)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
fields = st.sampled_from([*ProviderSettings.__struct_fields__, "api_key"])


@given(st.dictionaries(fields, anything) | anything)
def test_whatever_is_written_is_read_or_refused_in_words(document: object) -> None:
    problem = provider_problem(document)
    assert (problem is None) or problem.startswith("provider")
