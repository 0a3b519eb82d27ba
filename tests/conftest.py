"""What every test shares: Hypothesis' profiles, and the watch for blocking calls on an event loop."""

import os

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

# No deadline and no complaint of slowness: both measure the machine, which other work shares, and not the code.
settings.register_profile("dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), max_examples=100, derandomize=True)
settings.register_profile("nightly", settings.get_profile("dev"), max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if "CI" in os.environ else "dev"))


@pytest.fixture(scope="session", autouse=True)
def _no_blocking_calls() -> None:
    """Fails a test in which our own code blocks an event loop; what a test itself does there is its own business.

    For good: it changes types of the interpreter, which is not to be done while threads use them.
    """
    watched = BlockBuster(["gateway", "estimator"])
    for name in ("threading.Lock.acquire", "threading.Lock.acquire_lock"):
        watched.functions[name].can_block_in("coverage/collector.py", "lock_data")  # our code, only when measured
    watched.activate()
