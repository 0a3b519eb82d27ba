"""The library's face: what it offers, and what importing it costs."""

import subprocess
import sys

import pytest

import estimator


def test_everything_it_offers_is_there() -> None:
    """The planner too, which is loaded when it is asked for."""
    assert all(getattr(estimator, name) is not None for name in estimator.__all__)
    assert callable(estimator.plan)
    with pytest.raises(AttributeError, match="no attribute 'plam'"):
        _ = estimator.plam  # type: ignore[attr-defined]


def test_pricing_requests_loads_no_planner() -> None:
    """Nor the readers of logs, nor the catalogue of GPUs."""
    code = "import sys, estimator; print(*(name for name in sys.modules if name.startswith('estimator.')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "estimator.kv_cache" in loaded
    assert not loaded & {"estimator.planning", "estimator.hardware", "estimator.startup_log", "estimator.training"}
