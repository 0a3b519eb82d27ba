"""Counting by the kernel's events, with the one that every machine has; some containers forbid even that."""

import os
import platform
import subprocess
import sys

import pytest

from benchmarks.instructions import SOFTWARE, TASK_CLOCK, Counter


def test_what_this_process_does_is_counted() -> None:
    """The clock of its tasks goes on while it works."""
    try:
        counter = Counter([os.getpid()], SOFTWARE, TASK_CLOCK)
    except OSError as error:
        pytest.skip(f"not allowed here: {error}")
    before = counter.read()
    sum(range(100_000))
    assert counter.read() > before
    counter.close()


def test_a_process_that_is_begun_later_counts_too() -> None:
    """What it spent is there once it has ended."""
    try:
        counter = Counter([os.getpid()], SOFTWARE, TASK_CLOCK)
    except OSError as error:
        pytest.skip(f"not allowed here: {error}")
    before = counter.read()
    subprocess.run([sys.executable, "-S", "-c", "sum(range(3_000_000))"], check=True)
    # By itself, waiting for it, this process spends next to nothing.
    assert counter.read() - before > 10_000_000
    counter.close()


def test_a_machine_whose_call_is_not_known_has_no_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not guessed."""
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(OSError, match="abacus"):
        Counter([os.getpid()])
