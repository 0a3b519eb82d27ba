"""Bugs planted in the books are noticed. All of them, and by what: `make mutants`."""

import pytest

from gateway.admission.ledger import Pool
from tests.lifecycle.hunt import noticed_by
from tests.lifecycle.mutants import MUTANTS, Mutant
from tests.lifecycle.plan import drawn

PLANS = [drawn(seed, harsh=True) for seed in range(3)]
QUICK = (
    "a client that leaves in the tick of its grant keeps the place",
    "a client that leaves the queue stays in it",
    "a place is released twice",
    "the exit of a place forgets to release",
    "a client that leaves frees memory that the engine may still use",
    "a waiter is told twice",
    "an expired request is forgotten without an answer",
    "most_blocks is not given back",
    "kv_tokens are not subtracted",
    "intervals_s keeps a promise that has ended",
    "a tenant's share is not given back",
    "a lease that ends keeps one block",
    "the outlook keeps the row of who has left",
    "the deadline of who has left comes up again",
)
"""The first plans notice these."""


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in MUTANTS if mutant.name in QUICK], ids=lambda mutant: mutant.name
)
def test_a_planted_bug_is_noticed(mutant: Mutant) -> None:
    assert noticed_by(mutant, PLANS).startswith("simulation")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_that_it_changes_and_leaves_it_as_it_was(mutant: Mutant) -> None:
    before = mutant.owner.__dict__[mutant.method]
    with mutant.planted():
        assert mutant.owner.__dict__[mutant.method] is not before
    assert mutant.owner.__dict__[mutant.method] is before


def test_a_mutant_of_code_that_is_gone_is_told() -> None:
    mutant = Mutant("of old", Pool, "end", "no such text", "")
    with pytest.raises(LookupError, match="of old"), mutant.planted():
        pass


def test_the_quick_ones_are_there() -> None:
    assert {mutant.name for mutant in MUTANTS} >= set(QUICK)
