"""The command: files, gateways and keys, good and bad."""

from __future__ import annotations

import json
import socket
from email.message import Message
from pathlib import Path

import msgspec
import pytest

from gateway.cli.explain_words import KvTokens
from tests.cli.command import kvgate
from tests.cli.fake_engine import serving
from tests.cli.test_explain_words import ENTRY, ESTIMATE, replaced


def answer(**changes: object) -> dict[str, bytes]:
    return {"/v1/estimate": msgspec.json.encode(replaced(ESTIMATE, **changes))}


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text('{"model": "m", "prompt": "hi", "max_tokens": 5}')
    return path


def test_the_file_is_asked_about_as_it_is(
    capsys: pytest.CaptureFixture[str], request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the endpoint whose field it has, with a key if one is named."""
    monkeypatch.setenv("ASK_KEY", "sk-1")
    posted: list[tuple[Message, bytes]] = []
    with serving(answer(), posted=posted) as url:
        done = kvgate(capsys, "explain", request_file, "--url", url, "--api-key", "env:ASK_KEY")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("It would be admitted now, to local-1.\n")
    ((headers, body),) = posted
    assert headers["authorization"] == "Bearer sk-1"
    assert body == b'{"endpoint":"/v1/completions","body":%b}' % request_file.read_bytes()


@pytest.mark.parametrize(
    ("body", "option", "endpoint"),
    [
        ({"messages": []}, (), "/v1/chat/completions"),
        ({"input": "x"}, (), "/v1/embeddings"),
        ({"prompt": "x"}, ("--endpoint", "/v1/embeddings"), "/v1/embeddings"),
    ],
)
def test_the_endpoint_is_seen_or_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, body: object, option: tuple[str, ...], endpoint: str
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(body))
    posted: list[tuple[Message, bytes]] = []
    with serving(answer(), posted=posted) as url:
        assert kvgate(capsys, "explain", path, "--url", url, *option).code == 0
    assert json.loads(posted[0][1])["endpoint"] == endpoint


@pytest.mark.parametrize(("decision", "code"), [("admit", 0), ("queue", 0), ("refuse", 1), ("never_fits", 1)])
def test_the_exit_code_tells_whether_it_would_be_served(
    capsys: pytest.CaptureFixture[str], request_file: Path, decision: str, code: int
) -> None:
    """The JSON is the gateway's own answer."""
    pages = answer(decision=decision, reason="headroom", kv_tokens=KvTokens(1, 2, 3))
    with serving(pages) as url:
        done = kvgate(capsys, "explain", request_file, "--url", url, "--json")
    assert done.code == code
    assert json.loads(done.out) == json.loads(pages["/v1/estimate"])


def test_a_decision_that_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    page = msgspec.json.encode(ENTRY)
    with serving({"/api/v1/decisions/r-1": page}) as url:
        said = kvgate(capsys, "explain", "--id", "r-1", "--admin", url)
        plain = kvgate(capsys, "explain", "--id", "r-1", "--admin", url, "--json")
    assert (said.code, said.out.splitlines()[0]) == (0, "r-1 was admitted at once, to local-1.")
    assert json.loads(plain.out) == json.loads(page)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "request.json:1:1 is not JSON"),
        (b'{\n "model": }', "request.json:2:11 is not JSON"),
        (b"\xff\xfe\x00", "request.json is not JSON"),
        (b"[" * 200_000, "request.json is not JSON"),
        (b"[]", "holds no JSON object"),
        (b'{"model": "m"}', "has none of the fields messages, prompt, input"),
    ],
)
def test_a_bad_file_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, problem: str
) -> None:
    """With its line, where there is one; nobody is asked."""
    path = tmp_path / "request.json"
    path.write_bytes(content)
    done = kvgate(capsys, "explain", path)
    assert (done.code, done.out) == (1, "")
    assert problem in done.err
    assert len(done.err.splitlines()) == 1
    as_json = kvgate(capsys, "explain", path, "--json")
    assert problem in json.loads(as_json.out)["problem"]


def test_a_file_that_is_not_there_or_too_large(
    capsys: pytest.CaptureFixture[str], request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = kvgate(capsys, "explain", request_file.parent / "gone.json")
    assert (gone.code, gone.err.endswith("gone.json cannot be read: No such file or directory\n")) == (1, True)
    monkeypatch.setattr("gateway.cli.explain.REQUEST_MAX_BYTES", 10)
    assert "is larger than 10 bytes" in kvgate(capsys, "explain", request_file).err


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b'{"error":{"message":"The API key is missing.","type":"x"}}', 401, "status 401: The API key is missing."),
        (b'{"error":"no such decision"}', 404, "status 404: no such decision"),
        (b"<html>", 500, "status 500: is it a gateway?"),
        (b"\xff", 500, "status 500: is it a gateway?"),
        (b"{}", 200, "something else than a gateway does"),
        (b"\xff", 200, "something else than a gateway does"),
    ],
)
def test_what_the_gateway_says_is_passed_on(
    capsys: pytest.CaptureFixture[str], request_file: Path, body: bytes, status: int, problem: str
) -> None:
    with serving({"/v1/estimate": body}, status) as url:
        done = kvgate(capsys, "explain", request_file, "--url", url)
    assert (done.code, done.out) == (1, "")
    assert problem in done.err


def test_nobody_there(capsys: pytest.CaptureFixture[str], request_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for command in ([request_file, "--url", url], ["--id", "r-1", "--admin", url]):
        done = kvgate(capsys, "explain", *command)
        assert done.code == 1
        assert f"{url} does not answer" in done.err


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["request.json", "--id", "r-1"],
        ["--id", "a/b"],
        ["--id", ""],
        ["--id", "r-1", "--admin", "ftp://h"],
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    assert kvgate(capsys, "explain", *command).code == 2


@pytest.mark.parametrize("key", ["sk-secret-itself", "env:KEY_THAT_IS_NOT_SET"])
def test_a_key_is_given_by_reference(capsys: pytest.CaptureFixture[str], request_file: Path, key: str) -> None:
    done = kvgate(capsys, "explain", request_file, "--api-key", key)
    assert done.code == 2
    assert "sk-secret-itself" not in done.err
