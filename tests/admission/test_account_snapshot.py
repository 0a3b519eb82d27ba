"""What is shown of an engine."""

import math
from dataclasses import replace

import pytest

from gateway.admission.account import EngineAccount
from gateway.admission.account_snapshot import snapshot_of
from gateway.admission.limits import AdmissionLimits
from gateway.admission.rehearsal import rehearsal
from gateway.admission.snapshot import BackendState, Telemetry
from gateway.admission.standing import Standing
from gateway.domain import BackendSpec, Outcome
from tests.admission.words import BLOCK, POOL, reading, ticket


def engine(**words: int) -> EngineAccount:
    """One that is up and idle."""
    account = EngineAccount(Standing.unknown(BackendSpec("a"), AdmissionLimits()), AdmissionLimits())
    assert account.observe(reading(0.0, **words), 0.0)  # type: ignore[arg-type]
    return account


def test_an_idle_engine_is_all_headroom() -> None:
    """And nothing is forecast to change that."""
    shown = snapshot_of(engine(), 0.0)
    assert (shown.state, shown.telemetry) == (BackendState.READY, Telemetry.FRESH)
    assert shown.capacity_tokens == shown.headroom_tokens == POOL * BLOCK
    assert (shown.peak_forecast_30s_tokens, shown.peak_forecast_300s_tokens, shown.reserved_tokens) == (0, 0, 0)
    assert (shown.exhaustion_s, shown.margin_share, shown.kv_token_seconds) == (math.inf, 0.0, 0.0)


def test_peaks_ahead_lie_between_what_is_held_and_what_is_reserved() -> None:
    """The nearer one is the lower, where memory grows."""
    account = engine(blocks=1000)
    lease = account.admit(ticket(1, 400, output=6000), 0.0, backlog=1)
    account.progressed([(lease, 600)], 10.0)
    shown = snapshot_of(account, 10.0)
    peaks = (
        shown.resident_tokens,
        shown.peak_forecast_30s_tokens,
        shown.peak_forecast_300s_tokens,
        shown.reserved_tokens,
    )
    assert list(peaks) == sorted(peaks)
    assert peaks[0] < peaks[1] < peaks[2] <= peaks[3] == 400 * BLOCK


def test_the_headroom_that_is_shown_is_what_is_given_out() -> None:
    """With drains, a margin and old telemetry; none where nothing may be sent."""
    account = engine(blocks=1000)
    account.admit(ticket(1, 300), 0.0, backlog=1)
    account.end(account.admit(ticket(2, 100), 0.0, backlog=1), Outcome.BROKEN, None, 0.0)
    for now in (0.0, 6.0, 61.0):
        assert snapshot_of(account, now).headroom_tokens == account.headroom_blocks(now) * BLOCK > 0
    account.standing.asked_for_pause(90.0)
    assert snapshot_of(account, 61.0).headroom_tokens == account.headroom_blocks(61.0) == 0


def test_a_pool_that_fills_up_says_when() -> None:
    """By the trend of what is reserved, against what is left."""
    account = engine(blocks=1000)
    for second in range(200):
        account.admit(ticket(second, 2), float(second), backlog=1)
        account.observe(reading(float(second), blocks=1000, used=2 * second), float(second))
    shown = snapshot_of(account, 199.0)
    assert shown.exhaustion_s == pytest.approx(shown.headroom_tokens / (2 * BLOCK), rel=0.1)


def test_times_are_those_learned() -> None:
    """A step with what runs, and one token of a prompt."""
    account = engine(blocks=1000)
    account.pace.times.kv_token_s, account.pace.times.prompt_token_s = 1e-5, 2e-4
    account.admit(ticket(1, 101), 0.0, backlog=1)
    shown = snapshot_of(account, 0.0)
    assert shown.step_s == pytest.approx(0.02 + 1600 * 1e-5)
    assert shown.prompt_token_s == 2e-4


def test_where_overflow_is_fatal_ends_are_added_up() -> None:
    """No forecast there."""
    account = engine()
    assert account.memory is not None
    account.memory.resize(replace(account.capacity, overflow_is_fatal=True), 0.0)
    account.admit(ticket(1, 40, output=320), 0.0, backlog=1)
    shown = snapshot_of(account, 0.0)
    assert shown.peak_forecast_30s_tokens == shown.reserved_tokens == 40 * BLOCK


def test_looking_changes_nothing() -> None:
    """Whoever was looked at decides as one that was not."""
    account = engine(blocks=100)
    for number in range(5):
        account.admit(ticket(number, 15, output=200), 0.1 * number, backlog=1)
    twin = rehearsal(account)
    for now in (0.5, 1.0, 1.5):
        snapshot_of(account, now)
    wish = ticket(99, 30, output=300)
    assert account.offer(wish, 2.0, backlog=1, contended=False) == twin.offer(wish, 2.0, backlog=1, contended=False)
    assert account.next_look(2.0) == twin.next_look(2.0)
