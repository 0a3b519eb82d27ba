"""Lines on a disk that is well, full, slow, or not there."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from gateway.reporting.journal_file import JournalFile, open_journal
from gateway.reporting.record import RequestRecord


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["number"] for line in path.read_text().splitlines()]


def test_each_entry_is_a_line(tmp_path: Path) -> None:
    """What was there before stays, others of the machine cannot read it."""
    path = tmp_path / "journal.jsonl"
    for start in (0, 3):
        file = JournalFile(path, bytes_max=10_000, keep=2)
        for number in range(start, start + 3):
            file.write({"number": number})
        file.close()
        assert file.lost == 0
    assert numbers(path) == list(range(6))
    assert path.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_it_is_put_aside_before_it_grows_too_large(tmp_path: Path, keep: int) -> None:
    """The oldest of those put aside are gone; no line is split."""
    path = tmp_path / "journal.jsonl"
    for number in range(10):
        file = JournalFile(path, bytes_max=40, keep=keep)  # room for two lines of 15 bytes
        file.write({"number": number})
        file.close()
    names = sorted(name.name for name in tmp_path.iterdir())
    assert names == ["journal.jsonl", "journal.jsonl.1", "journal.jsonl.2"][: 1 + keep]
    kept = [number for name in reversed(names) for number in numbers(tmp_path / name)]
    assert kept == list(range(10 - len(kept), 10))
    assert all((tmp_path / name).stat().st_size <= 40 for name in names)


def test_half_a_line_of_a_process_that_died_is_ended(tmp_path: Path) -> None:
    """Only that line is lost."""
    path = tmp_path / "journal.jsonl"
    path.write_text('{"number":0}\n{"numb')
    file = JournalFile(path, bytes_max=10_000, keep=2)
    file.write({"number": 1})
    file.close()
    assert path.read_text().splitlines() == ['{"number":0}', '{"numb', '{"number":1}']


def test_a_disk_that_fills_up_costs_lines_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a line went through: it is taken back. Once there is room again, lines are whole again."""
    path = tmp_path / "journal.jsonl"
    file = JournalFile(path, bytes_max=10_000, keep=2)
    file.close()  # its thread is gone: what follows is in order
    write = os.write
    full = [False]

    def fill_up(fd: int, data: memoryview) -> int:
        if not full[0]:
            full[0] = True
            return write(fd, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with capture_logs() as said:
        monkeypatch.setattr(os, "write", fill_up)
        file._append([{"number": 1}])
        monkeypatch.setattr(os, "write", write)
        file._append([{"number": 2}])
    file._close_file()
    assert numbers(path) == [2]
    assert file.lost == 1
    assert [(line["event"], line["reason"]) for line in said] == [("journal_entries_lost", "No space left on device")]


def test_a_folder_that_is_not_there_is_said_at_the_start_and_once_a_minute(tmp_path: Path) -> None:
    """Once it is there, the journal begins."""
    now = [0.0]
    path = tmp_path / "missing" / "journal.jsonl"
    with capture_logs() as said:
        file = JournalFile(path, bytes_max=10_000, keep=2, clock=lambda: now[0])
        file.close()  # its thread is gone: what follows is in order
        for second in (0.0, 30.0, 59.0, 60.0):
            now[0] = second
            file._append([{"number": 1}])
        path.parent.mkdir()
        file._append([{"number": 2}])
    file._close_file()
    assert [line["lost"] for line in said] == [0, 4]
    assert file.lost == 4
    assert numbers(path) == [2]


def test_a_slow_disk_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many entries may wait; those on top are counted."""
    stuck, going = threading.Event(), threading.Event()
    write = os.write

    def slow(fd: int, data: memoryview) -> int:
        stuck.set()
        assert going.wait(20)
        return write(fd, data)

    monkeypatch.setattr(os, "write", slow)
    path = tmp_path / "journal.jsonl"
    file = JournalFile(path, bytes_max=10_000, keep=2, entries_max=5)
    with capture_logs() as said:
        file.write({"number": 0})
        assert stuck.wait(20)
        for number in range(1, 9):
            file.write({"number": number})
    assert file.lost == 3
    assert [line["reason"] for line in said] == ["the disk is too slow"]
    file.close(timeout_s=0.0)  # does not wait for it either
    going.set()
    file.close()
    assert numbers(path) == list(range(6))


@pytest.mark.parametrize("name", [None, "j.jsonl"])
async def test_a_journal_is_open_while_its_block_runs(tmp_path: Path, name: str | None) -> None:
    """Its times are Unix times; its file is whole once the block is left."""
    path = None if name is None else str(tmp_path / name)
    record = RequestRecord("r", "/v1/completions", "m", 429, 0.1, decision="refused", outcome="rejected")
    async with open_journal(path, bytes_max=2**20, keep=1) as journal:
        now = asyncio.get_running_loop().time()
        journal.ended(replace(record, arrived_at=now))
        entry = journal.find("r")
    assert entry is not None
    assert isinstance(entry["arrived_s"], float)
    assert entry["arrived_s"] > 1_700_000_000
    written = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    assert written == ([] if name is None else [entry])
