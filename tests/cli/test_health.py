"""Container health checks rely on the exit status alone."""

import json
import socket

import pytest

from tests.cli.command import kvgate
from tests.cli.fake_engine import serving


def test_a_gateway_that_answers_is_healthy(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked directly, whatever proxy the container is told to use."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving({"/health": b"{}"}) as url:
        assert kvgate(capsys, "health", "--url", url).code == 0
        done = kvgate(capsys, "health", "--url", url, "--json")
    assert json.loads(done.out) == {"healthy": True, "url": url, "problem": None}


def test_another_status_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({"/health": b""}, status=503) as url:
        done = kvgate(capsys, "health", "--url", url)
    assert done.code == 1
    assert "answers with status 503" in done.err


def test_nobody_there_is_not_healthy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = kvgate(capsys, "health", "--url", url, "--json")
    assert done.code == 1
    assert "does not answer" in json.loads(done.out)["problem"]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "127.0.0.1:8080", "http://h:99999", "http://[::1"])
def test_only_plain_urls_are_asked(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert kvgate(capsys, "health", "--url", url).code == 2
