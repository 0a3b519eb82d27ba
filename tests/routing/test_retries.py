"""The budget of retries."""

from gateway.routing.retries import CREDIT_MAX, RETRY_SHARE, RetryBudget


def test_a_tenth_of_requests_may_be_retried() -> None:
    """In the long run, whatever fails; quiet times save up a few."""
    budget = RetryBudget()
    retried = 0
    for _ in range(1000):
        budget.earn()
        retried += budget.spend()
    assert CREDIT_MAX + 1000 * RETRY_SHARE - 2 <= retried <= CREDIT_MAX + 1000 * RETRY_SHARE


def test_what_is_saved_is_bounded() -> None:
    """A day without a failure does not pay for a storm."""
    budget = RetryBudget()
    for _ in range(10_000):
        budget.earn()
    assert sum(budget.spend() for _ in range(1000)) == int(CREDIT_MAX)
    assert not budget.spend()
