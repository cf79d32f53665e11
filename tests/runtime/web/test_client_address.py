"""A client's address is what a trusted proxy says, and nobody else."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest

from dalsegno.runtime._config import ConfigError, parse_proxies
from dalsegno.runtime.web._client_address import client_address

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("1.2.3.4", [], "1.2.3.4"),
        ("1.2.3.4", ["5.6.7.8"], "1.2.3.4"),  # no proxy of ours: anybody can say that
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", ["5.6.7.8, 9.9.9.9"], "9.9.9.9"),  # the first is what the client invented
        ("10.0.0.1", ["5.6.7.8", "9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["5.6.7.8, 10.0.0.2"], "5.6.7.8"),  # two proxies of ours
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", ["5.6.7.8, unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["5.6.7.8:4711"], "5.6.7.8"),
        ("::ffff:10.0.0.1", ["5.6.7.8"], "5.6.7.8"),
        ("::ffff:1.2.3.4", [], "1.2.3.4"),
        ("fd00::1", ["[2001:db8:1:2:3:4:5:6]:4711"], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("<local>", ["5.6.7.8"], "<local>"),
        (None, ["5.6.7.8"], ""),
    ],
)
def test_the_address_is_the_nearest_that_can_be_believed(
    peer: str | None, forwarded: list[str], address: str
) -> None:
    assert client_address(peer, forwarded, PROXIES) == address


def test_proxies_are_named_by_address_or_network() -> None:
    named = parse_proxies(["10.0.0.1", "fd00::/8"])
    assert named == (ip_network("10.0.0.1/32"), ip_network("fd00::/8"))
    for wrong in ("proxy.example.com", "10.0.0.1/8"):
        with pytest.raises(ConfigError, match=re.escape(wrong)):
            parse_proxies([wrong])
