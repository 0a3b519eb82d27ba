"""What of a prompt need not be read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.admission.prompt_cache import PromptCache
from gateway.domain import Ticket, Usage
from tests.admission.words import BLOCK, ticket

ROOM = 100_000


def turn(ticket_id: int, *prefix: int, tokens: int = 1600) -> Ticket:
    """One that begins like this, each part being 256 tokens of a prompt of so many."""
    asked = ticket(ticket_id, 1 + tokens / BLOCK)
    assert asked.demand.prompt_tokens == tokens
    return replace(asked, prefix=prefix, prefix_tokens=256 * len(prefix))


def test_without_a_beginning_only_the_learned_share_counts() -> None:
    """Nothing is looked up, and nothing kept."""
    cache = PromptCache()
    cache.uncached_share = 0.25
    cache.sent(ticket(1, 101), ROOM)
    assert (cache.unread_tokens(ticket(2, 101)), cache.expected_share(ticket(2, 101))) == (400, 0.0)
    assert len(cache.prefixes) == 0


def test_what_was_sent_before_is_expected_as_far_as_it_is_believed() -> None:
    """Half at first; the rest of the prompt at the learned share."""
    cache = PromptCache()
    cache.sent(turn(1, 1, 2, 3, 4), ROOM)
    again = turn(2, 1, 2, 3, 4, 5)
    assert cache.expected_tokens(again) == 512
    assert cache.expected_share(again) == 0.32
    assert cache.unread_tokens(again) == 1088
    cache.uncached_share = 0.5
    assert cache.unread_tokens(again) == 544
    assert cache.expected_tokens(turn(3, 9, 8, 7)) == 0


def test_answers_prove_it_right_or_wrong() -> None:
    """And the share of the rest is learned from the rest."""
    cache = PromptCache()
    cache.sent(turn(0, 1, 2, 3, 4), ROOM)
    for number in range(1, 300):
        cache.sent(turn(number, 1, 2, 3, 4), ROOM)
        cache.ended(number, Usage(1600, 10, 1024))
    assert cache.trust.share == pytest.approx(1.0, abs=0.05)
    assert cache.uncached_share > 0.9
    assert cache.unread_tokens(turn(999, 1, 2, 3, 4)) == pytest.approx(576, rel=0.15)
    for number in range(300, 800):
        cache.sent(turn(number, 1, 2, 3, 4), ROOM)
        cache.ended(number, Usage(1600, 10, 0))
    assert cache.trust.share < 0.3
    assert cache.unread_tokens(turn(999, 1, 2, 3, 4)) > 1200


def test_counters_prove_it_as_well() -> None:
    """An engine with its prefix cache off counts no hits: after a while nothing is expected of it."""
    cache = PromptCache()
    cache.read(0.0)
    for number in range(300):
        cache.sent(turn(number, 1, 2, 3, 4), ROOM)
        cache.ended(number, Usage(1600, 10))
        cache.read(0.0)
    assert cache.trust.share < 0.05
    assert cache.expected_share(turn(999, 1, 2, 3, 4)) < 0.05


def test_a_request_that_failed_teaches_nothing_and_leaves_nothing() -> None:
    """Nor does one whose answer counted no prompt."""
    cache = PromptCache()
    for number, usage in enumerate((None, Usage(0, 5, 5), None)):
        cache.sent(turn(number, 1, 2), ROOM)
        cache.ended(number, usage)
    assert (cache.uncached_share, cache.trust.predicted_tokens, cache._predicted) == (1.0, 0.0, {})


def test_counts_that_cannot_be_stay_within_bounds() -> None:
    """More found than the prompt had, a prompt far shorter than predicted."""
    cache = PromptCache()
    cache.sent(turn(0, 1, 2, 3, 4), ROOM)
    for number in range(1, 500):
        cache.sent(turn(number, 1, 2, 3, 4), ROOM)
        cache.ended(number, Usage(1, 10, 10**9))
        assert 0 <= cache.uncached_share <= 1
        assert 0 <= cache.trust.share <= 1


def test_a_restart_empties_it() -> None:
    """What it was like before is remembered; what it held is not."""
    cache = PromptCache()
    cache.uncached_share = 0.5
    for number in range(2):
        cache.sent(turn(number, 1, 2), ROOM)
    cache.restarted()
    assert cache.expected_tokens(turn(2, 1, 2)) == 0
    cache.ended(1, Usage(1600, 10, 0))
    assert cache.trust.predicted_tokens == 0
    assert cache.uncached_share > 0.5
