"""The families of the contract as collectors of one registry."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from gateway.reporting.families import GATEWAY, PREFIX, Family
from gateway.reporting.tally import Counter, Gauge, Histogram, Series, with_infinity

_UNITS = ("seconds", "bytes", "tokens", "ratio")
"""Units that OpenMetrics names in a line of its own."""


class Families:
    """Every family of a gateway, and further ones once their feature is used: one that never moves would be a lie."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Series[Counter]] = {}
        self._gauges: dict[str, Series[Gauge]] = {}
        self._histograms: dict[str, Series[Histogram]] = {}
        self.add(GATEWAY)

    def add(self, families: Iterable[Family]) -> None:
        """Export these families from now on."""
        for family in families:
            name, labels, registry = family.name, family.labels, self.registry
            stem = PREFIX + name.removesuffix("_total") if family.type == "counter" else PREFIX + name
            metric = Metric(stem, family.help, family.type, _unit(name))
            match family.type:
                case "counter":
                    self._counters[name] = Series(metric, labels, Counter, registry)
                case "gauge":
                    self._gauges[name] = Series(metric, labels, Gauge, registry)
                case "histogram":
                    make = partial(Histogram, with_infinity(family.buckets))
                    self._histograms[name] = Series(metric, labels, make, registry)

    def counter(self, name: str, *labels: str) -> Counter:
        """One series of a counter."""
        return self._counters[name].of(*labels)

    def gauge(self, name: str, *labels: str) -> Gauge:
        """One series of a gauge."""
        return self._gauges[name].of(*labels)

    def histogram(self, name: str, *labels: str) -> Histogram:
        """One series of a histogram."""
        return self._histograms[name].of(*labels)

    def remove_gauge(self, name: str, *labels: str) -> None:
        """Take a series away, where its labels stopped being true."""
        self._gauges[name].remove(*labels)

    def remove_all(self, **labels: str) -> None:
        """Take away every series of these labels: what they name is gone for good."""
        for counter in self._counters.values():
            counter.remove_all(labels)
        for gauge in self._gauges.values():
            gauge.remove_all(labels)
        for histogram in self._histograms.values():
            histogram.remove_all(labels)


class Total:
    """A counter that follows a total which somebody else adds up."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._reached = 0.0

    def reach(self, total: float) -> None:
        """Count what was added since. A total that fell has started anew: what it says now was added since."""
        self._counter.inc(total - self._reached if total >= self._reached else total)
        self._reached = total


def _unit(name: str) -> str:
    stem = name.removesuffix("_total")
    return next((unit for unit in _UNITS if stem.endswith(f"_{unit}")), "")
