from typing import get_args

import pytest

from gateway.backends.catalog import ENGINES
from gateway.backends.pool import StatedPool
from gateway.backends.settings import EngineKind


def test_every_kind_has_a_driver() -> None:
    """A kind that a configuration may name is a kind that is known."""
    assert set(ENGINES) == set(get_args(EngineKind))


@pytest.mark.parametrize("kind", get_args(EngineKind))
def test_a_driver_goes_by_its_kind(kind: EngineKind) -> None:
    """What a driver calls itself is what it is listed under; only the provider is hosted."""
    driver = ENGINES[kind]("one", {}, StatedPool())
    assert (driver.kind, driver.hosted, driver.listed, driver.calibration) == (kind, kind == "openai", (), None)
