"""`kvgate demo` as a process: it shows what it promises, and ends with all that it started."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.cli.command import kvgate

COMMAND = [sys.executable, "-m", "gateway", "demo"]


def is_served(port: int) -> bool:
    """Whether anybody listens there."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_ports() -> tuple[int, int]:
    """Two ports that nobody uses."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        return first.getsockname()[1], second.getsockname()[1]


@pytest.mark.timeout(90)
def test_everything_that_was_promised_happens() -> None:
    """The whole demo, with `--exit`: it checks itself, and this checks that it said so."""
    done = subprocess.run(
        [*COMMAND, "--exit", "--api-port", "0", "--admin-port", "0"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    text = done.stdout
    assert [text.index(f"\n{title}.") for title in ("1. Calm", "2. Burst", "3. Recovery")]
    assert re.search(r"large \[#+\+*\.*\] [\d,]+ of 4,096 free, [1-9]\d* running", text)
    assert re.search(r"[1-9]\d* after waiting \(up to \d\.\d s\), [1-9]\d* refused", text)
    assert re.search(r"HTTP 429   Retry-After: \d+   .*\d of \d,\d{3} are free", text)
    assert "0 preemptions, 0 requests lost." in text
    assert "6,144 of 6,144 tokens are headroom again" in text
    assert "\x1b" not in text


@pytest.mark.timeout(60)
def test_sigterm_ends_it_and_its_servers() -> None:
    """In the middle of the show: exit code 1, as not all was shown, and nobody listens any more."""
    ports = free_ports()
    command = [*COMMAND, "--api-port", str(ports[0]), "--admin-port", str(ports[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert any(line.startswith("1. Calm") for line in process.stdout)
            assert all(map(is_served, ports))
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 1
            assert process.stderr.read() == "Stopped before the end.\n"
        finally:
            process.kill()
    assert not any(map(is_served, ports))


def test_without_the_client_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = kvgate(capsys, "demo")
    assert (done.code, done.out) == (1, "")
    assert done.err == 'The demo needs the OpenAI client: pip install "kvgate[demo]"\n'


def test_help_does_not_load_the_client() -> None:
    """The client takes a second to load; help must not."""
    program = (
        "import sys\n"
        "from gateway.cli import main\n"
        "try:\n    main(['demo', '--help'])\n"
        "except SystemExit:\n    sys.exit('openai' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=os.environ).returncode
        == 0
    )
