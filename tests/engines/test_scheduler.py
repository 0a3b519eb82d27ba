"""The simulated engine against vLLM's own scheduler, step by step, on made-up traffic of many kinds."""

from __future__ import annotations

import math
import random
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import pytest

from gateway.simulation.engine import Engine, EngineConfig, Sequence
from gateway.simulation.profiles import DEMO
from tests.engines.scheduler_truth import Arrival, Life, Outcome, Step, Workload, leaving_order
from tests.engines.servers import REPOSITORY, VLLM_PYTHON

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal: half of all draws lie below the median, `sigma` says how far they spread."""

    median: int
    sigma: float
    most: int

    def draw(self, source: random.Random) -> int:
        return max(1, min(self.most, round(source.lognormvariate(math.log(self.median), self.sigma))))


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of traffic."""

    prompt: Lengths
    output: Lengths


# About as long as in public traces of chats, of code completion, and of a model that reasons (whose answers are cut to
# a third here: what they add is time).
CHAT = Kind(prompt=Lengths(1000, 0.7, 5000), output=Lengths(130, 0.9, 1000))
CODE = Kind(prompt=Lengths(1500, 0.9, 7500), output=Lengths(13, 0.9, 300))
REASONING = Kind(prompt=Lengths(160, 1.8, 25_000), output=Lengths(500, 1.0, 5000))
SHORT = Kind(prompt=Lengths(32, 0.3, 100), output=Lengths(200, 0.5, 900))
MIX = (CHAT, CODE, REASONING)


def workload(
    requests: int,
    per_step: float,
    *kinds: Kind,
    blocks: int,
    block_tokens: int = 16,
    step_tokens_max: int = 2048,
    sequences_max: int = 256,
    stays_steps: int | None = None,
) -> Workload:
    """Random arrivals of any of these kinds.

    Args:
        per_step: requests, on average; all come at once where it is infinite.
        stays_steps: every third client leaves after so many steps on average, served or not.
    """
    source = random.Random(f"{requests} {per_step} {blocks}")
    arrivals = []
    at = 0.0
    for number in range(requests):
        at += source.expovariate(per_step) if per_step < math.inf else 0
        leaves_step = int(at + source.expovariate(1 / stays_steps)) + 1 if stays_steps and number % 3 == 0 else None
        kind = source.choice(kinds)
        arrivals.append(Arrival(int(at), kind.prompt.draw(source), kind.output.draw(source), leaves_step))
    context = max(kind.prompt.most + kind.output.most for kind in kinds)
    return Workload(blocks, block_tokens, sequences_max, step_tokens_max, context, arrivals)


WORKLOADS = {
    "chat": workload(300, 0.13, CHAT, blocks=1500),
    "chat, small steps, blocks of 32": workload(200, 0.13, CHAT, blocks=750, block_tokens=32, step_tokens_max=512),
    "chat, large steps": workload(300, 0.15, CHAT, blocks=1500, step_tokens_max=8192),
    "chat, all at once, clients leave": workload(
        200, math.inf, CHAT, blocks=1000, step_tokens_max=512, stays_steps=800
    ),
    "chat, room for all": workload(150, 0.2, CHAT, blocks=27_900, step_tokens_max=8192),
    "chat, few at once": workload(150, 0.1, CHAT, blocks=4000, sequences_max=12),
    "code": workload(200, 0.8, CODE, blocks=500),
    "code, small steps": workload(150, 0.4, CODE, blocks=500, step_tokens_max=512),
    "code, large steps, blocks of 32": workload(250, 1.5, CODE, blocks=500, block_tokens=32, step_tokens_max=8192),
    "reasoning": workload(100, 0.06, REASONING, blocks=1900),
    "reasoning, small steps, blocks of 32": workload(
        100, 0.06, REASONING, blocks=950, block_tokens=32, step_tokens_max=512
    ),
    "mix": workload(200, 0.2, *MIX, blocks=1900),
    "short prompts, all at once": workload(120, math.inf, SHORT, blocks=64, block_tokens=16),
    "mix, large steps, few at once": workload(
        200, 0.3, *MIX, blocks=2000, step_tokens_max=8192, sequences_max=24, stays_steps=300
    ),
}
CACHED = ("chat", "reasoning")
"""What vLLM also plays with prefix caching, as it does by default."""


@pytest.fixture(scope="module")
def in_vllm() -> Mapping[str, Outcome]:
    """What vLLM's scheduler makes of all workloads; with `, cached` behind the name: with prefix caching."""
    asked = WORKLOADS | {
        f"{name}, cached": msgspec.structs.replace(WORKLOADS[name], prefix_caching=True) for name in CACHED
    }
    answer = subprocess.run(
        [str(VLLM_PYTHON), "-W", "ignore", "-m", "tests.engines.scheduler_truth"],
        input=msgspec.json.encode(list(asked.values())),
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        check=True,
    )
    return dict(zip(asked, msgspec.json.decode(answer.stdout, type=list[Outcome]), strict=True))


def played_here(workload: Workload) -> Outcome:
    """The same on the simulated engine."""
    limits = (workload.blocks, workload.block_tokens, workload.sequences_max, workload.step_tokens_max)
    engine = Engine(EngineConfig(DEMO, *limits, workload.sequence_tokens_max))
    coming = workload.arrivals[::-1]
    leaving = leaving_order(workload)
    sequences: list[Sequence] = []
    first_token_step: dict[Sequence, int] = {}
    last_token_step: dict[Sequence, int] = {}
    steps: list[Step] = []
    number = 0
    while coming or engine.has_work:
        if not engine.has_work:
            number = max(number, coming[-1].step)
        while coming and coming[-1].step <= number:
            arrival = coming.pop()
            sequences.append(engine.submit(arrival.prompt_tokens, arrival.output_tokens))
        while leaving and leaving[-1][0] <= number:
            engine.abort(sequences[leaving.pop()[1]])
        result = engine.step()
        steps.append(Step(number, result.tokens, result.used_blocks, engine.running, engine.waiting))
        for sequence in result.emitted:
            first_token_step.setdefault(sequence, number)
            last_token_step[sequence] = number
        number += 1
    firsts, lasts = first_token_step.get, last_token_step.get
    return Outcome([Life(each.preemptions, firsts(each), lasts(each)) for each in sequences], steps)


@pytest.mark.parametrize("name", WORKLOADS)
def test_does_in_every_step_what_vllm_does(name: str, in_vllm: Mapping[str, Outcome]) -> None:
    """Each step's tokens, blocks, running and waiting, and each request's preemptions, first and last token.

    No deviation is allowed, though 5 % of the preemptions would do: one wrong decision moves all that come after it.
    """
    there, here = in_vllm[name], played_here(WORKLOADS[name])
    assert here.preemptions == there.preemptions
    differing = [(ours, theirs) for ours, theirs in zip(here.steps, there.steps, strict=False) if ours != theirs]
    assert differing[:1] == []
    assert len(here.steps) == len(there.steps)
    assert here.lives == there.lives


def test_the_workloads_are_worth_comparing(in_vllm: Mapping[str, Outcome]) -> None:
    """Most fill their pool and preempt, one does so hundreds of times, and some clients leave before a token."""
    pressed = [name for name in WORKLOADS if in_vllm[name].preemptions]
    assert len(pressed) >= 8
    assert max(in_vllm[name].preemptions for name in pressed) > 200
    assert all(max(step.used_blocks for step in in_vllm[name].steps) == WORKLOADS[name].blocks for name in pressed)
    assert any(life.first_token_step is None for outcome in in_vllm.values() for life in outcome.lives)


@pytest.mark.parametrize("name", CACHED)
def test_prefix_caching_only_spares_recomputing(name: str, in_vllm: Mapping[str, Outcome]) -> None:
    """A known difference: with prefix caching, a preempted request finds again those blocks that nobody took meanwhile.

    Here it computes all of them again. That takes more tokens; how often is preempted and when all ends hardly changes.
    """
    there, here = in_vllm[f"{name}, cached"], played_here(WORKLOADS[name])
    needed = sum(arrival.prompt_tokens + arrival.output_tokens - 1 for arrival in WORKLOADS[name].arrivals)
    assert needed < there.tokens < here.tokens
    assert here.preemptions == pytest.approx(there.preemptions, rel=0.1)
    assert here.steps[-1].number == pytest.approx(there.steps[-1].number, rel=0.01)
