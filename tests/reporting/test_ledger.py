"""A shared ledger tells how it fares, from the moment that there is one."""

from gateway.reporting.families import LEDGER_MODES
from tests.reporting.page import Page
from tests.reporting.samples import metrics_of_both


def test_a_gateway_that_shares_nothing_says_nothing_of_it() -> None:
    assert not [name for name in Page(metrics_of_both()).names if name.startswith("kvgate_ledger")]


def test_it_is_in_exactly_one_mode() -> None:
    metrics = metrics_of_both()
    ledger = metrics.ledger("shared")
    for mode in LEDGER_MODES:
        ledger.on_mode(mode)  # type: ignore[arg-type]
        page = Page(metrics)
        assert {each: page.get("ledger_mode", mode=each) for each in LEDGER_MODES} == {
            each: each == mode for each in LEDGER_MODES
        }


def test_calls_and_expired_leases_are_counted() -> None:
    metrics = metrics_of_both()
    ledger = metrics.ledger("shared")
    ledger.on_expired("b")
    ledger.on_call("acquire", 0.0002, answered=True)
    assert Page(metrics).get("ledger_store_up") == 1
    ledger.on_call("renew", 0.5, answered=False)
    ledger.on_expired("b", 3)
    page = Page(metrics)
    assert page.get("ledger_store_up") == 0
    assert page.get("ledger_store_duration_seconds_count", op="acquire") == 1
    assert page.get("ledger_store_duration_seconds_sum", op="renew") == 0.5
    assert page.get("ledger_leases_expired_total", backend="b") == 3
