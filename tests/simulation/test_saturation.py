"""What an engine can do at most."""

import pytest

from gateway.simulation.saturation import saturated_requests_per_s
from tests.simulation.small_world import a_config, requests


def test_requests_of_one_shape_have_a_throughput_that_can_be_worked_out() -> None:
    """Two of four steps each fit the pool at all times, three do not: two end in four seconds."""
    coming = requests(*[(0.0, 13, 4)] * 10)
    assert saturated_requests_per_s(a_config(blocks=10), coming) == pytest.approx(2 / 4, rel=0.01)


def test_the_number_of_sequences_bounds_it_too() -> None:
    """With room for many, eight at once."""
    coming = requests(*[(0.0, 13, 4)] * 10)
    assert saturated_requests_per_s(a_config(blocks=1000), coming) == pytest.approx(8 / 4, rel=0.1)


def test_known_lengths_are_packed_better_than_by_their_sum() -> None:
    """Sequences of 4 + 12 tokens: where each reserved its end, two would fit 10 blocks; staggered, more do."""
    coming = requests(*[(0.0, 4, 12)] * 20)
    assert saturated_requests_per_s(a_config(blocks=10), coming) > 2.2 / 12


def test_short_traces_are_gone_through_again_and_again() -> None:
    """A single request is enough."""
    assert saturated_requests_per_s(a_config(), requests((0.0, 4, 5))) == pytest.approx(4 / 5, rel=0.5)
