"""Seeded chance: the published sequence, the same number for the same key, and even spread."""

import pytest

from gateway.simulation.chance import bits, log_normal, uniform


def test_first_number_is_that_of_the_published_generator() -> None:
    """The reference implementation, seeded with 1234567, begins with this."""
    assert bits(1234567) == 6457827717110365317


def test_a_key_has_its_number_and_another_key_another() -> None:
    """Nothing depends on what was drawn before."""
    assert uniform(1, 2, 3) == uniform(1, 2, 3)
    assert len({uniform(0, 1, 1), uniform(1, 1, 1), uniform(0, 2, 1), uniform(0, 1, 2), uniform(0, 1)}) == 5


def test_numbers_are_spread_evenly_and_never_at_the_ends() -> None:
    """Every tenth has about a tenth of them."""
    draws = [uniform(7, number) for number in range(10_000)]
    assert min(draws) > 0
    assert max(draws) < 1
    assert all(900 < sum(k / 10 <= draw < (k + 1) / 10 for draw in draws) < 1100 for k in range(10))


def test_log_normal_factors_have_median_one_and_the_wanted_spread() -> None:
    """No spread, no error; else two thirds lie within one sigma."""
    assert log_normal(0.0, 1, 1) == 1
    factors = sorted(log_normal(0.3, 5, number) for number in range(5_000))
    assert factors[2500] == pytest.approx(1, abs=0.02)
    assert sum(0.7408 < factor < 1.3499 for factor in factors) / 5_000 == pytest.approx(0.683, abs=0.02)
