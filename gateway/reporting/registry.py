"""The families of the contract as collectors of one registry."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.reporting.families import GATEWAY, PREFIX, Family

_UNITS = ("seconds", "bytes", "tokens", "ratio")
"""Units that OpenMetrics names in a line of its own."""


class Families:
    """Every family of a gateway, and further ones once their feature is used: one that never moves would be a lie."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        self.add(GATEWAY)

    def add(self, families: Iterable[Family]) -> None:
        """Export these families from now on."""
        for family in families:
            name, labels, unit = PREFIX + family.name, family.labels, _unit(family.name)
            match family.type:
                case "counter":
                    self._counters[family.name] = Counter(name, family.help, labels, unit=unit, registry=self.registry)
                case "gauge":
                    self._gauges[family.name] = Gauge(name, family.help, labels, unit=unit, registry=self.registry)
                case "histogram":
                    self._histograms[family.name] = Histogram(
                        name, family.help, labels, unit=unit, registry=self.registry, buckets=family.buckets
                    )

    def counter(self, name: str, *labels: str) -> Counter:
        """One series of a counter."""
        return self._counters[name].labels(*labels) if labels else self._counters[name]

    def gauge(self, name: str, *labels: str) -> Gauge:
        """One series of a gauge."""
        return self._gauges[name].labels(*labels) if labels else self._gauges[name]

    def histogram(self, name: str, *labels: str) -> Histogram:
        """One series of a histogram."""
        return self._histograms[name].labels(*labels) if labels else self._histograms[name]

    def remove_gauge(self, name: str, *labels: str) -> None:
        """Take a series away, where its labels stopped being true."""
        self._gauges[name].remove(*labels)

    def remove_all(self, **labels: str) -> None:
        """Take away every series of these labels: what they name is gone for good."""
        for family in (*self._counters.values(), *self._gauges.values(), *self._histograms.values()):
            if labels.keys() <= set(family._labelnames):  # noqa: SLF001  # said nowhere else
                family.remove_by_labels(labels)


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
