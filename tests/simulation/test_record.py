"""What is noted of a run."""

from gateway.simulation.record import Record


def test_notes_who_was_answered_and_who_was_not() -> None:
    """Both are through; the third is still waited for."""
    record = Record.of(3)
    record.end(1, 5.0)
    record.refuse(0, 2.0)
    assert record.settled == 2
    assert record.ended_s == [None, 5.0, None]
    assert record.refused_s == [2.0, None, None]
    assert record.first_token_s == [None, None, None]
