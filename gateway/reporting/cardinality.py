"""How many series a gateway can have: computed from the contract, so that nobody has to find out in production."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from gateway.reporting.families import DECISIONS, ENDPOINTS, FAMILIES, Family
from gateway.reporting.labels import closed_values


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a gateway stands in front of."""

    backends: int
    models: int
    """That have been asked for or are configured; "other" is not counted."""
    routes: int = 0
    """Pairs of model and backend that serves it; 0: each backend serves one model."""
    gpus: int = 0
    """Of the gateway's own machine."""
    tenants: int = 0
    """With series of their own; 0: `metrics.tenants` is off."""
    endpoints: int = len(ENDPOINTS)
    """That are used."""
    certificates: int = 1
    observes: bool = False
    """Observe mode lets in with the reason that would have refused."""
    codes: int = 4
    """Statuses seen per endpoint and route, or per endpoint and model where no backend was reached."""


def series_max(fleet: Fleet) -> int:
    """Series that the gateway has at most, a histogram's buckets, sum and count included."""
    return sum(family_series_max(family, fleet) for family in FAMILIES)


def family_series_max(family: Family, fleet: Fleet) -> int:
    """Series of one family."""
    labels = set(family.labels)
    count = 1
    if {"outcome", "reason"} <= labels:  # only some go together
        labels -= {"outcome", "reason"}
        count *= len(DECISIONS) + fleet.observes * sum(outcome == "rejected" for outcome, _ in DECISIONS)
    if {"model_name", "backend"} <= labels and family.name != "backend_info":
        labels -= {"model_name", "backend"}
        count *= _routes(fleet) + (fleet.models + 1 if "endpoint" in labels else 0)
    if {"gpu", "backend"} <= labels:
        labels -= {"gpu", "backend"}
        count *= fleet.gpus
    if {"source", "backend"} <= labels:
        labels -= {"source", "backend"}
        count *= fleet.backends + min(fleet.gpus, fleet.backends)
    if family.name == "backend_info":
        labels, count = set(), _routes(fleet)
    return count * prod(_values(label, family, fleet) for label in labels) * _samples(family)


def _routes(fleet: Fleet) -> int:
    return fleet.routes or max(fleet.backends, fleet.models)


def _samples(family: Family) -> int:
    """Per label set: all buckets with the last one, sum and count."""
    return len(family.buckets) + 3 if family.type == "histogram" else 1


def _values(label: str, family: Family, fleet: Fleet) -> int:
    """How many values a label takes in a family at most."""
    if family.name == "ext_proc_streams_total":
        return len(closed_values(family.name, label))
    open_ = {
        "backend": fleet.backends,
        "model_name": fleet.models + 1,  # and "other"
        "endpoint": fleet.endpoints,
        "code": fleet.codes,
        "tenant": fleet.tenants + 1 if fleet.tenants else 0,
        "label": 1 + bool(fleet.tenants),
        "source": 1 + bool(fleet.gpus),
        "name": fleet.certificates,
        # One series at a time: a new value takes the place of the old one.
        "sha256": 1,
        "version": 1,
        "revision": 1,
        "python_version": 1,
    }
    return open_[label] if label in open_ else len(closed_values(family.name, label))
