"""Counting what became of requests."""

from gateway.cli.demo_story import Counts, Phase, Refused, Sent, count


def test_each_request_counts_by_what_became_of_it() -> None:
    """One that waited and is not done yet counts as admitted only; a refused one is neither done nor lost."""
    sent = [
        Sent(Phase.CALM, streamed=True, decision="admitted", complete=True),
        Sent(Phase.BURST, streamed=True, decision="admitted_after_wait"),
        Sent(Phase.BURST, streamed=True, refused=Refused(429, "queue_full", "3", "full")),
        Sent(Phase.BURST, streamed=False, fault="ReadTimeout"),
        Sent(Phase.BURST, streamed=False),
    ]
    assert count(sent) == Counts(sent=5, at_once=1, waited=1, refused=1, done=1, lost=1)
    assert count([]) == Counts(0, 0, 0, 0, 0, 0)
