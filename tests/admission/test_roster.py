"""Who of the backends may take what."""

import pytest

from gateway.admission.limits import AdmissionLimits
from gateway.admission.roster import Roster
from gateway.domain import BackendSpec, Reading
from tests.admission.words import BLOCK, MODEL, reading, ticket


def full() -> Roster:
    """A large and a small engine, a provider, and one that was never seen."""
    roster = Roster(AdmissionLimits())
    for name, blocks in (("large", 100), ("small", 20)):
        roster.add(BackendSpec(name), 0.0)
        roster.engines[name].observe(reading(0.0, backend=name, blocks=blocks), 0.0)
    roster.add(BackendSpec("cloud", hosted=True), 0.0)
    roster.hosted["cloud"].observe(Reading("cloud", 0.0, frozenset({"gpt", MODEL})), 0.0)
    roster.add(BackendSpec("cold"), 0.0)
    return roster


def test_who_serves_a_model() -> None:
    """Whoever said so; excluded ones are not asked again."""
    roster = full()
    assert [account.name for account in roster.serving(MODEL)] == ["large", "small", "cloud"]
    assert roster.usable("gpt", 0.0) == {"cloud"}
    assert [e.name for e in roster.engines_of(ticket(1, excluded=["large"]))] == ["small"]
    assert roster.providers_of(ticket(1, excluded=["cloud"])) == []
    assert roster.models() == {"gpt", MODEL}
    assert len(roster.snapshots(0.0)) == 4


def test_sizes() -> None:
    """A provider takes any; without one, the largest engine counts."""
    roster = full()
    assert roster.could_fit(ticket(1, 500))
    assert not roster.could_fit(ticket(1, 500, excluded=["cloud"]))
    engine, output = roster.largest_for(ticket(1, 500, output=499 * BLOCK))
    assert (engine.name if engine else None, output) == ("large", 99 * BLOCK)
    assert roster.largest_for(ticket(1, excluded=["large", "small"])) == (None, -1)
    assert roster.context_tokens(MODEL) == 1600
    assert roster.context_tokens("gpt") is None


def test_a_name_is_given_once() -> None:
    """Two books under one name would be a mistake of ours."""
    with pytest.raises(AssertionError, match="added twice"):
        full().add(BackendSpec("cloud"), 0.0)


def test_a_backend_of_unknown_kind_may_turn_out_to_be_a_provider() -> None:
    """It is told a second time then, before anything was sent to it; any other second time is a mistake."""
    roster = Roster(AdmissionLimits())
    roster.add(BackendSpec("a"), 0.0)
    roster.add(BackendSpec("a", hosted=True), 1.0)
    assert (list(roster.engines), list(roster.hosted)) == ([], ["a"])
    with pytest.raises(AssertionError, match="added twice"):
        roster.add(BackendSpec("a", hosted=True), 2.0)
