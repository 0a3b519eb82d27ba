"""What is read of the memory that a process uses, from copies of the files that Linux shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.memory_use import used_ratio

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 2**20


def system(root: Path, **more: str) -> Path:
    """A machine of 1,000 MiB and a process that holds 100 MiB; further files by path, slashes as double underscores."""
    files = {
        "proc__self__statm": f"90000 {100 * MIB // PAGE} 800 600 0 5000 0",
        "proc__meminfo": f"MemTotal: {1000 * 1024} kB\nMemFree: 12 kB\n",
        "proc__self__cgroup": "0::/\n",
    }
    for name, text in (files | more).items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("more", "ratio"),
    [
        ({}, 0.1),
        ({"sys__fs__cgroup__memory.max": "max\n"}, 0.1),
        ({"sys__fs__cgroup__memory.max": f"{200 * MIB}\n"}, 0.5),
        ({"sys__fs__cgroup__memory__memory.limit_in_bytes": f"{400 * MIB}\n"}, 0.25),
        ({"sys__fs__cgroup__memory__memory.limit_in_bytes": "9223372036854771712\n"}, 0.1),
        ({"proc__self__cgroup": "0::/a.service\n", "sys__fs__cgroup__a.service__memory.max": f"{125 * MIB}"}, 0.8),
    ],
    ids=["machine", "no limit", "container", "old container", "old without limit", "service"],
)
def test_the_lowest_limit_counts(tmp_path: Path, more: dict[str, str], ratio: float) -> None:
    """Whoever set it."""
    assert used_ratio(system(tmp_path, **more)) == pytest.approx(ratio)


def test_where_nothing_is_told_nothing_is_known(tmp_path: Path) -> None:
    """Other systems, and files that hold something else."""
    assert used_ratio(tmp_path) == 0.0
    assert used_ratio(system(tmp_path, proc__self__statm="?")) == 0.0
    assert used_ratio(system(tmp_path, proc__self__statm="1 1", proc__meminfo="")) == 0.0
