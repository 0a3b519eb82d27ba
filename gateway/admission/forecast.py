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

The sums are kept over a table with a row for each request. Between two reports of progress nothing of it changes: who
comes and who goes is taken in by the few horizons that decide (`peaks`), so a decision costs the same however many run;
`settle` then gives everybody their place in the table. Curves say what was known of an answer when they were last
computed; `refresh` computes all of them anew, in one go over arrays, whenever the answers have grown far enough to
matter.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import islice

import numpy as np

from estimator.demand import Demand
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
    rows_of,
)
from gateway.admission.expectation import Expectation
from gateway.admission.ledger import REPORT_MIN_S, Lease
from gateway.admission.peaks import PREFILL_TOKENS_PER_STEP, SLACK_TOKENS, Horizon, Newcomer, Peaks

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
CHANGES_MAX = 64
"""That may be waiting to be settled when somebody asks: horizons that have not been looked at take in all of them."""


class Outlook:
    """The leases of one pool as rows of a table, their curves over the horizons, and the sums of these."""

    def __init__(self, layout: KvLayout, z: float) -> None:
        self._layout = layout
        self._z = z
        self._rows: dict[int, list[int]] = {}
        """By ticket id: one row for each different length of its prompts; none while it is a newcomer."""
        self._newcomers: dict[int, Lease] = {}
        """By ticket id: those that have no rows yet. Most end before anybody asks, where there is room for all."""
        self._newcomers_blocks = 0
        """Held at their hard ends."""
        self._present = 0
        """Rows of all who are there, those of newcomers to come included."""
        self._gone: list[int] = []
        """Rows whose owners have left since the table was settled."""
        self._owners: list[Lease] = []
        """Of each row in use; rows in use come first."""
        self._known = np.zeros((9, ROWS_MIN))
        self._expectations: list[Expectation] = []
        self._refreshed_at = -math.inf
        self._added, self._tokens_per_s = 0, 0.0
        self._curves = np.zeros((3, 0, 0))
        self._peak: tuple[int, int] | None = None
        """The highest from a horizon on, where it was asked for since the table was settled."""
        self._restart(np.array(GRID, dtype=np.float64), ROWS_MIN)

    def copied(self) -> Outlook:
        """The same, to be refreshed and looked at without a trace; nobody comes or goes there."""
        twin, out = Outlook(self._layout, self._z), set(self._gone)
        there = [row for row in range(len(self._owners)) if row not in out]
        twin._owners = [self._owners[row] for row in there]
        twin._known = np.concatenate((self._known[:, there], np.zeros((9, ROWS_MIN))), axis=1)
        twin._expectations = self._expectations.copy()
        for lease in self._newcomers.values():
            twin.add(lease)
        twin._present = self._present
        return twin

    # Who is there

    def add(self, lease: Lease) -> None:
        """Let one more request be counted in, once somebody asks."""
        rows = rows_of(lease)
        self._rows[lease.ticket.id] = []
        self._newcomers[lease.ticket.id] = lease
        self._newcomers_blocks += lease.most_blocks
        self._added += rows
        self._present += rows

    def remove(self, ticket_id: int) -> None:
        """Take a request out; one that is not there changes nothing."""
        rows = self._rows.pop(ticket_id, None)
        if rows is None:
            return
        lease = self._newcomers.pop(ticket_id, None)
        if lease is not None:
            self._newcomers_blocks -= lease.most_blocks
        self._present -= len(rows) if lease is None else rows_of(lease)
        self._gone += rows
        if self._peaks is not None:
            self._peaks.left(ticket_id, rows)

    def learned(self, model: str, output: OutputForecast) -> None:
        """The answers of a model are now expected to be this long; counts from the next refresh on."""
        for k, expectation in enumerate(self._expectations):
            if expectation.model == model:
                self._expectations[k] = Expectation.of(model, output)

    def age(self, now: float) -> float:
        """What has changed since the last refresh, as a part of that after which there should be another.

        Time, or newcomers: their ends are no horizons yet.
        """
        count = self._present
        grown = (now - self._refreshed_at) / max(REFRESH_MIN_S, REFRESH_S_PER_LEASE * count)
        return max(grown, self._added / (REFRESH_ADDED * count)) if count else grown

    def refresh(self, now: float, tokens_per_s: float) -> None:
        """Compute all curves from what is known now: what has been learned, and what the leases have generated.

        Args:
            now: monotonic seconds.
            tokens_per_s: speed of one sequence; says how far answers that do not stream have come.
        """
        self._leave()
        self._enter()
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
            self._compute(rows, generated[rows], live[rows], unseen=unseen[rows])
        if len(self._expectations) > EXPECTATIONS_MAX:
            self._forget_unused()
        self._rank()

    def settle(self, now: float) -> None:
        """Give those rows in the table that have come, and take those out that have gone; for quiet moments."""
        if self._peaks is not None and not self._newcomers and not self._peaks.changes:
            return
        came = list(self._peaks.newcomers.values()) if self._peaks is not None else []
        self._leave()
        first = len(self._owners)
        self._enter()
        if first < len(self._owners):
            rows = slice(first, len(self._owners))
            # Those that were counted in stay as they were then.
            generated, ahead = self._reported(rows), np.full(rows.stop - first, self._ahead(now))
            k = 0
            for newcomer in came:
                part = slice(k, k + len(newcomer.parts))
                generated[part], ahead[part], k = newcomer.generated, newcomer.ahead, part.stop
            self._compute(rows, generated, self._live_until(self._known[:, rows], generated), ahead=ahead)
        self._rank()

    def resident_blocks(self, now: float, tokens_per_s: float) -> int:
        """Blocks that all are taken to hold now, by what they have shown."""
        self.settle(now)
        known = self._known[:, : len(self._owners)]
        tokens = known[_PROMPT] + self._generated(now, tokens_per_s)
        return int((known[_SEQUENCES] * blocks_of(self._layout, tokens)).sum())

    # What will be

    def peak(self, now: float) -> int:
        """Most blocks held together at any time to come, but for the accepted risk, if nobody else comes."""
        self.settle(now)
        first = self._first(self._ahead(now))
        if self._peak is None or self._peak[0] != first:
            self._peak = first, peak_of(self._sums[:, first:], self._deviations())[0]
        return self._peak[1]

    def peak_within(self, seconds: float, now: float) -> int:
        """The same for a time from now on."""
        self.settle(now)
        ahead = self._ahead(now)
        first = self._first(ahead)
        part = slice(first, max(first, bisect_left(self._places, ahead + seconds * self._tokens_per_s)) + 1)
        return peak_of(self._sums[:, part], self._deviations())[0]

    def peak_with(self, demand: Demand, output: OutputForecast, now: float, allowed: float = math.inf) -> float:
        """The same with one more request, which starts now; infinite if that is more than allowed."""
        trial = Newcomer.of(self._layout, demand, output, self._ahead(now))
        return self._up_to_date(now).peak_with(trial, allowed, self._deviations(len(trial.parts)))

    def tokens_until(self, need: int, allowed: int, now: float, *, at_most: bool = False) -> float:
        """Tokens per sequence from now until `need` more blocks fit as a rule.

        Args:
            need: blocks.
            allowed: blocks that may be filled.
            now: monotonic seconds.
            at_most: a bound of it will do, which is quicker to be had.
        """
        if self._peaks is None or not at_most:
            self.settle(now)
        after = bisect_right(self._full, allowed - need - self._newcomers_blocks)
        if after == len(self._full):
            return 0.0
        return max(0.0, float(self._places[len(self._full) - 1 - after]) + 1 - self._ahead(now))

    @property
    def horizons(self) -> Floats:
        """Tokens after the last refresh at which the sums are known."""
        return self._horizons

    # Parts

    def _deviations(self, more: int = 0) -> float:
        return deviations(self._z, self._present + more)

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
        self._growths = blocks_of(self._layout, horizons).tolist()
        self._peaks: Peaks | None = None
        """None while the table is not settled."""
        self._full: list[float] = []
        """The highest mean from each horizon on, from the last to the first: it never falls."""

    def _up_to_date(self, now: float) -> Peaks:
        """The horizons that decide, told of all who have come."""
        peaks, unknown = self._peaks, len(self._newcomers)
        if peaks is not None:
            unknown -= len(peaks.newcomers)
        if peaks is None or len(peaks.changes) + unknown > CHANGES_MAX or 2 * self._present < self._settled:
            self.settle(now)
            peaks = self._peaks
            assert peaks is not None
        elif unknown:
            ahead = self._ahead(now)
            for ticket_id, lease in islice(self._newcomers.items(), len(peaks.newcomers), None):
                generated = lease.output_tokens // lease.sequences if lease.output_tokens else 0
                demand = lease.ticket.demand
                peaks.came(ticket_id, Newcomer.of(self._layout, demand, lease.output, ahead, generated))
        return peaks

    def _rank(self) -> None:
        """Begin anew to write down what changes."""
        self._settled, self._peak = self._present, None
        self._full = np.maximum.accumulate(self._sums[_MEAN, ::-1]).tolist()
        horizons = list(map(Horizon, self._starts.tolist(), self._places, self._growths, *self._sums.tolist()))
        self._peaks = Peaks(self._layout, horizons, self._curves, max(0.0, deviations(self._z, self._present // 2)))

    def _leave(self) -> None:
        """Close the gaps that those have left who are gone."""
        gone, left = self._gone, len(self._owners) - len(self._gone)
        if not gone:
            return
        self._sums -= self._curves[:, gone].sum(axis=1)
        out, gaps = set(gone), [row for row in gone if row < left]
        last = [row for row in range(left, len(self._owners)) if row not in out]
        self._curves[:, gaps] = self._curves[:, last]
        self._known[:, gaps] = self._known[:, last]
        for gap, row in zip(gaps, last, strict=True):
            owner = self._owners[gap] = self._owners[row]
            rows = self._rows[owner.ticket.id]
            rows[rows.index(row)] = gap
        del self._owners[left:], gone[:]
        self._peaks = None

    def _enter(self) -> None:
        """Give the newcomers their rows, in the order in which they came."""
        for ticket_id, lease in self._newcomers.items():
            rows = self._rows[ticket_id]
            for prompt, sequences in distinct_prompts(lease.ticket.demand).items():
                row = len(self._owners)
                if row == self._known.shape[1]:
                    self._make_room()
                self._owners.append(lease)
                rows.append(row)
                self._known[:, row] = self._described(lease, prompt, sequences)
        self._newcomers.clear()
        self._newcomers_blocks = 0

    def _make_room(self) -> None:
        self._known = np.concatenate((self._known, np.zeros_like(self._known)), axis=1)
        self._curves = np.concatenate((self._curves, np.zeros_like(self._curves)), axis=1)

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

    def _compute(
        self, rows: slice, generated: Floats, live: Floats, *, unseen: Floats | None = None, ahead: Floats | None = None
    ) -> None:
        """Count some rows in: the most blocks at every horizon, the mean, and the variance."""
        known, starts, ends = self._known[:, rows], self._starts, self._horizons
        reach = live.max() if ahead is None else (live + ahead).max()
        # Beyond the last end there is nothing.
        part = slice(0, int(np.searchsorted(starts, reach)))
        starts, ends = starts[part], ends[part]
        if ahead is not None:
            starts, ends = starts - ahead[:, None], np.maximum(0.0, ends - ahead[:, None])
        end = np.maximum(known[_END], generated)[:, None]
        reached = generated[:, None] + ends
        shown = reached + unseen[:, None] if unseen is not None else reached
        tokens = np.minimum(shown, end)
        tokens += known[_PROMPT][:, None]
        most = blocks_of(self._layout, tokens)
        most *= known[_SEQUENCES][:, None]
        most *= starts < live[:, None]
        np.minimum(reached, end, out=reached)
        chance = self._chances(known[_EXPECTATION], generated, reached, whole=ahead is None)
        self._curves[:, rows, part.stop :] = 0.0
        curves = self._curves[:, rows, part]
        curves_of(most, chance, known[_EXCESS][:, None], out=curves)
        self._sums[:, part] += curves.sum(axis=1)

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
