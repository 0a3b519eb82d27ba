"""How much of the memory that this process may use is in use, as Linux tells; elsewhere nothing is known."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/")
_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container, by the second and the first version of control groups."""


def used_ratio(root: Path = ROOT) -> float:
    """Resident memory over the lowest limit: the machine's, its container's, its service's. 0 where that is unknown."""
    limit_bytes = min(_limits(root), default=0)
    try:
        resident_pages = int((root / "proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return resident_pages * os.sysconf("SC_PAGE_SIZE") / limit_bytes if limit_bytes else 0.0


def _limits(root: Path) -> list[int]:
    paths = [root / path for path in _LIMITS] + [_own_group(root) / "memory.max"]
    limits = [_number(path) for path in paths]
    return [limit for limit in (*limits, _machine_bytes(root)) if limit]


def _own_group(root: Path) -> Path:
    """Where the control group of this process lies: a service has its MemoryMax= there. A container is its own root."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::/"):
            return root / "sys/fs/cgroup" / line.removeprefix("0::/")
    return root / "sys/fs/cgroup"


def _machine_bytes(root: Path) -> int:
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0  # "max": no limit.


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
