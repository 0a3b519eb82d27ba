"""How file descriptors are divided, and that as many as possible are asked for."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from gateway.descriptors import BACKLOG_MAX, RESERVED, TABLE_FILES, files_max, places, raise_files_max


@given(st.integers(min_value=8, max_value=2**21))
def test_they_never_run_out(files: int) -> None:
    """Every client with an engine's connection, one backlog, and something in reserve fit together."""
    divided = places(files)
    assert divided.connections_max >= 1
    assert 1 <= divided.backlog <= BACKLOG_MAX
    reserved = files - 2 * divided.connections_max - divided.backlog
    assert reserved >= (RESERVED if files >= 2 * RESERVED + 64 else files // 4)


@pytest.mark.parametrize(("files", "clients"), [(64, 12), (1024, 416), (65_536, 32_224), (1_048_576, 523_744)])
def test_usual_limits(files: int, clients: int) -> None:
    """Of shells, of services, of containers."""
    assert places(files).connections_max == clients


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is the most that a process may grant itself."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    raise_files_max()
    assert asked == [(4096, 4096)]
    assert files_max() == 1024


def test_a_system_that_refuses_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway starts all the same."""

    def refuse(_: int, limits: tuple[int, int]) -> None:
        raise ValueError(limits)

    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_files_max()


def test_no_limit_at_all_is_a_number_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something has to be divided."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert files_max() == 2**20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells how large the table is")
def test_clients_that_come_do_not_wait_for_a_larger_table() -> None:
    """It is there from the start, and the file that widened it is closed again."""
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        raise_files_max()
        table_files = Path("/proc/self/status").read_text().partition("FDSize:")[2].split()[0]
        assert int(table_files) >= min(files_max(), TABLE_FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
