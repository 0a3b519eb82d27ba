"""What the demo reads from its servers, and what it makes of wrong answers."""

import socket

import pytest

from gateway.cli.demo_state import fetch, read_preemptions, read_state
from tests.cli.demo_sample import pool, state
from tests.cli.fake_engine import serving

STATE = b"""{"now":1.5,"backends":[{"name":"large","capacity_tokens":64,"resident_tokens":16,"reserved_tokens":32,
"draining_tokens":0,"foreign_tokens":0,"headroom_tokens":32,"requests":1,"kind":"vllm"}],
"queues":[{"depth":2},{"depth":3}],"queue_requests_max":24}"""


async def test_the_state_of_a_gateway() -> None:
    """Keys that are not shown do not matter."""
    with serving({"/api/v1/state": STATE}) as gateway:
        read = await read_state(gateway)
    assert (read.queued, read.queue_requests_max, read.backends[0].headroom_tokens) == (5, 24, 32)
    assert not read.is_idle


def test_idle_means_no_queue_and_whole_pools() -> None:
    assert state().is_idle
    assert not state(queued=1).is_idle
    assert not state(pool(), pool(requests=1)).is_idle
    assert not state(pool(headroom=4080)).is_idle


@pytest.mark.parametrize("page", [b"nonsense", b"[]", b'{"backends":[]}'])
async def test_another_state_is_no_state(page: bytes) -> None:
    with serving({"/api/v1/state": page}) as gateway, pytest.raises(OSError, match="something else"):
        await read_state(gateway)


async def test_preemptions_are_summed_over_an_engine_s_processes() -> None:
    page = b'vllm:num_preemptions_total{engine="0"} 2.0\nvllm:num_preemptions_total{engine="1"} 3.0\n'
    with serving({"/metrics": page}) as engine:
        assert await read_preemptions(engine) == 5


async def test_an_engine_that_does_not_count_is_no_proof() -> None:
    """No sample is not the same as none preempted."""
    with serving({"/metrics": b"# nothing\n"}) as engine, pytest.raises(OSError, match="does not count"):
        await read_preemptions(engine)


def test_a_page_that_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}/"
    with pytest.raises(OSError, match="refused"):
        fetch(nobody)
    with serving({}) as stranger, pytest.raises(OSError, match="status 404"):
        fetch(f"{stranger}/x")
