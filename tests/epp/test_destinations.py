"""Addresses of backends: from their URLs, by name service, and which of them a request may go to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.epp import destinations
from gateway.epp.destinations import Destinations, NoAddressError, unsuitable


@dataclass(frozen=True)
class Engine:
    url: str


Found = list[tuple[int, int, int, str, tuple[str, int]]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A name service that knows these names; gives the list of what it was asked."""

    def serve(**known: str) -> list[str]:
        asked: list[str] = []

        async def getaddrinfo(host: str, port: int, **_: object) -> Found:
            asked.append(host)
            if host not in known:
                raise OSError("unknown")
            if known[host] == "silent":
                await asyncio.get_running_loop().create_future()
            return [(2, 1, 6, "", (known[host], port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        return asked

    return serve


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://10.0.0.1:8000", "10.0.0.1:8000"),
        ("http://10.0.0.1/v1", "10.0.0.1:80"),
        ("http://[fd00::1]:8000", "[fd00::1]:8000"),
    ],
)
async def test_addresses_are_taken_as_they_are(url: str, endpoint: str) -> None:
    assert await Destinations({"a": Engine(url)}).of("a") == endpoint


async def test_names_are_looked_up_and_kept_for_a_while(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last address holds where the name service fails."""
    asked = names(engine="10.0.0.7")
    known = Destinations({"a": Engine("http://engine:8000")})
    assert [await known.of("a") for _ in range(3)] == ["10.0.0.7:8000"] * 3
    assert asked == ["engine"]
    later = asyncio.get_running_loop().time() + destinations.KNOWN_FOR_S + 1
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    asked = names()
    assert await known.of("a") == "10.0.0.7:8000"
    assert asked == ["engine"]


@pytest.mark.parametrize("known", [{}, {"engine": "silent"}])
async def test_a_name_without_address(
    names: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, known: dict[str, str]
) -> None:
    names(**known)
    monkeypatch.setattr(destinations, "LOOKUP_MAX_S", 0.01)
    with pytest.raises(NoAddressError, match="engine"):
        await Destinations({"a": Engine("http://engine:8000")}).of("a")


async def test_who_is_outside_a_subset(names: Callable[..., list[str]]) -> None:
    """Without one nobody is; a backend that has no address is outside of every one."""
    names()
    backends = {"a": Engine("http://10.0.0.1:1"), "b": Engine("http://10.0.0.2:1"), "c": Engine("http://gone:1")}
    known = Destinations(backends)
    assert await known.outside(None) == frozenset()
    assert await known.outside(frozenset({"10.0.0.1:1", "10.9.9.9:1"})) == {"b", "c"}
    assert await known.outside(frozenset()) == {"a", "b", "c"}


async def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends that come and go by reloads leave nothing that grows."""
    monkeypatch.setattr(destinations, "KNOWN_MAX", 3)
    backends: dict[str, Engine] = {}
    known = Destinations(backends)
    for number in range(10):
        backends["a"] = Engine(f"http://10.0.0.{number}:1")
        assert await known.of("a") == f"10.0.0.{number}:1"
    assert len(known._known) <= 3


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("http://engine:8000", True),
        ("http://engine:8000/v1", True),
        ("https://api.example.com", False),
        ("http://engine:8000/openai", False),
    ],
)
def test_what_a_data_plane_can_be_sent_to(url: str, fine: bool) -> None:
    """An address and nothing else: TLS and prefixes are the data plane's own."""
    assert (unsuitable(url) == "") == fine
