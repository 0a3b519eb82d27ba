"""Who holds up whom; the rules themselves are in test_playbook_backends."""

from gateway.admission.events import BackendAdded
from gateway.admission.limits import AdmissionLimits
from gateway.admission.openings import Openings, ask
from gateway.admission.roster import Roster
from gateway.domain import BackendSpec, Reason
from gateway.routing.choose import Holds, Lack
from tests.admission.words import MODEL, reading, ticket


def engines(*names: str) -> Roster:
    """Engines that are up."""
    roster = Roster(AdmissionLimits())
    for name in names:
        roster.configure(BackendAdded(BackendSpec(name)), 0.0)
        roster.engines[name].observe(reading(0.0, backend=name), 0.0)
    return roster


def test_what_is_held_is_closed_to_those_behind() -> None:
    """To all, to the tenant's own, or to nobody."""
    openings = Openings(engines("a", "b", "c").serving(MODEL))
    lacks = {
        "a": Lack(Reason.HEADROOM, Holds.ALL),
        "b": Lack(Reason.TENANT_LIMIT, Holds.TENANT),
        "c": Lack(Reason.TOO_LARGE),
    }
    assert openings.hold(ticket(1, tenant="t"), lacks) is Reason.TENANT_LIMIT
    assert [account.name for account in openings.for_ticket(ticket(2, tenant="t"))] == ["c"]
    assert [account.name for account in openings.for_ticket(ticket(3, tenant="u"))] == ["b", "c"]
    assert [account.name for account in openings.for_ticket(ticket(4, tenant="u", excluded=["c"]))] == ["b"]
    assert openings.hold(ticket(3, tenant="u"), {"b": Lack(Reason.HEADROOM)}) is Reason.HEADROOM


def test_asking_brings_the_best_offer_or_all_lacks() -> None:
    """Of the places that were named."""
    roster = engines("a", "b")
    roster.engines["a"].admit(ticket(1, 50), 0.0, backlog=1)
    best, _ = ask(ticket(2, 60), roster.serving(MODEL), 0.0, depth=1, contended=False)
    assert best is not None
    assert best.backend == "b"
    best, lacks = ask(ticket(2, 60), [roster.engines["a"]], 0.0, depth=1, contended=False)
    assert (best, lacks) == (None, {"a": Lack(Reason.HEADROOM, Holds.ALL)})
