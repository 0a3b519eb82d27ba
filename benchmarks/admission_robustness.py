"""What becomes of KVGate's admission when something is not as it should be, each beside the same run undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence as Many
from dataclasses import dataclass, replace

from benchmarks.admission_cells import CELLS, Cell, Plan, learned_before, prepared, warm
from benchmarks.admission_oracle import VARIANTS, attained, oracle
from gateway.simulation.policies import Policy, Setup, policy_named, run
from gateway.simulation.saturation import saturated_requests_per_s
from gateway.simulation.workload import ABSURD_MAX_TOKENS, Request, at_rate

LOAD, LOAD_OF_SHIFT, LOAD_OF_ADVERSARY = 1.2, 1.1, 1.0
LONGER = 6
SHARE_CAP = 0.5
ADVERSARY = "adversary"
ADVERSARY_EVERY, ADVERSARY_MODEST_TOKENS, ADVERSARY_TOKENS = 4, 20, 4000
"""One request in so many is the adversary's; its answers have the first length, and from mid-run on the second."""
HONEST_TENANTS = 16
ROBUST_CELLS = tuple(
    cell for cell in CELLS if cell.trace == "azure2023_conv" and cell.profile in ("8b-h100", "70b-2xh100")
)
"""One whose bottleneck is memory, and one where it is not."""
ROBUST_VARIANTS = tuple(
    variant for variant in VARIANTS if variant.order != "first-come" and not variant.keeps_free and variant.knows_steps
)


@dataclass(frozen=True, slots=True)
class Score:
    """KVGate in one run, and the oracle with the same requests."""

    attainment: float
    """Part of the counted requests that met their SLO."""
    oracle: float
    preemptions_per_100: float
    """Served, counted or not."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One disturbance in one cell."""

    case: str
    cell: str
    undisturbed: Score
    disturbed: Score


@dataclass(frozen=True, slots=True)
class Run:
    """Requests, how they are served, and which of them count."""

    requests: list[Request]
    setup: Setup
    counted: Many[int]

    def score(self, policy: Policy | None = None, best: float | None = None) -> Score:
        """Run KVGate, and the oracle unless it is known what that makes of the requests."""
        record = run(policy or policy_named("kvgate"), self.setup, self.requests)
        served = sum(ended is not None for ended in record.ended_s)
        return Score(
            attained(record, self.requests, self.setup, self.counted),
            self.oracle() if best is None else best,
            100 * record.preemptions / max(1, served),
        )

    def oracle(self) -> float:
        """What the oracle makes of the requests. Nothing disturbs it but the requests themselves."""
        calm = Setup(self.setup.config, self.setup.slo, kv_share=self.setup.kv_share)
        return oracle(calm, self.requests, self.counted, ROBUST_VARIANTS).attainment


def signals(plan: Plan, cell: Cell) -> list[Trial]:
    """What KVGate sees is wrong, old, or but a part."""
    replay = prepared(plan, cell, LOAD)
    plain = Run(replay.requests, replay.setup, range(len(replay.requests)))
    undisturbed = plain.score()
    setups = {
        "prompts counted 10 % off": replace(plain.setup, prompt_error=0.1),
        "prompts counted 30 % off": replace(plain.setup, prompt_error=0.3),
        "readings every 5 s": replace(plain.setup, read_every_s=5.0),
        "three gateways, one pool": replace(plain.setup, gateways=3),
    }
    return [
        Trial(case, cell.name, undisturbed, replace(plain, setup=setup).score(best=undisturbed.oracle))
        for case, setup in setups.items()
    ]


def restart(plan: Plan, cell: Cell) -> list[Trial]:
    """It starts under load: with what it has learned, which is the undisturbed run, and without."""
    replay = prepared(plan, cell, LOAD, skipped=plan.history)
    cold = Run(replay.requests, replay.setup, range(len(replay.requests)))
    disturbed = cold.score()
    undisturbed = cold.score(warm(learned_before(plan, cell, LOAD)), best=disturbed.oracle)
    return [Trial("restart without history", cell.name, undisturbed, disturbed)]


def shift(plan: Plan, cell: Cell) -> list[Trial]:
    """From mid-run on answers are longer. Counted is what comes then; both parts ask for as much of the engine."""
    replay = prepared(plan, cell, 1.0)
    setup, middle = replay.setup, len(replay.requests) // 2
    before, after = replay.requests[:middle], replay.requests[middle:]
    longer = [_longer(request, setup.config.sequence_tokens_max) for request in after]
    runs = [Run(_in_turn(before, part, setup), setup, range(middle, len(replay.requests))) for part in (after, longer)]
    undisturbed, disturbed = (each.score() for each in runs)
    return [Trial(f"answers {LONGER} times as long in mid-run", cell.name, undisturbed, disturbed)]


def adversary(plan: Plan, cell: Cell) -> list[Trial]:
    """One key with a quarter of all requests gets very long answers from mid-run on. Counted are the others then."""
    replay = prepared(plan, cell, 1.0)
    requests, setup = replay.requests, replay.setup
    modest = [_of_tenants(number, request, ADVERSARY_MODEST_TOKENS) for number, request in enumerate(requests)]
    modest = at_rate(modest, LOAD_OF_ADVERSARY * saturated_requests_per_s(setup.config, modest))
    middle = len(modest) // 2
    greedy = [*modest[:middle], *map(_greedy, modest[middle:])]
    counted = [number for number in range(middle, len(modest)) if modest[number].tenant != ADVERSARY]
    trials = []
    for cap, name in ((SHARE_CAP, f"adversary, share cap {SHARE_CAP:g}"), (1.0, "adversary, no share cap")):
        capped = replace(setup, kv_share=cap)
        undisturbed, disturbed = (Run(each, capped, counted).score() for each in (modest, greedy))
        trials.append(Trial(name, cell.name, undisturbed, disturbed))
    return trials


GROUPS: dict[str, Callable[[Plan, Cell], list[Trial]]] = {
    "signals": signals,
    "restart": restart,
    "shift": shift,
    "adversary": adversary,
}


def measure_group(plan: Plan, cell: Cell, group: str) -> list[Trial]:
    """Run one group of disturbances in one cell."""
    return GROUPS[group](plan, cell)


def robustness_table(trials: Many[Trial]) -> Iterator[str]:
    """One line per disturbance and cell."""
    yield f"{'':36} {'':28} {'undisturbed':^31}   {'disturbed':^31}"
    heads = f"{'in time':>8} {'of oracle':>10} {'preempt/100':>11}"
    yield f"{'disturbance':36} {'cell':28} {heads}   {heads}"
    for trial in sorted(trials, key=lambda trial: (trial.case, trial.cell)):
        yield f"{trial.case:36} {trial.cell:28} {_score(trial.undisturbed)}   {_score(trial.disturbed)}"


def _score(score: Score) -> str:
    of_oracle = score.attainment / score.oracle if score.oracle else 1.0
    return f"{score.attainment:8.1%} {of_oracle:10.1%} {score.preemptions_per_100:11.2f}"


def _longer(request: Request, sequence_tokens_max: int) -> Request:
    longest = sequence_tokens_max - request.prompt_tokens
    output = min(LONGER * request.output_tokens, longest)
    asked = request.max_tokens
    if asked is not None and asked < ABSURD_MAX_TOKENS:
        asked = min(longest, 1 << output.bit_length())
    return replace(request, output_tokens=output, max_tokens=asked)


def _in_turn(before: list[Request], after: list[Request], setup: Setup) -> list[Request]:
    """Both parts, each at the same load by its own capacity."""
    requests: list[Request] = []
    for part in (before, after):
        start_s = requests[-1].arrives_s if requests else 0.0
        from_zero = [replace(each, arrives_s=each.arrives_s - part[0].arrives_s) for each in part]
        rated = at_rate(from_zero, LOAD_OF_SHIFT * saturated_requests_per_s(setup.config, part))
        requests += [replace(each, arrives_s=each.arrives_s + start_s) for each in rated]
    return requests


def _of_tenants(number: int, request: Request, output_tokens: int) -> Request:
    if number % ADVERSARY_EVERY:
        return replace(request, tenant=f"honest-{number % HONEST_TENANTS}")
    return replace(request, tenant=ADVERSARY, output_tokens=output_tokens, max_tokens=ABSURD_MAX_TOKENS)


def _greedy(request: Request) -> Request:
    return replace(request, output_tokens=ADVERSARY_TOKENS) if request.tenant == ADVERSARY else request
