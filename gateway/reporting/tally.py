"""Counters, gauges and histograms that one thread moves and any thread reads, as collectors for Prometheus' library.

The library's own take a lock and walk through a list of buckets each time; a request moves a dozen of them. These are
moved by the event loop alone, so that an addition is all there is to do. Whoever renders a page in another thread reads
numbers that are a moment old.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Point = tuple[str, dict[str, str], float, Exemplar | None]
"""Suffix of a sample's name, labels beyond those of its series, value, exemplar."""


class Counter:
    """Only goes up."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add so much.

        Raises:
            ValueError: the amount is below 0.
        """
        if amount < 0:
            raise ValueError("a counter only goes up")
        self.value += amount

    def points(self) -> Iterator[Point]:
        """As it stands."""
        yield "_total", {}, float(self.value), None


class Gauge:
    """Goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """It is so much now."""
        self.value = value

    def inc(self) -> None:
        """One more."""
        self.value += 1

    def dec(self) -> None:
        """One less."""
        self.value -= 1

    def set_to_current_time(self) -> None:
        """It is the Unix time now."""
        self.value = time.time()  # noqa: TID251  # a wall clock time that metrics show

    def points(self) -> Iterator[Point]:
        """As it stands."""
        yield "", {}, float(self.value), None


class Histogram:
    """Counts values by buckets; each bucket's bound belongs to it."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        """Ending with infinity."""
        self._counts = [0] * len(bounds)
        self.sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: dict[str, str] | None = None) -> None:
        """Count a value."""
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self.sum += value
        if exemplar:
            now = time.time()  # noqa: TID251  # a wall clock time that metrics show
            self._exemplars[bucket] = Exemplar(exemplar, value, now)

    def points(self) -> Iterator[Point]:
        """As it stands, buckets added up."""
        total = 0
        for bucket, (bound, count) in enumerate(zip(self._bounds, tuple(self._counts), strict=True)):
            total += count
            yield "_bucket", {"le": _shown(bound)}, float(total), self._exemplars.get(bucket)
        yield "_count", {}, float(total), None
        yield "_sum", {}, self.sum, None


class _Kind(Protocol):
    def points(self) -> Iterator[Point]: ...


KindT = TypeVar("KindT", bound=_Kind)


class Series(Collector, Generic[KindT]):
    """All series of one family.

    Args:
        metric: name, help, type and unit; no samples.
        labels: their names.
        make: makes what a new series is.

    Raises:
        ValueError: the registry has a family of this name.
    """

    def __init__(
        self, metric: Metric, labels: Iterable[str], make: Callable[[], KindT], registry: CollectorRegistry
    ) -> None:
        self._metric = metric
        self._make = make
        self._series: dict[tuple[str, ...], KindT] = {}
        self.labels = tuple(labels)
        if not self.labels:
            self.of()
        registry.register(self)

    def of(self, *values: str) -> KindT:
        """The series with these labels."""
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self._metric.name} has the labels {', '.join(self.labels)}")
            found = self._series[values] = self._make()
        return found

    def remove(self, *values: str) -> None:
        """Take a series away, if there is one."""
        self._series.pop(values, None)

    def remove_all(self, labels: Mapping[str, str]) -> None:
        """Take away all series that have these labels among theirs."""
        if labels.keys() <= set(self.labels):
            wanted = labels.items()
            self._series = {
                values: series
                for values, series in self._series.items()
                if not wanted <= dict(zip(self.labels, values, strict=True)).items()
            }

    def describe(self) -> Iterable[Metric]:
        """The family without its series."""
        return [self._empty()]

    def collect(self) -> Iterable[Metric]:
        """The family; in any thread."""
        metric = self._empty()
        for values, series in tuple(self._series.items()):
            labels = dict(zip(self.labels, values, strict=True))
            for suffix, more, value, exemplar in series.points():
                metric.add_sample(metric.name + suffix, {**labels, **more}, value, exemplar=exemplar)
        return [metric]

    def _empty(self) -> Metric:
        metric = self._metric
        return Metric(metric.name, metric.documentation, metric.type, metric.unit)


def with_infinity(bounds: Iterable[float]) -> tuple[float, ...]:
    """Bounds of buckets, the last of which takes everything."""
    return (*bounds, math.inf)


def _shown(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text
