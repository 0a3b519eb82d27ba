"""The books of a provider."""

import pytest

from gateway.admission.hosted import HostedAccount
from gateway.admission.limits import AdmissionLimits
from gateway.admission.snapshot import Telemetry
from gateway.admission.standing import Standing
from gateway.domain import BackendLimits, BackendSpec, Outcome, Reason, Usage
from gateway.routing.choose import Holds, Lack, Offer
from tests.admission.words import reading, ticket

TOKENS = 160
"""Of a ticket of ten blocks."""


def provider(rpm: int = 0, tpm: int = 0) -> HostedAccount:
    """One that is up."""
    spec = BackendSpec("c", hosted=True, spill_only=True, limits=BackendLimits(rpm, tpm))
    account = HostedAccount.open(Standing.unknown(spec, AdmissionLimits()), 0.0)
    assert not account.observe(reading(0.0, backend="c", blocks=None), 0.0)
    return account


def test_offers_until_a_limit_is_reached() -> None:
    """Then it holds the line: whoever waits for tokens is not to be overtaken."""
    account = provider(tpm=2 * TOKENS)
    assert account.offer(ticket(1), 0.0) == Offer("c", 1.0, spill=True)
    account.admit(ticket(1), 0.0)
    assert account.offer(ticket(2), 0.0) == Offer("c", 0.5, spill=True)
    account.admit(ticket(2), 0.0)
    assert account.offer(ticket(3), 0.0) == Lack(Reason.HEADROOM, Holds.ALL)
    assert account.wait_s(ticket(3), 0.0) == pytest.approx(30.0)
    assert account.anyway(0.0) == Offer("c", 0.0, spill=True)


@pytest.mark.parametrize(
    ("outcome", "usage", "charged"),
    [
        (Outcome.NOT_SENT, None, 0),
        (Outcome.REFUSED, None, 0),
        (Outcome.CANCELLED, None, TOKENS),
        (Outcome.BROKEN, None, TOKENS),
        (Outcome.FINISHED, Usage(144, 6), 150),
        (Outcome.FINISHED, Usage(144, 500), 644),
    ],
)
def test_settling(outcome: Outcome, usage: Usage | None, charged: int) -> None:
    """What was used counts; where nobody knows, what was expected."""
    account = provider(tpm=1000)
    lease = account.admit(ticket(1), 0.0)
    assert account.end(lease, outcome, usage, 0.0)
    assert not account.end(lease, outcome, usage, 0.0)
    assert account.tokens.level_share(0.0) == pytest.approx(1 - charged / 1000)
    account.check()


def test_its_wish_for_a_pause_is_a_wait() -> None:
    """The longest of all reasons to wait counts."""
    account = provider(rpm=60)
    account.standing.asked_for_pause(7.0)
    assert account.wait_s(ticket(1), 2.0) == 5.0
    assert account.is_usable(2.0)
    assert not account.is_ready(2.0)


def test_snapshot_knows_no_memory() -> None:
    """Telemetry.NONE, everything 0."""
    account = provider()
    account.admit(ticket(1), 0.0)
    shown = account.snapshot(3.0)
    assert (shown.telemetry, shown.requests, shown.capacity_tokens, shown.telemetry_age_s) == (
        Telemetry.NONE,
        1,
        0,
        3.0,
    )


def test_what_is_left_of_a_limit_is_shown() -> None:
    """A share of a minute, below 0 where it is overdrawn; nothing where there is no limit."""
    account = provider(tpm=TOKENS)
    assert account.snapshot(0.0).requests_left_share is None
    assert account.snapshot(0.0).tokens_left_share == 1
    lease = account.admit(ticket(1), 0.0)
    account.end(lease, Outcome.FINISHED, Usage(144, TOKENS), 0.0)
    assert account.snapshot(0.0).tokens_left_share == pytest.approx(-0.9)
    assert provider(rpm=60).snapshot(0.0).requests_left_share == 1
