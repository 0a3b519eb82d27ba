"""Reloading a running gateway from the command line."""

import json
import socket

import pytest

from tests.cli.command import kvgate
from tests.cli.fake_engine import serving

DONE = {
    "reloaded": True,
    "changed": ["admission.risk", "backends.b"],
    "restart_needed": ["listen.port"],
    "backends": {"added": ["b"], "changed": [], "removed": ["a"]},
    "config_sha256": "0",
}


def page(content: object) -> dict[str, bytes]:
    return {"/-/reload": json.dumps(content).encode()}


def test_what_has_changed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """In words, or as the gateway said it."""
    with serving(page(DONE), posted=[]) as url:
        done = kvgate(capsys, "reload", "--url", url)
        as_json = kvgate(capsys, "reload", "--url", url, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "changed: admission.risk, backends.b",
        "backends added: b",
        "backends leaving once empty: a",
        "needs a restart to take effect: listen.port",
    ]
    assert json.loads(as_json.out) == DONE


def test_nothing_may_have_changed(capsys: pytest.CaptureFixture[str]) -> None:
    same = {**DONE, "changed": [], "restart_needed": [], "backends": {"added": [], "changed": [], "removed": []}}
    with serving(page(same), posted=[]) as url:
        done = kvgate(capsys, "reload", "--url", url)
    assert (done.code, done.out) == (0, "nothing has changed\n")


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"changed": 1}'])
def test_another_service_is_told_apart(capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    with serving({"/-/reload": body}, posted=[]) as url:
        done = kvgate(capsys, "reload", "--url", url)
    assert done.code == 1
    assert "something else than a gateway does" in done.err


def test_another_port_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({}, posted=[]) as url:
        done = kvgate(capsys, "reload", "--url", url)
    assert done.code == 1
    assert "answers with status 404; is it the admin port?" in done.err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = kvgate(capsys, "reload", "--url", url, "--json")
    assert done.code == 1
    assert "does not answer" in json.loads(done.out)["problem"]
