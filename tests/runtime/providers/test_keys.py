"""Keys of providers: where they come from, and whom they are shown to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from dalsegno.runtime._config import ConfigError
from dalsegno.runtime.providers import (
    ProviderError,
    ProviderKey,
    Providers,
    key_from_environment,
    open_providers,
    read_key,
)
from dalsegno.runtime.providers._failures import retry_after_s
from dalsegno.runtime.providers._keys import origin_of
from tests._provider import KEY, ScriptedProvider, parts_of, providers, says, scripted


async def refusal(provider: ScriptedProvider, *, settings: Any = None, **more: Any) -> str:
    """Ask, and be refused before anything is asked."""
    async with providers(provider, **more) as opened:
        asked = provider.settings(provider_kind="openrouter", **(settings or {}))
        with pytest.raises(ProviderError) as raised:
            await parts_of(opened, asked)
    assert raised.value.details["model"] == "first"
    assert provider.connections == 0
    return raised.value.category


async def test_a_key_is_shown_to_the_addresses_that_it_is_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or whoever writes a rule could have it sent to an address of his own."""
    monkeypatch.delenv("OPENROUTER_API_KEY", raising=False)
    async with scripted(says("a")) as provider:
        assert await refusal(provider, key=ProviderKey(KEY)) == "auth_failed"
        assert await refusal(provider, key=None) == "auth_failed"
        other = ProviderKey(KEY, origins=[f"http://127.0.0.1:{provider.port + 1}"])
        assert await refusal(provider, key=other) == "auth_failed"


async def test_settings_may_be_held_to_addresses() -> None:
    async with scripted(says("a")) as provider:
        assert await refusal(provider, origins=["https://openrouter.ai"]) == "bad_request"
        async with providers(provider, origins=[provider.url]) as opened:
            port: Providers = opened
            assert repr(port) == "<HttpProviders>"
            settings = provider.settings()
            assert "lmstudio" in repr(opened.of(settings))
            assert len(await parts_of(opened, settings)) == 2
    with pytest.raises(ConfigError):
        async with open_providers(origins=["localhost:1"]):
            pass


@pytest.mark.parametrize("host", ["a..b", ".", "a" * 64])
async def test_a_host_that_is_no_name_cannot_be_asked(host: str) -> None:
    async with scripted(says("a")) as provider:
        key = ProviderKey(KEY, origins=[f"http://{host}"])
        settings = {"base_url": f"http://{host}/"}
        assert await refusal(provider, settings=settings, key=key) == "bad_request"
        settings = {"base_url": "http://999.1.1.1/"}
        assert await refusal(provider, settings=settings) == "bad_request"


@pytest.mark.parametrize(
    "url",
    [
        *("https://openrouter.ai.evil.example/", "https://openrouter.ai\\.evil.example/"),
        *(
            "http://openrouter.ai/",
            "https://openrouter.ai:444/",
            "https://evil.example/?openrouter.ai",
        ),
        *("https://openrouter.ai;evil.example/", "https://openrouter.ai%2f.evil.example/"),
    ],
)
async def test_what_looks_like_an_address_that_a_key_is_for_is_not_it(url: str) -> None:
    async with scripted(says("a")) as provider:
        refused = await refusal(provider, settings={"base_url": url}, key=ProviderKey(KEY))
        assert refused in {"auth_failed", "bad_request"}


async def test_the_environments_key_is_used_unless_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENROUTER_API_KEY", f" {KEY}\n")
    key = key_from_environment()
    assert key is not None
    assert (key.header, repr(key)) == (f"Bearer {KEY}", "<ProviderKey>")
    assert key.origins == {"https://openrouter.ai:443"}
    assert key_from_environment({}) is None
    assert key_from_environment({"OPENROUTER_API_KEY": " "}) is None
    monkeypatch.setenv("OPENROUTER_API_KEY", "two words")
    with pytest.raises(ConfigError) as raised:
        async with open_providers():
            pass
    assert "two" not in str(raised.value)


def test_a_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match="No such file"):
        read_key(path)
    path.write_text(f"{KEY}\n")
    for mode in (0o644, 0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            read_key(path)
    path.chmod(0o600)
    assert read_key(path).header == f"Bearer {KEY}"
    for text in ("", "a b", "a\nb", "\u00e4", "x" * 5_000):
        path.write_text(text)
        with pytest.raises(ConfigError, match="printable ASCII"):
            read_key(path)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://a", "https://a:443"),
        ("HTTP://A.b/c?d", "http://a.b:80"),
        ("https://a:8443/", "https://a:8443"),
        ("http://[::1]:1/", "http://::1:1"),
    ],
)
def test_an_origin_has_its_port(url: str, origin: str) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url", ["a", "ftp://a", "https://", "http://a:b", "http://[::1", "http://999.1.1.1"]
)
def test_what_has_no_origin(url: str) -> None:
    with pytest.raises(ConfigError):
        origin_of(url)


NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "Mon, 30 Nov 2026 12:00:09 GMT"}, 9.0),
        ({"retry-after": "Mon, 30 Nov 2026 12:00:09 -0000"}, 9.0),
        ({"retry-after": "Mon, 30 Nov 2026 13:00:09 +0100"}, 9.0),
        ({"retry-after": "Mon, 30 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "9" * 400}, 1e9),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "1_0"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9.0),
    ],
)
def test_when_to_ask_again(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW) == seconds
    assert retry_after_s(headers, NOW + timedelta(days=1)) in {None, 0.0, seconds}


@given(st.text(max_size=40))
def test_whatever_a_header_says_is_a_wait_or_none(text: str) -> None:
    seconds = retry_after_s({"retry-after": text}, NOW)
    assert seconds is None or 0 <= seconds < 1e12
