"""The books of one engine; the rules themselves are in the playbooks."""

from dataclasses import replace

import pytest

from estimator.output_length import OutputLengths
from gateway.admission.account import LOOK_BLOCKS, NEVER, EngineAccount
from gateway.admission.limits import AdmissionLimits
from gateway.admission.standing import Standing
from gateway.domain import BackendSpec, Outcome, Reason, Usage
from gateway.routing.choose import Holds, Lack, Offer
from tests.admission.words import BLOCK, POOL, reading, ticket


def engine(**words: int) -> EngineAccount:
    """One that is up and idle."""
    account = EngineAccount(Standing.unknown(BackendSpec("a"), AdmissionLimits()), AdmissionLimits())
    assert account.observe(reading(0.0, **words), 0.0)  # type: ignore[arg-type]
    return account


def offer(
    account: EngineAccount, blocks: float, now: float = 0.0, backlog: int = 1, output: int = BLOCK
) -> Offer | Lack:
    """For a request of that size."""
    return account.offer(ticket(99, blocks, output=output), now, backlog=backlog, contended=False)


def fast(account: EngineAccount) -> EngineAccount:
    """It has been seen to generate 100 tokens a second."""
    account.speed.learn(1000, 10.0)
    return account


def test_the_offer_tells_what_stays_free() -> None:
    """At the peak, as a part of the pool."""
    account = engine()
    account.admit(ticket(1, 40), 0.0, backlog=1)
    assert offer(account, 40) == Offer("a", 0.2)
    assert offer(account, 61) == Lack(Reason.HEADROOM, Holds.ALL)
    assert offer(account, 101) == Lack(Reason.TOO_LARGE)
    assert account.anyway(0.0) == Offer("a", 0.6)


def test_where_overflow_is_fatal_ends_are_added_up() -> None:
    """The first will have ended before the second is long: elsewhere both fit."""
    for fatal in (False, True):
        account = engine()
        assert account.pool is not None
        account.pool.resize(replace(account.capacity, overflow_is_fatal=fatal))
        account.admit(ticket(1, 60), 0.0, backlog=1)
        answer = offer(account, 60, output=50 * BLOCK)
        assert answer == (Lack(Reason.HEADROOM, Holds.ALL) if fatal else Offer("a", 0.28 - 1.0))
        assert account.snapshot(0.0).reserved_tokens == account.reserved_blocks(0.0) * BLOCK == 60 * BLOCK


def test_room_for_sure_comes_before_room_that_is_likely() -> None:
    """An engine that holds all even at their hard ends needs no forecast, and is preferred to one that does."""
    account = engine()
    sure = offer(account, 10, output=BLOCK)
    account.admit(ticket(1, 60), 0.0, backlog=1)
    likely = offer(account, 60, output=50 * BLOCK)
    assert isinstance(sure, Offer)
    assert isinstance(likely, Offer)
    assert 0 <= sure.free_share <= 1
    assert -1 <= likely.free_share < 0


def test_under_a_backlog_starts_are_spaced() -> None:
    """So that requests stand at all stages of growth at once; without one, or on an idle engine, they are not."""
    account = fast(engine())
    lease = account.admit(ticket(1, 20, output=160), 0.0, backlog=50)
    assert 0.1 < account.next_start < 1.0
    assert offer(account, 20, 0.05, backlog=50) == Lack(Reason.HEADROOM, Holds.ALL)
    assert account.next_look(0.05) == account.next_start
    assert isinstance(offer(account, 20, 0.05, backlog=1), Offer)
    assert isinstance(offer(account, 20, account.next_start, backlog=50), Offer)
    account.end(lease, Outcome.FINISHED, Usage(160, 160), 0.06)
    assert isinstance(offer(account, 20, 0.06, backlog=50), Offer)


def test_the_next_look_is_when_time_alone_may_bring_room() -> None:
    """After a pause, after a start, or with growth; never if nothing runs here."""
    account = engine()
    assert account.next_look(0.0) == NEVER
    account.standing.asked_for_pause(3.0)
    assert account.next_look(0.0) == 3.0
    account.admit(ticket(1, 40), 4.0, backlog=1)
    assert account.next_look(4.0) == pytest.approx(4.0 + LOOK_BLOCKS * BLOCK / 30)
    for _ in range(3):
        account.standing.missed(reachable=False)
    assert account.next_look(4.0) == NEVER


def test_ends_teach_speed_only_if_the_engine_ended_them() -> None:
    """A cut answer's time tells less, and its tokens may be missing."""
    account = engine()
    for number, outcome in enumerate((Outcome.CANCELLED, Outcome.REFUSED, Outcome.FINISHED)):
        lease = account.admit(ticket(number, 10, n=2), 0.0, backlog=1)
        assert account.speed.tokens_per_s is None
        account.end(lease, outcome, Usage(10, 400), 2.0)
        account.end(lease, outcome, Usage(10, 400), 2.0)
    assert account.speed.tokens_per_s == pytest.approx(100.0)


def test_the_snapshot_adds_up() -> None:
    """Capacity is headroom, reserved, draining, foreign and what is held back."""
    account = engine(used=20, running=1)
    account.admit(ticket(1, 30), 0.0, backlog=1)
    drained = account.admit(ticket(2, 10), 0.0, backlog=1)
    account.end(drained, Outcome.BROKEN, None, 1.0)
    shown = account.snapshot(6.0)
    parts = [shown.headroom_tokens, shown.reserved_tokens, shown.draining_tokens, shown.foreign_tokens]
    assert [tokens // BLOCK for tokens in (*parts, shown.held_back_tokens)] == [30, 30, 10, 20, 10]
    assert sum(parts) + shown.held_back_tokens == POOL * BLOCK
    assert (shown.requests, shown.resident_tokens) == (1, 29 * BLOCK)


def test_before_it_is_known_it_is_nothing() -> None:
    """All zeros."""
    account = EngineAccount(Standing.unknown(BackendSpec("a"), AdmissionLimits()), AdmissionLimits())
    shown = account.snapshot(0.0)
    assert (shown.capacity_tokens, shown.headroom_tokens, shown.reserved_tokens, shown.telemetry_age_s) == (
        0,
        0,
        0,
        None,
    )
    assert (account.allowed_blocks(0.0), account.held_back_blocks(0.0), account.next_look(0.0)) == (0, 0, NEVER)
    account.settle_unheard(0.0)
    account.check()


def test_answers_that_outlive_their_likely_end_make_room_wait() -> None:
    """What is reserved follows what is left to come, not what was expected at first."""
    lengths = OutputLengths()
    for _ in range(1000):
        lengths.learn(50, ended=True)
    account = engine()
    leases = [account.admit(ticket(k, 64, output=1000, forecast=lengths.forecast()), 0.0, backlog=1) for k in range(8)]
    young = account.reserved_blocks(0.0)
    for lease in leases:
        account.progress(lease, 200)
    assert account.reserved_blocks(1.0) > 2 * young
