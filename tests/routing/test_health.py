"""Up and down with hysteresis."""

from itertools import pairwise

from hypothesis import given, strategies as st

from gateway.routing.health import Health


def after(looks: str, health: Health | None = None) -> Health:
    """`+` is a good look, `-` a bad one."""
    health = health or Health(down_after=3, up_after=2)
    for look in looks:
        if look == "+":
            health.answered()
        else:
            health.missed()
    return health


def test_the_first_good_look_brings_it_up() -> None:
    """Nothing speaks against a backend that was never seen."""
    assert not Health(3, 2).up
    assert after("+").up
    assert after("-----+").up


def test_three_bad_looks_in_a_row_take_it_down() -> None:
    """Two do not, nor three with a good one between."""
    assert after("+--").up
    assert after("+--+--").up
    assert not after("+---").up


def test_two_good_looks_in_a_row_bring_it_back() -> None:
    """One does not."""
    assert not after("+---+").up
    assert not after("+---+-+").up
    assert after("+---++").up


@given(st.text("+-", max_size=30))
def test_it_never_changes_twice_within_two_looks(looks: str) -> None:
    """That is what hysteresis is for."""
    health = Health(3, 2)
    states = []
    for look in looks:
        after(look, health)
        states.append(health.up)
    seen = looks.find("+")
    changes = [k for k in range(max(1, seen + 1), len(states)) if states[k] != states[k - 1]]
    assert all(later - earlier >= 2 for earlier, later in pairwise(changes))
