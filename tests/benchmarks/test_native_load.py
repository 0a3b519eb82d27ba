"""The mock engine and the load generator against each other: what is right counts, what is wrong is said."""

import http.client
from pathlib import Path

import pytest

from benchmarks.native_load import HOUR_MS, LoadFailedError, held_streams, mock_engine, put_load, write_request

pytestmark = pytest.mark.usefixtures("built")


def short(folder: Path, prompt_bytes: int = 900) -> Path:
    return write_request(folder / "short", {}, prompt_bytes, output_tokens=16, stream=False)


def stream(folder: Path, tokens: int) -> Path:
    return write_request(folder / "stream", {"x-more": "1"}, 900, output_tokens=tokens, stream=True)


def test_every_request_gets_its_answer_of_1_kb(tmp_path: Path) -> None:
    """In a closed loop, until as many have been begun as were asked for."""
    with mock_engine() as engine:
        outcome = put_load(engine.port, short(tmp_path), connections=4, requests=40, bytes=1024)
    assert (outcome.requests, outcome.errors, outcome.first_error) == (40, 0, "")
    assert 0 < outcome.p50_us <= outcome.p99_us


def test_a_prompt_of_100_kb_is_read_whole(tmp_path: Path) -> None:
    """It comes in many reads."""
    with mock_engine() as engine:
        outcome = put_load(engine.port, short(tmp_path, 100_000), connections=2, requests=6, bytes=1024)
    assert (outcome.requests, outcome.errors) == (6, 0)


def test_streams_have_all_their_tokens(tmp_path: Path) -> None:
    """And [DONE], begun at an even pace."""
    with mock_engine(interval_ms=1) as engine:
        outcome = put_load(engine.port, stream(tmp_path, 7), connections=3, requests=9, rate=3000, tokens=7)
    assert (outcome.requests, outcome.errors, outcome.tokens) == (9, 0, 63)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bytes": 1025}, "too short, status 200, 1024 bytes"),
        ({"status": 429}, "another status, status 200"),
        ({"tokens": 3}, "not all tokens"),
    ],
)
def test_a_wrong_answer_is_an_error(tmp_path: Path, options: dict[str, int], said: str) -> None:
    """Too short, of another status, or without tokens; the first is told."""
    with mock_engine() as engine:
        outcome = put_load(engine.port, short(tmp_path), requests=2, **options)
    assert outcome.errors == 2
    assert outcome.first_error.startswith(said)


def test_streams_are_held_and_the_engine_says_so(tmp_path: Path) -> None:
    """They stand still after their first token; the engine's page counts them."""
    with mock_engine() as engine:
        engine.set_interval_ms(HOUR_MS)
        with held_streams(engine.port, stream(tmp_path, 100), 5) as held:
            assert held == 5
            assert b'vllm:num_requests_running{engine="0",model_name="bench"} 5\n' in page(engine.port, "/metrics")


def test_streams_that_do_not_begin_are_not_held(tmp_path: Path) -> None:
    """A wrong answer is no stream."""
    with (
        mock_engine() as engine,
        pytest.raises(LoadFailedError, match="0 of 1 streams began: not all tokens"),
        held_streams(engine.port, short(tmp_path), 1),
    ):
        pass


def test_without_a_server_there_is_no_load(tmp_path: Path) -> None:
    """It is refused a connection."""
    with mock_engine() as engine:
        port = engine.port
    with pytest.raises(LoadFailedError, match="refused"):
        put_load(port, short(tmp_path), requests=1)


def test_a_body_in_pieces_is_understood(tmp_path: Path) -> None:
    """Some gateways send it on so."""
    with mock_engine() as engine:
        connection = http.client.HTTPConnection("127.0.0.1", engine.port)
        connection.request("POST", "/v1/chat/completions", iter([b'{"stream"', b":false}"]), encode_chunked=True)
        assert len(connection.getresponse().read()) == 1024
        connection.close()


def page(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return body
