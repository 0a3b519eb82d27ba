"""Numbers that are moved by one thread come out as Prometheus' own library would show them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from prometheus_client import CollectorRegistry, Counter as TheirCounter, Gauge as TheirGauge, Histogram as Theirs
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics

from gateway.reporting.tally import Counter, Gauge, Histogram, Series, with_infinity

BOUNDS = (0.1, 1.0, 2.5)


def _histograms(registry: CollectorRegistry) -> Series[Histogram]:
    metric = Metric("h_seconds", "Help.", "histogram", "seconds")
    return Series(metric, ("a", "b"), lambda: Histogram(with_infinity(BOUNDS)), registry)


def _shown(registry: CollectorRegistry) -> str:
    """A page; when series were made is told by the library alone."""
    page: str = open_metrics(registry).decode()  # type: ignore[no-untyped-call]
    return "\n".join(line for line in page.splitlines() if "_created" not in line)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-10, 10) | st.sampled_from(BOUNDS), max_size=20))
def test_a_histogram_counts_as_the_librarys(values: list[float]) -> None:
    """Sums, buckets and their bounds, to the letter."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = _histograms(ours).of("x", 'q"\\\n')
    other = Theirs("h", "Help.", ("a", "b"), unit="seconds", registry=theirs, buckets=BOUNDS).labels("x", 'q"\\\n')
    for value in values:
        mine.observe(value)
        other.observe(value)
    assert _shown(ours) == _shown(theirs)


def test_counters_and_gauges_are_shown_as_the_librarys() -> None:
    """With labels and without: without, there is a series from the start."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    plain = Series(Metric("c_tokens", "C.", "counter", "tokens"), (), Counter, ours)
    labelled = Series(Metric("g", "G.", "gauge"), ("l",), Gauge, ours)
    counter = TheirCounter("c_tokens_total", "C.", unit="tokens", registry=theirs)
    gauge = TheirGauge("g", "G.", ("l",), registry=theirs)
    assert _shown(ours) == _shown(theirs)
    for series in (plain.of(), counter):
        series.inc()
        series.inc(2.5)
    for one in (labelled.of("x"), gauge.labels("x")):
        one.set(3)
        one.inc()
        one.dec()
        one.dec()
    assert _shown(ours) == _shown(theirs)


def test_an_exemplar_stays_with_its_bucket() -> None:
    """The newest one."""
    registry = CollectorRegistry()
    series = _histograms(registry).of("x", "y")
    series.observe(0.5, {"trace_id": "old"})
    series.observe(0.7, {"trace_id": "new"})
    series.observe(9.0)
    (metric,) = registry.collect()
    exemplars = [(s.labels["le"], s.exemplar.labels, s.exemplar.value) for s in metric.samples if s.exemplar]
    assert exemplars == [("1.0", {"trace_id": "new"}, 0.7)]


def test_a_counter_never_falls() -> None:
    with pytest.raises(ValueError, match="only goes up"):
        Counter().inc(-1)


def test_series_come_and_go() -> None:
    """Each is one and the same until it is taken away."""
    registry = CollectorRegistry()
    series = _histograms(registry)
    assert series.of("x", "y") is series.of("x", "y")
    series.of("x", "z").observe(1)
    series.of("u", "z").observe(1)
    series.remove_all({"a": "x"})
    series.remove_all({"c": "unknown"})
    series.remove("never", "there")
    assert {sample.labels["a"] for metric in registry.collect() for sample in metric.samples} == {"u"}
    with pytest.raises(ValueError, match="has the labels a, b"):
        series.of("x")


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry()
    _histograms(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        _histograms(registry)
