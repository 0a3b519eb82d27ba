"""The shared words that compute something."""

import pytest

from estimator.kv_cache import KvLayout
from gateway.domain import Capacity, Outcome


@pytest.mark.parametrize("outcome", Outcome)
def test_only_the_engine_itself_proves_its_memory_free(outcome: Outcome) -> None:
    """A client that left and a connection that broke prove nothing: the engine may run on."""
    unproven = {Outcome.CANCELLED, Outcome.BROKEN}
    assert outcome.proves_memory_is_free == (outcome not in unproven)


def test_capacity_in_tokens() -> None:
    """Whole blocks times the tokens of one."""
    assert Capacity(33, KvLayout.uniform(32)).tokens == 1056
