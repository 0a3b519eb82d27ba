"""Whether planted bugs are noticed, and by what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter

from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.admission.test_admission_machine import AdmissionMachine
from tests.lifecycle.mutants import MUTANTS, Mutant
from tests.lifecycle.plan import Plan, drawn
from tests.lifecycle.world import play

SEEDS = 40
"""Harsh plans that a bug must not survive."""
MACHINE_EXAMPLES = 60


def hunt_all(tell: Callable[[str], None]) -> bool:
    """Plant each bug in turn and tell what noticed it; whether none survived."""
    plans = [drawn(seed, harsh=True) for seed in range(SEEDS)]
    survivors = 0
    for mutant in MUTANTS:
        started = perf_counter()
        by = noticed_by(mutant, plans)
        survivors += not by
        tell(f"{mutant.name:<76} {by or 'SURVIVES':<24} {perf_counter() - started:5.1f} s")
    tell(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} noticed")
    return not survivors


def noticed_by(mutant: Mutant, plans: Iterable[Plan]) -> str:
    """What notices a bug first: a plan of the simulation, else the property test of admission; empty if nothing."""
    with mutant.planted():
        for plan in plans:
            if play(plan).problem:
                return f"simulation, seed {plan.seed}"
        return "" if _machine_passes() else "property test"


def _machine_passes() -> bool:
    chosen = settings(
        max_examples=MACHINE_EXAMPLES,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
    )
    try:
        run_state_machine_as_test(AdmissionMachine, settings=chosen)
    except (AssertionError, LookupError, TypeError, AttributeError):
        return False
    return True
