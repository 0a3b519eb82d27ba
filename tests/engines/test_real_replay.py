"""What a replay against a real engine counts as in time, and the line that it prints."""

import pytest

from benchmarks.open_loop import End, Seen
from benchmarks.real_replay import HEAD, _in_time, _row
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request

SLO = Slo(ttft_s=2.0, tpot_s=0.1)
REQUEST = Request(0.0, 10, 3)
IN_TIME = Seen(End.SERVED, ended_s=4.0, first_token_s=1.0, gaps_s=(0.1, 0.05), output_tokens=3)
LATE = Seen(End.SERVED, ended_s=5.0, first_token_s=3.0, gaps_s=(0.1,), output_tokens=2)
SLOW = Seen(End.SERVED, ended_s=6.0, first_token_s=1.0, gaps_s=(0.3, 0.1), output_tokens=3)
REFUSED = Seen(End.REFUSED, ended_s=0.1)
LEFT = Seen(End.LEFT, ended_s=4.0)
FAILED = Seen(End.FAILED, ended_s=10.0, first_token_s=0.5, gaps_s=(0.01,), output_tokens=0, error="cut off")


@pytest.mark.parametrize(
    ("seen", "holds"),
    [(IN_TIME, True), (LATE, False), (SLOW, False), (REFUSED, False), (LEFT, False), (FAILED, False)],
)
def test_in_time_is_served_with_all_its_tokens_soon_enough(seen: Seen, holds: bool) -> None:
    """The first token, the mean of the others, and the end all have to be right."""
    assert _in_time(SLO, REQUEST, seen) is holds


def test_a_row_counts_every_request_once() -> None:
    """Shares are of all offered, times and tokens those of the served."""
    seen = [IN_TIME, LATE, IN_TIME, SLOW, REFUSED, LEFT, FAILED, IN_TIME]
    row = _row("KVGate", SLO, [REQUEST] * 8, seen, preemptions=7)
    assert row.count("|") == HEAD.strip().partition("\n")[0].count("|")
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "KVGate",
        "8",
        "37.5% / 25.0%",
        "2",
        "1",
        "1",
        "1",
        "7",
        "1.00 / 3.00 s",
        "300 ms",
        "105 ms",
        "1",
    ]
