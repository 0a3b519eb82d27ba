"""Admission in front of the simulated engine, against the engine alone: what the product is for."""

import random
import statistics

import pytest

from estimator.demand import Shape
from gateway.admission.events import Arrived
from gateway.admission.limits import AdmissionLimits
from gateway.domain import Ticket
from tests.admission.world import Request, World

pytestmark = pytest.mark.timeout(180)

PATIENT = AdmissionLimits(queue_requests_max=1000)


def small(limits: AdmissionLimits | None) -> World:
    """A pool of 1,024 tokens."""
    return World(blocks=32, block_tokens=32, context_tokens=512, limits=limits)


def large(limits: AdmissionLimits | None) -> World:
    """A pool of 2,048 tokens."""
    return World(blocks=128, block_tokens=16, context_tokens=512, limits=limits)


def test_a_burst_of_equal_requests_runs_without_a_preemption() -> None:
    """64 requests of 32 + 200 tokens on a pool of 1,024: alone the engine throws sequences out over and over."""
    requests = [Request(0.0, 32, 200, 200)] * 64
    bare = small(None).run(requests)
    world = small(PATIENT)
    result = world.run(requests)
    assert bare.preemptions > 100
    assert (result.preemptions, result.served, len(result.refusals)) == (0, 64, 0)
    assert world.mean_concurrency > 4.8
    assert result.tokens_per_s >= bare.tokens_per_s


@pytest.mark.parametrize("gap_s", [0.0, 0.2], ids=["at once", "spread"])
def test_answers_of_unknown_length_cost_no_throughput(gap_s: float) -> None:
    """Lengths are learned on the way: less than one preemption per 100 requests, and no fewer tokens per second."""
    bare_s = gated_s = 0.0
    preemptions = 0
    for seed in range(3):
        chance = random.Random(seed)
        lengths = [min(400, max(1, int(chance.lognormvariate(4.5, 0.8)))) for _ in range(600)]
        requests = [Request(k * gap_s, 32, length, 400) for k, length in enumerate(lengths)]
        bare = large(None).run(requests)
        result = large(PATIENT).run(requests)
        assert result.served == 600
        assert result.tokens_per_s > 0.95 * bare.tokens_per_s
        bare_s, gated_s, preemptions = bare_s + bare.seconds, gated_s + result.seconds, preemptions + result.preemptions
    assert preemptions < 3 * 600 / 100
    assert gated_s <= bare_s


def test_nobody_is_forgotten_when_the_queue_overflows() -> None:
    """Every request is served or refused, once; a refusal says when to come back."""
    requests = [Request(k * 0.01, 32, 100, 100) for k in range(200)]
    world = World(
        blocks=32, block_tokens=32, context_tokens=512, limits=AdmissionLimits(queue_requests_max=20), wait_max_s=5.0
    )
    result = world.run(requests)
    assert result.served + len(result.refusals) == 200
    assert result.served > 20
    assert result.preemptions == 0
    assert all(refusal.retry_after_s for _, refusal in result.refusals.values())


@pytest.mark.parametrize("queue_requests_max", [0, 16])
def test_who_comes_back_when_told_finds_room(queue_requests_max: int) -> None:
    """Bursts of twice what the engine can do: near half of those refused are served at their first retry, in time."""
    served = refused = 0
    ratios = []
    for seed in range(3):
        chance = random.Random(seed)
        requests, now = [], 0.0
        for _ in range(300):
            now += chance.expovariate(12.0 if now % 30 < 10 else 2.0)
            requests.append(Request(now, 32, min(400, max(1, int(chance.lognormvariate(4.5, 0.8)))), 400))
        limits = AdmissionLimits(queue_requests_max=queue_requests_max)
        world = World(blocks=128, block_tokens=16, context_tokens=512, limits=limits, wait_max_s=3.0, obedient=True)
        result = world.run(requests)
        refused += len(result.first_refusals)
        for number, (when, refusal) in result.first_refusals.items():
            if number not in result.refusals:
                served += 1
                ratios.append((refusal.retry_after_s or 0.0) / (result.admitted_at[number] - when))
    assert refused > 300
    assert served > 0.45 * refused
    assert 0.5 < statistics.median(ratios) <= 1.0


class TenantsWorld(World):
    """Every fourth request is of one tenant, the others of three; each may hold a part of the pool."""

    kv_share = 1.0

    def _arrive(self, number: int) -> None:
        request = self._requests[number]
        assert self.admission is not None
        shape = Shape(0, token_prompts=(request.prompt_tokens,), max_tokens=request.max_tokens, stream=True)
        demand = self.model.estimate(shape, context_tokens=self.capacity.sequence_tokens_max)
        ticket = Ticket(
            number,
            "m",
            demand,
            self.now + self.wait_max_s,
            max_tokens=request.max_tokens,
            tenant=str(number % 4),
            kv_share=self.kv_share,
        )
        self._do(self.admission.handle(Arrived(ticket), self.now))


def test_a_tenant_that_asks_for_little_and_then_generates_much_harms_itself() -> None:
    """A quarter of the requests are its; after 25 short answers all are as long as they may get, for many lifetimes."""
    served = {}
    for kv_share in (1.0, 0.5):
        chance, now = random.Random(5), 0.0
        requests = []
        for number in range(800):
            now += chance.expovariate(6.0)
            honest = min(400, max(1, int(chance.lognormvariate(3.4, 0.5))))
            greedy = 20 if number < 100 else 400
            requests.append(Request(now, 32, honest if number % 4 else greedy, 400))
        world = TenantsWorld(blocks=128, block_tokens=16, context_tokens=512, limits=PATIENT, wait_max_s=2.0)
        world.kv_share = kv_share
        result = world.run(requests)
        later = [number for number in range(100, 800) if number % 4]
        served[kv_share] = sum(number in result.admitted_at for number in later) / len(later)
    assert served[0.5] > served[1.0] + 0.1
    assert served[0.5] > 0.8
