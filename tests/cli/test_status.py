"""What an operator sees of a running gateway."""

import json
import socket
from copy import deepcopy
from typing import Any

import msgspec
import pytest

from gateway.admin.routes import state
from gateway.admission.snapshot import BackendSnapshot, BackendState, QueueSnapshot, Snapshot, Telemetry
from gateway.backends.calibration import Calibration
from gateway.domain import Priority
from tests.cli.command import kvgate
from tests.cli.fake_engine import serving

OURS = BackendSnapshot(
    name="own",
    state=BackendState.READY,
    telemetry=Telemetry.FRESH,
    hosted=False,
    models=("a", "b", "c", "d"),
    engine_version="0.32.0",
    capacity_tokens=100_000,
    block_tokens=16,
    resident_tokens=8_000,
    reserved_tokens=20_000,
    draining_tokens=1_000,
    foreign_tokens=4_000,
    held_back_tokens=0,
    headroom_tokens=75_000,
    observed_tokens=13_000,
    requests=7,
    running=7,
    waiting=2,
    preemptions=0,
    telemetry_age_s=0.2,
    drain_timeouts=0,
)
QUEUE = QueueSnapshot("a", Priority.STANDARD, depth=3, tokens=9_000, oldest_wait_s=1.25)
SNAPSHOT = Snapshot(
    now=1.0, draining=False, backends=(OURS,), queues=(QUEUE,), queue_requests_max=512, double_releases=0
)
DOUBT = Calibration("kv.model_config", "gemma", None, 1000, 800, "the engine states other numbers", is_problem=True)
STATE: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(state(SNAPSHOT, {"own": "vllm"}, {"own": DOUBT})))


def page(content: object) -> dict[str, bytes]:
    return {"/api/v1/state": json.dumps(content).encode()}


def test_a_table_of_headroom(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The admin port's own answer is read; no proxy is asked; what is in doubt is said."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with serving(page(STATE)) as url:
        done = kvgate(capsys, "status", "--url", url)
    head, own, queue, doubt = done.out.splitlines()
    assert (done.code, done.err) == (0, "")
    assert head.split()[:4] == ["BACKEND", "KIND", "STATE", "MODEL"]
    assert " ".join(own.split()) == (
        "own vllm ready a, b, c +1 100,000 21,000 13,000 4,000 75,000 (75%) 7 2 fresh "
        "from kv.model_config gemma (engine/formula 1.250)"
    )
    assert queue == "queue a standard: 3 requests, 9,000 tokens, oldest 1.2 s"
    assert doubt == "own: KV layout: the engine states other numbers"


def test_backends_without_a_pool_have_no_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """A provider's memory is its own business, and a gateway that drains says so."""
    other = deepcopy(STATE)
    other["backends"][0] |= {"hosted": True, "waiting": None, "kv_layout": None}
    other |= {"queues": [], "draining": True}
    with serving(page(other)) as url:
        done = kvgate(capsys, "status", "--url", url)
    _, own, end = done.out.splitlines()
    assert own.split()[-9:] == ["-", "-", "-", "-", "-", "7", "-", "fresh", "-"]
    assert end == "draining: new requests are turned away"


def test_observe_mode_says_what_enforcing_would_have_done(capsys: pytest.CaptureFixture[str]) -> None:
    """In a sentence, the commonest reason first."""
    counts = [("admitted", "ok", 900), ("admitted", "ok_after_wait", 80), ("admitted", "queue_full", 5)]
    counts += [("admitted", "headroom", 1200), ("rejected", "no_backend", 7), ("admitted", "headroom", 15)]
    decisions = [
        {"model": "a", "priority": "batch", "outcome": outcome, "reason": reason, "count": count}
        for outcome, reason, count in counts
    ]
    with serving(page({**STATE, "mode": "observe", "decisions": decisions})) as url:
        done = kvgate(capsys, "status", "--url", url)
    told = "observe mode: nothing is refused. Enforcing would have refused 1,220 of 2,200 requests: "
    assert done.out.splitlines()[-1] == told + "headroom 1,215, queue_full 5"
    with serving(page({**STATE, "mode": "observe", "decisions": []})) as url:
        done = kvgate(capsys, "status", "--url", url)
    assert done.out.splitlines()[-1].endswith("Enforcing would have refused 0 of 0 requests")


def test_json_is_the_state_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(page(STATE)) as url:
        done = kvgate(capsys, "status", "--url", url, "--json")
    assert json.loads(done.out) == STATE


def test_watching_ends_with_the_gateway(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look is shown anew; in JSON, each is one line."""
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks % 2 == 0:
            pages.clear()

    monkeypatch.setattr("gateway.cli.status.time.sleep", sleep)
    for flags, mark in (((), "BACKEND "), (("--json",), '{"now"')):
        pages = page(STATE)
        with serving(pages) as url:
            done = kvgate(capsys, "status", "--url", url, "--watch", *flags)
        assert done.code == 1
        assert done.out.count(mark) == 2
        assert "answers with status 404" in (done.out if flags else done.err)


def test_ctrl_c_is_no_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.cli.status.time.sleep", interrupted)
    with serving(page(STATE)) as url:
        done = kvgate(capsys, "status", "--url", url, "--watch")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"backends": 1}', b"[" * 100_000])
def test_another_service_is_told_apart(capsys: pytest.CaptureFixture[str], body: bytes) -> None:
    with serving({"/api/v1/state": body}) as url:
        done = kvgate(capsys, "status", "--url", url)
    assert done.code == 1
    assert "something else than a gateway's state" in done.err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """The problem is JSON where JSON was asked for."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = kvgate(capsys, "status", "--url", url, "--json")
    assert done.code == 1
    assert "does not answer" in json.loads(done.out)["problem"]


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "127.0.0.1:8081", "http://h:99999", "http://[::1"])
def test_only_plain_urls_are_asked(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert kvgate(capsys, "status", "--url", url).code == 2
