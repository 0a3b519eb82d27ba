"""Commands that ask an admin port with a token."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer

from gateway.cli.bearer import bearer
from tests.cli.command import kvgate

TOKEN = "a-token-of-the-admin-port"


@pytest.fixture
def guarded() -> Iterator[str]:
    """An admin port that answers nothing of use, and 401 without its token."""

    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == f"Bearer {TOKEN}"
            body = json.dumps({"error": "known" if known else "locked"}).encode()
            self.send_response(503 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of the base class
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


COMMANDS = (("status", "--url"), ("reload", "--url"), ("explain", "--id", "x", "--admin"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_commands_show_the_token(
    command: tuple[str, ...], guarded: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By option, or by the variable that the gateway itself reads; without it they say what is missing."""
    monkeypatch.setenv("THE_TOKEN", TOKEN)
    without = kvgate(capsys, *command, guarded)
    assert without.code == 1
    assert "token" in without.err or "locked" in without.err
    by_option = kvgate(capsys, *command, guarded, "--token", "env:THE_TOKEN")
    assert "503" in by_option.err
    monkeypatch.setenv("KVGATE_LISTEN__ADMIN_TOKEN", "env:THE_TOKEN")
    assert kvgate(capsys, *command, guarded) == by_option


def test_a_key_is_given_by_reference() -> None:
    """And never repeated where it was not."""
    assert bearer(None, "--token") == {}
    with pytest.raises(typer.BadParameter, match="never written here") as caught:
        bearer(TOKEN, "--token")
    assert TOKEN not in str(caught.value)


def test_the_start_is_refused_where_others_reach_the_admin_port(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 78, with the key and the remedy, before anything listens."""
    done = kvgate(capsys, "serve", "http://127.0.0.1:9", "--admin-host", "0.0.0.0", "--port", "0", "--admin-port", "0")
    assert done.code == 78
    assert "listen.admin_token" in done.err
    assert "env:NAME or file:PATH" in done.err
