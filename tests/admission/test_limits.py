"""The settings of admission."""

import pytest

from gateway.admission.limits import AdmissionLimits


def test_risk_is_told_in_standard_deviations() -> None:
    """One in a hundred lies beyond 2.33, half beyond none."""
    assert AdmissionLimits(risk=0.01).z == pytest.approx(2.326, abs=0.001)
    assert AdmissionLimits(risk=0.5).z == pytest.approx(0.0)
