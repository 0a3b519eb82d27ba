"""The lengths of answers that an engine has counted itself, read from a histogram on its metrics page."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from estimator.output_length import LengthHistogram
from gateway.backends.exposition import Samples

BOUND = "le"
MODEL = "model_name"


def length_histograms(
    samples: Samples, name: bytes, rank: str, models: Mapping[str, str]
) -> tuple[tuple[str, LengthHistogram], ...]:
    """One histogram per public model name, all ranks together; what is no histogram is left out.

    Args:
        samples: of the page, `name` among them.
        name: of the histogram's buckets, `..._bucket`.
        rank: label of a data-parallel rank; several processes of one rank repeat its series, and the largest counts.
        models: public name: the engine's name; empty: as the engine has it.
    """
    series: dict[str, dict[tuple[str, float], float]] = defaultdict(dict)
    for labels, value in samples.get(name, ()):
        key = labels.get(rank, ""), _bound(labels.get(BOUND, ""))
        of_model = series[labels.get(MODEL, "")]
        of_model[key] = max(value, of_model.get(key, 0.0))
    found = []
    for own, counts in series.items():
        histogram = _histogram(counts)
        if histogram is not None:
            publics = [public for public, engines in models.items() if engines == own] if models else [own]
            found += [(public, histogram) for public in publics]
    return tuple(found)


def _bound(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _histogram(counts: Mapping[tuple[str, float], float]) -> LengthHistogram | None:
    """From counts up to each bound to counts between bounds."""
    upto: dict[float, float] = defaultdict(float)
    for (_, bound), value in counts.items():
        upto[bound] += value
    bounds = sorted(upto)
    values = [upto[bound] for bound in bounds]
    numbers = [*bounds[:-1], *values]
    if bounds[-1] != math.inf or not all(0 <= number < math.inf for number in numbers) or values != sorted(values):
        return None
    between = (after - before for before, after in zip([0.0, *values], values, strict=False))
    return LengthHistogram(tuple(bounds[:-1]), tuple(between))
