"""Who of the backends may take what."""

from gateway.admission.events import BackendAdded, BackendRemoved
from gateway.admission.limits import AdmissionLimits
from gateway.admission.roster import Roster
from gateway.domain import BackendSpec, Outcome, Reading, ServedModel
from tests.admission.words import BLOCK, MODEL, reading, ticket


def full() -> Roster:
    """A large and a small engine, a provider, and one that was never seen."""
    roster = Roster(AdmissionLimits())
    for name, blocks in (("large", 100), ("small", 20)):
        roster.configure(BackendAdded(BackendSpec(name)), 0.0)
        roster.engines[name].observe(reading(0.0, backend=name, blocks=blocks), 0.0)
    roster.configure(BackendAdded(BackendSpec("cloud", hosted=True)), 0.0)
    roster.hosted["cloud"].observe(Reading("cloud", 0.0, frozenset({"gpt", MODEL})), 0.0)
    roster.configure(BackendAdded(BackendSpec("cold")), 0.0)
    return roster


def test_who_serves_a_model() -> None:
    """Whoever said so; excluded ones are not asked again."""
    roster = full()
    assert [account.name for account in roster.serving(MODEL)] == ["large", "small", "cloud"]
    assert roster.usable("gpt") == {"cloud"}
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


def test_what_others_know_of_a_model() -> None:
    """The same object until a backend says something else; of names that clients make up nothing is kept."""
    roster = full()
    assert roster.served(MODEL) == ServedModel(2, 1600)
    assert roster.served("gpt") == ServedModel(0, None)
    assert roster.served("made up") is None
    assert "made up" not in roster._served
    assert roster.served(MODEL) is roster.served(MODEL)
    roster.configure(BackendRemoved("large"), 0.0)
    assert roster.served(MODEL) == ServedModel(1, 320)


def test_a_name_is_given_once() -> None:
    """Another backend of that name takes the place of the one before, whatever that was."""
    roster = full()
    roster.configure(BackendAdded(BackendSpec("cloud")), 0.0)
    roster.configure(BackendAdded(BackendSpec("large", hosted=True)), 0.0)
    assert (list(roster.engines), list(roster.hosted)) == (["small", "cold", "cloud"], ["large"])
    assert roster.engines["cloud"].pool is None


def test_a_backend_of_unknown_kind_may_turn_out_to_be_a_provider() -> None:
    """It is told a second time then, before anything was sent to it."""
    roster = Roster(AdmissionLimits())
    roster.configure(BackendAdded(BackendSpec("a")), 0.0)
    roster.configure(BackendAdded(BackendSpec("a", hosted=True)), 1.0)
    assert (list(roster.engines), list(roster.hosted)) == ([], ["a"])


def test_costs_are_those_of_the_engine_that_takes_least() -> None:
    """Of its own ones that may take it; nothing where there is none."""
    roster = full()
    roster.engines["large"].pace.times.prompt_token_s *= 10
    small = roster.engines["small"].cost_s(ticket(1))
    assert roster.cost_s(ticket(1)) == small < roster.engines["large"].cost_s(ticket(1))
    assert roster.cost_s(ticket(1, excluded=["small"])) > small
    assert roster.cost_s(ticket(1, excluded=["small", "large"])) == 0.0


def test_tenants_are_summed_over_engines() -> None:
    """In the order of their names; who holds nothing any more is still shown with what it held."""
    roster = full()
    assert roster.tenants() == ()
    large, small = roster.engines["large"], roster.engines["small"]
    lease = large.admit(ticket(1, 11, tenant="u"), 0.0, backlog=1)
    small.admit(ticket(2, 5, tenant="u"), 0.0, backlog=1)
    small.admit(ticket(3, 5, tenant="t"), 0.0, backlog=1)
    large.end(lease, Outcome.FINISHED, None, 2.0)
    assert [(tenant.name, tenant.reserved_tokens, tenant.kv_token_seconds) for tenant in roster.tenants()] == [
        ("t", 5 * BLOCK, 0.0),
        ("u", 5 * BLOCK, 2 * 10 * BLOCK),
    ]
