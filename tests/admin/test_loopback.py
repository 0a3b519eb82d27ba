"""Addresses of this machine."""

import pytest

from gateway.admin.loopback import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_only_this_machine_reaches_these(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.1", "fe80::1%lo", "localhost.evil.example", "127.1", "/run/x"]
)
def test_others_may_reach_these(host: str) -> None:
    """Also what only looks like one: a short form means different things to different readers."""
    assert not is_loopback(host)
