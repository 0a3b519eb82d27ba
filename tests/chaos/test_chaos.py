"""A short chaos run over real sockets, with the gateway in this process; `python -m tests.chaos` is the long one."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.world import chaos
from tests.e2e.stand import eventually, gateway

REQUESTS = 300
SEED = 1


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_every_client_gets_a_right_answer_or_a_right_error() -> None:
    """Every fault there is, clients that leave everywhere: no wrong word, nothing kept, nothing running, no file."""
    files = open_files()
    async with chaos(SEED, REQUESTS) as world, gateway(*world.backends()) as stand:
        result = await world.run(stand.running.api_url, stand.running.admin_url)
        assert result.wrong == []
        assert result.kept == {}
        assert result.orphans == 0
        assert result.asked >= REQUESTS - 1
        assert result.deaths
        assert stand.log_lines("internal_error") == []
    await eventually(lambda: open_files() <= files)
