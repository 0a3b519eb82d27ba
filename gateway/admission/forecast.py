"""The future peak of a pool: how many blocks its leases will hold together, and when enough of them come free.

Running sequences advance together, one token per engine step. So the number of tokens to come is a clock that all
leases share: at horizon h a lease has either ended and holds nothing, or has grown by h tokens. With s the chance that
it is still there and y its blocks then, it adds y*s to the mean and y*y*s*(1-s) to the variance of the sum. The peak is
the largest mean + z * deviation over the horizons, z being the normal quantile of the accepted risk; but never more
than what all would hold if each ran to its hard end. So requests of known length are packed exactly, and many of
unknown length by what they are likely to need.

Each horizon stands for the interval that ends at it: blocks are those at its end, chances those at its middle, since a
sum may be largest between two horizons. Hard ends are horizons themselves as long as there are few;
else they are rounded up to the next one: memory is then taken to be held longer than it is, never shorter.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from estimator.output_length import OutputForecast
from gateway.admission.ledger import Lease, Pool

GRID = (0, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 10240, 16384, 32768)
"""Horizons that are always looked at, as far as any lease can reach."""
HARD_ENDS = 16
"""Most horizons beside the grid."""
SLACK_TOKENS = 4
"""A lease is held this much longer than its hard end: sequences that started some steps late end some steps late."""
PREFILL_TOKENS_PER_STEP = 1024
"""A prompt is read in chunks while others generate; its sequence starts that many steps late (a cautious figure)."""
UNSEEN_SHARE = 0.9
"""Of the fastest sequence's pace: what every other one is taken to have kept, whatever its stream shows."""
UNSEEN_TOKENS = 8
"""Behind that pace without anything being held back: a prompt that took some steps to read, a report under way."""
HORIZONS_MAX = 64
"""From this number on, far ends are rounded up."""
AGE_BITS = 4
"""Binary digits of an answer's length that its forecast looks at."""
REBUILD_S_PER_LEASE = 0.001
"""An outlook may grow this old per lease it holds: bounds its cost to a few per cent of a core, however many."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How one request will grow from now on."""

    lease: Lease
    generated: int
    """Output per sequence so far, as far as it was seen: says how much longer it can last."""
    unseen: int = 0
    """What it may have generated beyond that: says how much it can hold already."""

    @property
    def remaining(self) -> int:
        """Tokens until its hard end."""
        return max(0, self.lease.ticket.demand.output_tokens_max - self.generated)

    @property
    def live_until(self) -> int:
        """Horizon after which it surely holds nothing."""
        late = 0
        if self.generated == 0:
            late = max(self.lease.ticket.demand.prompts, default=0) // PREFILL_TOKENS_PER_STEP
        return self.remaining + SLACK_TOKENS + late

    @property
    def age(self) -> int:
        """What it has generated, rounded down by at most an eighth: forecasts are computed once for each age."""
        return self.generated & -(1 << max(0, self.generated.bit_length() - AGE_BITS))

    def curve(self, horizons: Sequence[int], survival: Sequence[float]) -> Curve:
        """Its part of the sums at these horizons, with the chance to be there at each."""
        count = bisect_left(horizons, self.live_until) + 1
        growing = min(count, bisect_right(horizons, self.remaining))
        most = self._blocks(horizons[:growing])
        chances = [*survival[:growing]]
        if growing < count:
            # Horizons beyond its hard end, as far as its slack reaches.
            length = self.generated + self.remaining
            most += [self.lease.blocks_at(length)] * (count - growing)
            at_end = self.lease.output.survival(length, self.generated)
            chances += [max(at_end, chance) for chance in survival[growing:count]]
        mean = [blocks * chance for blocks, chance in zip(most, chances, strict=True)]
        # Of a sum of coin tosses: y*y*s*(1-s).
        variance = [expected * (blocks - expected) for blocks, expected in zip(most, mean, strict=True)]
        return Curve(most, mean, variance)

    def _blocks(self, horizons: Sequence[int]) -> list[int]:
        demand, groups = self.lease.ticket.demand, self.lease.pool.capacity.layout.groups
        start, end = self.generated + self.unseen, self.generated + self.remaining
        if len(groups) > 1 or len(demand.prompts) > 1 or not groups[0].grows:
            return [self.lease.blocks_at(min(start + horizon, end)) for horizon in horizons]
        # The common case, written out: this is where an outlook spends its time.
        prompt, size, n = demand.prompts[0], groups[0].block_tokens, demand.n
        return [-(-(prompt + min(start + horizon, end)) // size) * n for horizon in horizons]


@dataclass(frozen=True, slots=True)
class Curve:
    """Blocks at successive horizons; beyond its end nothing is held."""

    most: list[int]
    mean: list[float]
    variance: list[float]


@dataclass(slots=True)
class Outlook:
    """The sum of all leases' curves, kept up to date by adding and taking away until it is built anew."""

    z: float
    horizons: list[int] = field(default_factory=lambda: [0])
    built_at: float = float("-inf")
    curves: dict[int, Curve] = field(default_factory=dict)
    """By ticket id."""
    _survivals: dict[tuple[int, int], tuple[OutputForecast, tuple[float, ...]]] = field(default_factory=dict)
    """By identity of a forecast and age of an answer: the chances to be there at each horizon."""
    _most: list[int] = field(default_factory=list)
    _mean: list[float] = field(default_factory=list)
    _variance: list[float] = field(default_factory=list)

    def is_old(self, now: float) -> bool:
        """Whether leases have grown so far since it was built that it should be built again."""
        return now - self.built_at > REBUILD_S_PER_LEASE * len(self.curves)

    @property
    def peak(self) -> int:
        """Most blocks held together at any time to come, but for the accepted risk, if nobody else comes."""
        return self._peak(Curve([], [], []))

    def peak_with(self, growth: Growth) -> int:
        """The same with one more request."""
        return self._peak(self._curve(growth, self._horizons_for(growth)))

    def add(self, growth: Growth) -> None:
        """Count one more request in."""
        self.horizons = self._horizons_for(growth)
        curve = self._curve(growth, self.horizons)
        self.curves[growth.lease.ticket.id] = curve
        missing = len(curve.most) - len(self._most)
        if missing > 0:
            self._most += [0] * missing
            self._mean += [0.0] * missing
            self._variance += [0.0] * missing
        self._change(curve, 1)

    def remove(self, ticket_id: int) -> None:
        """Take one request out."""
        curve = self.curves.pop(ticket_id, None)
        if curve is not None:
            self._change(curve, -1)

    def horizon_when(self, need: int, allowed: int) -> int:
        """First horizon from which `need` more blocks fit as a rule."""
        first = 0
        for k, mean in enumerate(self._mean):
            if mean + need > allowed:
                first = self.horizons[k] + 1
        return first

    def _peak(self, extra: Curve) -> int:
        z, added = self.z, len(extra.most)
        peak = 0.0
        for k in range(max(len(self._most), added)):
            most = mean = variance = 0.0
            if k < len(self._most):
                most, mean, variance = self._most[k], self._mean[k], self._variance[k]
            if k < added:
                most += extra.most[k]
                mean += extra.mean[k]
                variance += extra.variance[k]
            # Adding and taking away leaves a rounding error; a variance must not go below zero for it.
            peak = max(peak, min(most, mean + z * math.sqrt(max(0.0, variance))))
        return math.ceil(peak - 1e-6)

    def _change(self, curve: Curve, sign: int) -> None:
        count = len(curve.most)
        self._most[:count] = [a + sign * b for a, b in zip(self._most, curve.most, strict=False)]
        self._mean[:count] = [a + sign * b for a, b in zip(self._mean, curve.mean, strict=False)]
        self._variance[:count] = [a + sign * b for a, b in zip(self._variance, curve.variance, strict=False)]

    def _curve(self, growth: Growth, horizons: list[int]) -> Curve:
        output, age = growth.lease.output, growth.age
        _, chances = self._survivals.get((id(output), age), (output, ()))
        if len(chances) < len(horizons):
            # Horizons are only ever added at the far end, so what is known of the near ones holds.
            starts = (0, *horizons)
            chances = (
                *chances,
                *(
                    output.survival(age + (starts[k] + horizons[k]) // 2, age)
                    for k in range(len(chances), len(horizons))
                ),
            )
            if horizons is self.horizons:
                self._survivals[id(output), age] = (output, chances)
        return growth.curve(horizons, chances)

    def _horizons_for(self, growth: Growth) -> list[int]:
        end = growth.live_until
        if end <= self.horizons[-1]:
            return self.horizons
        if len(self.horizons) >= HORIZONS_MAX:
            # A burst of ever longer requests must not make the list as long as itself.
            end += end // 4
        return [*self.horizons, *(h for h in GRID if self.horizons[-1] < h < end), end]


def growth_of(lease: Lease, now: float, tokens_per_s: float, fastest_tokens_per_s: float = 0.0) -> Growth:
    """The growth of a lease from now on.

    An engine may hold back what it has generated (half a character, a tool call that it has not understood yet), so a
    stream may show less than there is. But sequences advance in step: none can be far behind the fastest.
    """
    generated = lease.generated(now, tokens_per_s)
    if not lease.ticket.streamed:
        return Growth(lease, generated)
    likely = int(UNSEEN_SHARE * fastest_tokens_per_s * (now - lease.started_at)) - UNSEEN_TOKENS
    return Growth(lease, generated, max(0, likely - generated))


def outlook(pool: Pool, grow: Callable[[Lease], Growth], z: float, now: float) -> Outlook:
    """Build the outlook of a pool from its active leases. What drains is no part of it: nobody knows when it ends."""
    growths = [grow(lease) for lease in pool.leases.values()]
    built = Outlook(z, _horizons([growth.live_until for growth in growths]), now)
    for growth in growths:
        built.add(growth)
    return built


def _horizons(ends: Iterable[int]) -> list[int]:
    distinct = sorted(set(ends))
    if len(distinct) > HARD_ENDS:
        last = len(distinct) - 1
        distinct = [distinct[i * last // (HARD_ENDS - 1)] for i in range(HARD_ENDS)]
    furthest = distinct[-1] if distinct else 0
    return sorted({0, *distinct, *(h for h in GRID if h < furthest)})
