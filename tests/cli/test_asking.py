"""One plain GET to a gateway, and the addresses that it goes to."""

import socket
from email.message import Message

import pytest
import typer

from gateway.cli.asking import Address, NoAnswerError, address, ask
from tests.cli.fake_engine import serving


def test_addresses() -> None:
    """A port that is not said is the scheme's own."""
    assert address("http://127.0.0.1:8081") == Address("127.0.0.1", 8081)
    assert address("http://[::1]/") == Address("::1", 80)
    assert address("https://gateway") == Address("gateway", 443, is_tls=True)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "127.0.0.1:8081", "http://h:99999", "http://[::1"])
def test_other_addresses_are_wrong_usage(url: str) -> None:
    with pytest.raises(typer.BadParameter):
        address(url)


def test_no_more_of_the_body_is_read_than_asked_for() -> None:
    with serving({"/page": b"0123456789"}) as url:
        assert ask(address(url), "/page", timeout_s=5.0) == (200, b"")
        assert ask(address(url), "/page", timeout_s=5.0, body_bytes_max=4) == (200, b"0123")


def test_a_body_is_posted() -> None:
    """With the headers that go with it."""
    posted: list[tuple[Message, bytes]] = []
    with serving({"/page": b"yes"}, posted=posted) as url:
        answer = ask(address(url), "/page", timeout_s=5.0, body_bytes_max=9, body=b"{}", headers={"x-a": "b"})
    ((headers, body),) = posted
    assert (answer, body, headers["x-a"], headers["content-length"]) == ((200, b"yes"), b"{}", "b", "2")


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NoAnswerError, match="does not answer"):
        ask(Address("127.0.0.1", port), "/", timeout_s=5.0)
