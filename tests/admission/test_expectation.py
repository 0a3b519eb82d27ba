"""Looking up how long answers get is what computing it says."""

import math

import numpy as np
import pytest

from estimator.output_length import OutputForecast, OutputLengths
from gateway.admission.expectation import Expectation, chance_of


def learned() -> OutputForecast:
    lengths = OutputLengths()
    for k in range(100):
        lengths.learn(3 * k, ended=True)
    return lengths.forecast()


@pytest.mark.parametrize("longest", [40.0, 900.0, 200_000.0])
def test_whole_tokens_may_be_looked_up(longest: float) -> None:
    """As far as there is any chance to speak of, and beyond."""
    known = Expectation.of("m", learned())
    generated = np.array([0.0, 7.0, 300.0])
    reached = np.maximum(generated[:, None], np.floor(np.linspace(0.0, longest, 9)))
    for _ in range(2):
        assert known.chance_of_whole(generated, reached) == pytest.approx(known.chance(generated, reached), rel=1e-9)


def test_the_chance_of_one_is_that_of_many() -> None:
    """Also beyond the table, and where a chance is next to nothing."""
    hopeless = OutputForecast.from_hazards((0.999,) * len(learned().hazards))
    for output in (learned(), hopeless):
        known = Expectation.of("m", output)
        for tokens in (0.0, 3.5, 250.0, 131_072.0, 1e6):
            (many,) = known.chance(np.zeros(1), np.array([[tokens]]))
            assert chance_of(output, tokens) == pytest.approx(many[0])
        far = np.array([[2000.0]])
        assert math.isclose(
            known.chance_of_whole(np.array([1999.0]), far)[0, 0], known.chance(np.array([1999.0]), far)[0, 0]
        )
