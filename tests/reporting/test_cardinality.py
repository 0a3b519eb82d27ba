"""How many series a gateway has is known before it has them."""

from gateway.admission.commands import Admit
from gateway.admission.events import Arrived
from gateway.domain import Reason
from gateway.reporting.cardinality import Fleet, family_series_max, series_max
from gateway.reporting.families import DECISIONS, FAMILIES, Family
from gateway.reporting.metrics import Metrics
from tests.reporting.page import Page
from tests.reporting.samples import HOSTED, record, snapshot, ticket, used_up


def test_the_bound_is_what_a_gateway_has_when_all_was_seen() -> None:
    """Not a series more, and not one less."""
    for fleet in (Fleet(1, 1), Fleet(3, 2, gpus=2), Fleet(6, 4, gpus=4, tenants=5)):
        assert len(Page(used_up(fleet)).samples) == series_max(fleet), fleet


def test_junk_in_requests_adds_nothing() -> None:
    fleet = Fleet(3, 2)
    metrics = used_up(fleet)
    for number in range(50):
        metrics.on_request(record(model=f"junk-{number}", backend=f"junk-{number}", code=400))
    assert len(Page(metrics).samples) <= series_max(fleet)


def test_observe_mode_lets_in_for_further_reasons() -> None:
    decisions = next(family for family in FAMILIES if family.name == "admission_decisions_total")
    more = family_series_max(decisions, Fleet(1, 1, observes=True)) - family_series_max(decisions, Fleet(1, 1))
    assert more == 2 * 3 * sum(outcome == "rejected" for outcome, _ in DECISIONS)
    metrics = Metrics(["m"], version="1", config_sha256="x", exceed_ratio_target=0.01)
    before = len(Page(metrics).samples)
    metrics.on_admission(0.0, Arrived(ticket(1)), [Admit(1, "b", Reason.HEADROOM, kv_tokens=1)])
    assert len(Page(metrics).samples) == before + 1


def test_routes_cost_most() -> None:
    """Where every backend serves every model, series grow with the product; where not, with the backends."""
    alone, crossed = series_max(Fleet(16, 8)), series_max(Fleet(16, 8, routes=16 * 8))
    assert series_max(Fleet(16, 8, routes=16)) == alone
    assert crossed > 2 * alone
    assert series_max(Fleet(64, 16)) < 20_000


def test_a_histogram_is_its_buckets_sum_and_count() -> None:
    family = Family("x_seconds", "histogram", ("backend",), "X.", (1.0, 2.0))
    assert family_series_max(family, Fleet(4, 1)) == 4 * 5


def test_hosted_backends_have_fewer() -> None:
    """The bound takes all backends for engines of our own."""
    hosted = Metrics([], version="1", config_sha256="x", exceed_ratio_target=0.01)
    hosted.refresh(snapshot(0.0, HOSTED), {})
    assert len(Page(hosted).samples) < series_max(Fleet(1, 1))
