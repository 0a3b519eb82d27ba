"""The future peak of a pool: how many blocks its leases will hold together, and when enough of them come free.

Running sequences advance together, one token per engine step. So the number of tokens to come is a clock that all
leases share: at horizon h a lease has either ended and holds nothing, or has grown by h tokens. With s the chance that
it is still there and y its blocks then, it adds y*s to the mean and y*y*s*(1-s) to the variance of the sum. The peak is
the largest mean + z * deviation over the horizons, z being the normal quantile of the accepted risk; but never more
than what all would hold if each ran to its hard end. So requests of known length are packed exactly, and many of
unknown length by what they are likely to need.

Each horizon stands for the interval that ends at it: blocks are those at its end, chances those at its middle, since a
sum may be largest between two horizons. Some hard ends are horizons themselves; the others are rounded up to the next
one: memory is then taken to be held longer than it is, never shorter.

The sums are kept. A request that comes or goes adds or takes away its own curve, so a decision costs the same however
many run; that is done when somebody asks next, which nobody does while there is room for all. Curves say what was known
of an answer when they were last computed; `refresh` computes all of them anew, in one go over arrays, whenever the
answers have grown far enough to matter.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

import numpy as np

from estimator.kv_cache import KvLayout
from estimator.output_length import OutputForecast
from gateway.admission.curves import (
    GRID,
    UNSEEN_SHARE,
    UNSEEN_TOKENS,
    Floats,
    blocks_of,
    curves_of,
    deviations,
    distinct_prompts,
    excess_blocks,
    horizons_of,
    peak_of,
)
from gateway.admission.expectation import BIN_EDGES, Expectation, chance_of
from gateway.admission.ledger import REPORT_MIN_S, Lease

SLACK_TOKENS = 4
"""A lease is held this much longer than its hard end: sequences that started some steps late end some steps late."""
PREFILL_TOKENS_PER_STEP = 1024
"""A prompt is read in chunks while others generate; its sequence starts that many steps late (a cautious figure)."""
REFRESH_MIN_S = 0.005
REFRESH_S_PER_LEASE = 0.0005
"""Curves may grow this old per lease: bounds the cost of keeping them to a fraction of a per cent of a core."""
REFRESH_ADDED = 0.25
"""Part of all leases that may have come since they were last computed."""
ROWS_MIN, ROWS_AT_ONCE = 16, 512
"""The latter are computed together: what is needed meanwhile stays in the processor's cache."""
EXPECTATIONS_MAX = 16
_PROMPT, _SEQUENCES, _OF_SEQUENCES, _END, _BOUND, _STARTED, _STREAMED, _EXPECTATION, _EXCESS = range(9)
"""Columns of what is known of a lease; the second counts the sequences of a row, the third all of its request."""
_MEAN = 1
"""Of the three curves."""
SURELY_BLOCKS = 1e-3
"""More than any rounding error of the sums."""


class Outlook:
    """The leases of one pool as rows of a table, their curves over the horizons, and the sums of these."""

    def __init__(self, layout: KvLayout, z: float) -> None:
        self._layout = layout
        self._z = z
        self._rows: dict[int, list[int]] = {}
        """By ticket id: one row for each different length of its prompts."""
        self._newcomers: dict[int, Lease] = {}
        """By ticket id: those that have no rows yet. Most end before anybody asks, where there is room for all."""
        self._owners: list[Lease] = []
        """Of each row in use; rows in use come first."""
        self._known = np.zeros((9, ROWS_MIN))
        self._expectations: list[Expectation] = []
        self._full: list[float] | None = None
        """The highest mean from each horizon on, from the last to the first: it never falls. None after a change."""
        self._trial: tuple[Lease, int, list[Floats]] | None = None
        """Who was tried last, and what it would add from which horizon on: mostly it comes at once."""
        self._refreshed_at = -math.inf
        self._added = 0
        self._tokens_per_s = 0.0
        self._curves = np.zeros((3, 0, 0))
        self._restart(np.array(GRID, dtype=np.float64), ROWS_MIN)

    def copied(self) -> Outlook:
        """The same, to be refreshed and looked at without a trace; nobody comes or goes there."""
        self._enter_all()
        twin = Outlook(self._layout, self._z)
        twin._owners = self._owners
        twin._known = self._known.copy()
        twin._expectations = self._expectations.copy()
        return twin

    # Who is there

    def add(self, lease: Lease) -> None:
        """Let one more request be counted in: as it was tried, or once somebody asks."""
        ticket, all_counted = lease.ticket, self._counted == len(self._owners) and not self._newcomers
        rows = self._rows[ticket.id] = []
        self._newcomers[ticket.id] = lease
        self._added += len(set(ticket.demand.prompts))
        if self._trial is not None and all_counted and self._trial[0].ticket is ticket:
            self._enter_all()
            self._add_tried(lease, rows, *self._trial)

    def remove(self, ticket_id: int) -> None:
        """Take a request out; one that is not there changes nothing."""
        self._newcomers.pop(ticket_id, None)
        for row in sorted(self._rows.pop(ticket_id, ()), reverse=True):
            free = row
            if row < self._counted:
                self._sums -= self._curves[:, row]
                self._full = None
                self._counted -= 1
                self._move(self._counted, row)
                free = self._counted
            self._move(len(self._owners) - 1, free)
            self._owners.pop()

    def learned(self, model: str, output: OutputForecast) -> None:
        """The answers of a model are now expected to be this long; counts from the next refresh on."""
        for k, expectation in enumerate(self._expectations):
            if expectation.model == model:
                self._expectations[k] = Expectation.of(model, output)

    def age(self, now: float) -> float:
        """What has changed since the last refresh, as a part of that after which there should be another.

        Time, or newcomers: their ends are no horizons yet.
        """
        count = len(self._owners) + sum(len(set(lease.ticket.demand.prompts)) for lease in self._newcomers.values())
        grown = (now - self._refreshed_at) / max(REFRESH_MIN_S, REFRESH_S_PER_LEASE * count)
        return max(grown, self._added / (REFRESH_ADDED * count)) if count else grown

    def refresh(self, now: float, tokens_per_s: float) -> None:
        """Compute all curves from what is known now: what has been learned, and what the leases have generated.

        Args:
            now: monotonic seconds.
            tokens_per_s: speed of one sequence; says how far answers that do not stream have come.
        """
        self._enter_all()
        count = len(self._owners)
        known = self._known[:, :count]
        self._refreshed_at, self._tokens_per_s, self._added = now, tokens_per_s, 0
        generated = self._generated(now, tokens_per_s)
        # An engine may hold back what it has generated (half a character, a tool call that is not complete), so a
        # stream may show less than there is. But sequences advance in step: none can be far behind the fastest.
        seconds, streamed = now - known[_STARTED], known[_STREAMED] != 0
        old = streamed & (seconds >= REPORT_MIN_S)
        fastest = float((generated[old] / seconds[old]).max()) if old.any() else 0.0
        unseen = np.maximum(0.0, np.floor(UNSEEN_SHARE * fastest * seconds) - UNSEEN_TOKENS - generated)
        unseen *= streamed
        live = self._live_until(known, generated)
        self._restart(horizons_of(live), self._known.shape[1])
        for first in range(0, count, ROWS_AT_ONCE):
            rows = slice(first, min(count, first + ROWS_AT_ONCE))
            self._compute(rows, generated[rows], unseen[rows], live[rows], 0.0)
        if len(self._expectations) > EXPECTATIONS_MAX:
            self._forget_unused()

    def resident_blocks(self, now: float, tokens_per_s: float) -> int:
        """Blocks that all are taken to hold now, by what they have shown."""
        self._enter_all()
        known = self._known[:, : len(self._owners)]
        tokens = known[_PROMPT] + self._generated(now, tokens_per_s)
        return int((known[_SEQUENCES] * blocks_of(self._layout, tokens)).sum())

    # What will be

    def peak(self, now: float) -> int:
        """Most blocks held together at any time to come, but for the accepted risk, if nobody else comes."""
        return self.peak_within(math.inf, now)

    def peak_within(self, seconds: float, now: float) -> int:
        """The same for a time from now on."""
        self._count_all(now)
        ahead = self._ahead(now)
        first = self._first(ahead)
        reach = ahead + seconds * self._tokens_per_s if seconds < math.inf else math.inf
        part = slice(first, max(first, int(np.searchsorted(self._horizons, reach))) + 1)
        return peak_of(self._sums[:, part], self._deviations())[0]

    def peak_with(self, lease: Lease, now: float) -> int:
        """The same with one more request, which starts now."""
        self._count_all(now)
        ahead = self._ahead(now)
        first = self._first(ahead)
        ends = self._horizons[first:] - ahead
        curves = [self._curve_of(lease, *row, ends) for row in distinct_prompts(lease).items()]
        sums: Floats = sum(curves, self._sums[:, first:])
        self._trial = lease, first, curves
        peak, highest = peak_of(sums, self._deviations(len(curves)))
        self._tight = first + highest
        return peak

    def surely_exceeds(self, lease: Lease, allowed: int, now: float) -> bool:
        """Whether one horizon shows that the peak with one more request is above this; False says nothing.

        It is the horizon that was the tightest when the whole peak was computed last, and mostly still is: whoever
        finds no room again is told so at a fraction of the cost.
        """
        self._count_all(now)
        demand, k, ahead = lease.ticket.demand, self._tight, self._ahead(now)
        if len(demand.prompts) > 1 or k >= len(self._horizons) or self._horizons[k] < ahead:
            return False
        prompt = demand.prompts[0]
        if self._starts[k] - ahead >= demand.output_tokens_max + SLACK_TOKENS + prompt // PREFILL_TOKENS_PER_STEP:
            return False
        reach = min(float(self._horizons[k]) - ahead, float(demand.output_tokens_max))
        most = demand.n * self._layout.blocks(prompt + math.ceil(reach))
        likely = max(0, most - excess_blocks(self._layout, demand, prompt, demand.n))
        mean = likely * chance_of(lease.output, reach)
        sum_most, sum_mean, sum_variance = self._sums[:, k].tolist()
        risky = sum_mean + mean + self._deviations(1) * math.sqrt(max(0.0, sum_variance) + mean * (likely - mean))
        return bool(min(sum_most + most, risky) > allowed + SURELY_BLOCKS)

    def tokens_until(self, need: int, allowed: int, now: float) -> float:
        """Tokens per sequence from now until `need` more blocks fit as a rule."""
        self._count_all(now)
        ahead = self._ahead(now)
        if self._full is None:
            self._full = np.maximum.accumulate(self._sums[_MEAN, ::-1]).tolist()
        after = bisect_right(self._full, allowed - need)
        if after == len(self._full):
            return 0.0
        return max(0.0, float(self._horizons[len(self._full) - 1 - after]) + 1 - ahead)

    @property
    def horizons(self) -> Floats:
        """Tokens after the last refresh at which the sums are known."""
        return self._horizons

    # Parts

    def _deviations(self, more: int = 0) -> float:
        return deviations(self._z, len(self._owners) + more)

    def _ahead(self, now: float) -> float:
        """Tokens that every sequence has come on since the last refresh."""
        return max(0.0, now - self._refreshed_at) * self._tokens_per_s if self._tokens_per_s else 0.0

    def _first(self, ahead: float) -> int:
        """The first horizon that has not passed."""
        return min(len(self._places) - 1, bisect_left(self._places, ahead))

    def _restart(self, horizons: Floats, rows: int) -> None:
        self._horizons, self._places = horizons, horizons.tolist()
        self._starts = np.concatenate(([0.0], horizons[:-1]))
        if self._curves.shape != (shape := (3, rows, len(horizons))):
            self._curves = np.zeros(shape)
        self._sums = np.zeros((3, len(horizons)))
        self._full = self._trial = None
        self._counted = 0
        self._tight = 0
        """The horizon of the last peak with one more."""

    def _enter_all(self) -> None:
        """Give the newcomers their rows."""
        for ticket_id, lease in self._newcomers.items():
            rows = self._rows[ticket_id]
            for prompt, sequences in distinct_prompts(lease).items():
                row = len(self._owners)
                if row == self._known.shape[1]:
                    self._make_room()
                self._owners.append(lease)
                rows.append(row)
                self._known[:, row] = self._described(lease, prompt, sequences)
        self._newcomers.clear()

    def _make_room(self) -> None:
        self._known = np.concatenate((self._known, np.zeros_like(self._known)), axis=1)
        self._curves = np.concatenate((self._curves, np.zeros_like(self._curves)), axis=1)

    def _count_all(self, now: float) -> None:
        """Count those in that have come since somebody asked last."""
        self._enter_all()
        if self._counted < len(self._owners):
            rows = slice(self._counted, len(self._owners))
            known, ahead = self._known[:, rows], self._ahead(now)
            generated = self._reported(rows)
            self._compute(rows, generated, None, self._live_until(known, generated), ahead)

    def _add_tried(self, lease: Lease, rows: list[int], tried: Lease, first: int, curves: list[Floats]) -> None:
        if tried.started_at != lease.started_at:
            return
        for row, added in zip(rows, curves, strict=True):
            self._curves[:, row, :first] = 0.0
            self._curves[:, row, first:] = added
            self._sums[:, first:] += added
        self._counted = len(self._owners)
        self._full = self._trial = None

    def _move(self, source: int, target: int) -> None:
        """Put a row in another's place; what stood there is gone, what stood at its source stays until overwritten."""
        if source == target:
            return
        self._curves[:, target] = self._curves[:, source]
        self._known[:, target] = self._known[:, source]
        owner = self._owners[target] = self._owners[source]
        if (rows := self._rows.get(owner.ticket.id)) is not None:
            rows[rows.index(source)] = target

    def _described(self, lease: Lease, prompt: int, sequences: int) -> tuple[float, ...]:
        """A row of the table."""
        demand = lease.ticket.demand
        asked = prompt, sequences, demand.sequences, demand.output_tokens_max
        excess = excess_blocks(self._layout, demand, prompt, sequences)
        return *asked, lease.bound_tokens, lease.started_at, lease.ticket.streamed, self._expectation(lease), excess

    def _expectation(self, lease: Lease) -> int:
        model = "" if lease.ticket.runs_to_max else lease.ticket.model
        for k, known in enumerate(self._expectations):
            if known.output is lease.output and known.model == model:
                return k
        self._expectations.append(Expectation.of(model, lease.output))
        return len(self._expectations) - 1

    def _forget_unused(self) -> None:
        """Keep the list of expectations as short as what is in use."""
        column = self._known[_EXPECTATION, : len(self._owners)]
        used, column[:] = np.unique(column, return_inverse=True)
        self._expectations = [self._expectations[int(k)] for k in used]

    def _reported(self, rows: slice) -> Floats:
        """What each sequence of a row has generated, as far as it was shown."""
        shown = [lease.output_tokens for lease in self._owners[rows]]
        return np.floor_divide(shown, self._known[_OF_SEQUENCES, rows])

    def _generated(self, now: float, tokens_per_s: float) -> Floats:
        """The same of all rows; inferred from the time that has passed where answers do not stream."""
        known = self._known[:, : len(self._owners)]
        inferred = np.minimum(known[_BOUND], np.floor((now - known[_STARTED]) * tokens_per_s))
        return np.where(known[_STREAMED] != 0, self._reported(slice(0, len(self._owners))), inferred)

    def _live_until(self, known: Floats, generated: Floats) -> Floats:
        """Horizon after which each row surely holds nothing."""
        late = np.where(generated == 0, known[_PROMPT] // PREFILL_TOKENS_PER_STEP, 0.0)
        live: Floats = np.maximum(0.0, known[_END] - generated) + SLACK_TOKENS + late
        return live

    def _compute(self, rows: slice, generated: Floats, unseen: Floats | None, live: Floats, ahead: float) -> None:
        """Count some rows in: the most blocks at every horizon, the mean, and the variance."""
        known = self._known[:, rows]
        starts, ends = np.maximum(0.0, self._starts - ahead), np.maximum(0.0, self._horizons - ahead)
        # Beyond the last end there is nothing.
        part = slice(0, int(np.searchsorted(starts, live.max())))
        end = np.maximum(known[_END], generated)[:, None]
        reached = generated[:, None] + ends[part]
        shown = reached + unseen[:, None] if unseen is not None else reached
        tokens = np.minimum(shown, end)
        tokens += known[_PROMPT][:, None]
        most = blocks_of(self._layout, tokens)
        most *= known[_SEQUENCES][:, None]
        most *= starts[part] < live[:, None]
        np.minimum(reached, end, out=reached)
        chance = self._chances(known[_EXPECTATION], generated, reached, whole=not ahead)
        self._curves[:, rows, part.stop :] = 0.0
        curves = self._curves[:, rows, part]
        curves_of(most, chance, known[_EXCESS][:, None], out=curves)
        self._sums[:, part] += curves.sum(axis=1)
        self._full = None
        self._counted = rows.stop

    def _chances(self, expectations: Floats, generated: Floats, reached: Floats, *, whole: bool) -> Floats:
        """That each row gets beyond these lengths; they may be whole tokens."""
        used = set(expectations.tolist())
        chance = np.empty_like(reached)
        for k in used:
            expectation = self._expectations[int(k)]
            which = expectations == k if len(used) > 1 else slice(None)
            look_up = expectation.chance_of_whole if whole else expectation.chance
            chance[which] = look_up(generated[which], reached[which])
        return chance

    def _curve_of(self, lease: Lease, prompt: int, sequences: int, ends: Floats) -> Floats:
        """The same for one request that has not begun; written out, since every decision computes it."""
        demand, end = lease.ticket.demand, lease.ticket.demand.output_tokens_max
        reach = np.minimum(ends, end)
        most = blocks_of(self._layout, reach + prompt)
        if sequences > 1:
            most *= sequences
        live = end + SLACK_TOKENS + prompt // PREFILL_TOKENS_PER_STEP
        if live < ends[-1]:
            most[int(ends.searchsorted(live)) + 1 :] = 0.0
        chance = np.interp(reach, BIN_EDGES, self._expectations[self._expectation(lease)].cumulative)
        np.negative(chance, out=chance)
        np.exp(chance, out=chance)
        curves = np.empty((3, len(ends)))
        curves_of(most, chance, excess_blocks(self._layout, demand, prompt, sequences), out=curves)
        return curves
