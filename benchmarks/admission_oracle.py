"""The oracle of the proof of admission: the best of several clairvoyant gateways, found anew for each workload.

All of them know how long each answer will be. They differ in the order of the queue, in the part of the pool that they
keep free, and in whether they learn how long the engine's steps take or are told. None is proven to be the best there
is: each is greedy, and a lucky gateway that knows less may beat them all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence as Many
from contextlib import contextmanager
from dataclasses import dataclass, replace

from gateway.admission import queue
from gateway.admission.margin import Margin
from gateway.admission.pace import SAMPLES_LEAST
from gateway.admission.steps import StepTimes
from gateway.simulation.fronts import Front
from gateway.simulation.gateway_front import GatewayFront
from gateway.simulation.policies import Policy, Setup, run
from gateway.simulation.profiles import Profile
from gateway.simulation.record import Record
from gateway.simulation.replica import Replica
from gateway.simulation.results import served_well
from gateway.simulation.workload import Request

ORDERS = {"aged": queue.AGEING, "shortest": 0.0, "first-come": math.inf}
"""Part of its cost that a request has shed when its patience ends: as in the product; none; all at once."""
KEPT_FREE = 0.02
AGEING_ENDLESS = 1e12
"""Stands for infinity, times a wait of zero."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One clairvoyant gateway."""

    order: str
    """Of `ORDERS`."""
    keeps_free: bool
    """Whether `KEPT_FREE` of the pool is not given out."""
    knows_steps: bool
    """Whether it is told how long the engine's steps take, instead of learning it."""

    @property
    def name(self) -> str:
        """For tables."""
        return self.order + ", 2 % free" * self.keeps_free + ", exact steps" * self.knows_steps


VARIANTS = tuple(Variant(order, free, exact) for order in ORDERS for free in (False, True) for exact in (False, True))


@dataclass(frozen=True, slots=True)
class Oracle:
    """What the best of the variants made of a workload."""

    best: str
    """Its name."""
    record: Record
    attainments: dict[str, float]
    """Part of all requests that met their SLO, of every variant."""

    @property
    def attainment(self) -> float:
        """Of the best."""
        return self.attainments[self.best]


def oracle(setup: Setup, requests: Many[Request], counted: Many[int], variants: Many[Variant] = VARIANTS) -> Oracle:
    """Run the variants, and keep the one that serves the most of the requests at the indices `counted` in time."""
    records = {variant.name: run_variant(variant, setup, requests) for variant in variants}
    attainments = {name: attained(record, requests, setup, counted) for name, record in records.items()}
    best = max(attainments, key=attainments.__getitem__)
    return Oracle(best, records[best], attainments)


def attained(record: Record, requests: Many[Request], setup: Setup, counted: Many[int]) -> float:
    """Part of the requests at these indices that met their SLO."""
    good = served_well(record, requests, setup.slo)
    return sum(good[number] for number in counted) / len(counted)


def run_variant(variant: Variant, setup: Setup, requests: Many[Request]) -> Record:
    """Replay the requests under one variant."""

    def fronts(setup: Setup, replicas: Many[Replica], requests: Many[Request], record: Record) -> list[Front]:
        return [_Clairvoyant(variant, setup, replicas, requests, record)]

    with _ageing(ORDERS[variant.order]):
        return run(Policy(variant.name, fronts), setup, requests)


class _Clairvoyant(GatewayFront):
    """The product's own admission, told what it cannot know."""

    def __init__(
        self, variant: Variant, setup: Setup, replicas: Many[Replica], requests: Many[Request], record: Record
    ) -> None:
        told = replace(setup.gateway(), knows_lengths=True, prompt_error=None)
        super().__init__(told, replicas, requests, record)
        for account in self.admission._roster.engines.values():  # noqa: SLF001  # not to be had from outside
            if variant.knows_steps:
                account.pace.times = _ExactSteps.of(setup.config.profile)
            if variant.keeps_free:
                account.margin = _FixedMargin()


class _ExactSteps(StepTimes):
    """The times by which the simulated engine runs, but for the longer steps of large batches. Nothing is learned."""

    @classmethod
    def of(cls, profile: Profile) -> _ExactSteps:
        """Those of an engine of this profile."""
        base_s = profile.overhead_s + profile.weights_s
        return cls(base_s, 0.0, profile.kv_token_s, profile.token_s, samples=SAMPLES_LEAST)

    def learn(self, *_: float) -> None:
        """All is known."""


class _FixedMargin(Margin):
    """Always the same part."""

    def share(self, now: float) -> float:
        """`KEPT_FREE`, or what preemptions have taught if that is more."""
        return max(KEPT_FREE, super().share(now))


@contextmanager
def _ageing(part: float) -> Iterator[None]:
    """Let queues order by another ageing. The product has one for all, so it is no setting; a run is on one thread."""
    before = queue.AGEING
    queue.AGEING = min(part, AGEING_ENDLESS)
    try:
        yield
    finally:
        queue.AGEING = before
