"""What a front is given, whichever it is, and what becomes of its address."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.app import run
from gateway.config import load_config
from gateway.front import Parts
from tests.e2e.stand import logs_into

CONFIG = load_config(
    overrides={
        "listen": {"admin_port": 0},
        "response_headers": False,
        "backends": [{"name": "a", "url": "http://127.0.0.1:9"}],
    },
    environ={},
)


async def test_a_front_gets_the_rooms_of_its_gateway() -> None:
    """They are those that the gateway shows; it closes before they do."""
    steps: list[str] = []

    @asynccontextmanager
    async def front(parts: Parts) -> AsyncIterator[str]:
        assert parts.settings.headers is False
        assert parts.settings.queue_wait_max_s == CONFIG.admission.queue.wait_max_s
        assert set(parts.backends) == {"a"}
        assert not parts.is_draining()
        steps.append("open")
        yield "somewhere:1"
        assert parts.is_draining()
        steps.append("closed")

    async with run(CONFIG, logs_into(io.StringIO()), front=front) as running:
        assert running.api_url == "somewhere:1"
        assert steps == ["open"]
        running.start_drain()
    assert steps == ["open", "closed"]


async def test_a_front_that_cannot_listen() -> None:
    """Its error is the start's."""

    @asynccontextmanager
    async def front(_: Parts) -> AsyncIterator[str]:
        raise OSError("taken")
        yield ""

    with pytest.raises(OSError, match="taken"):
        async with run(CONFIG, logs_into(io.StringIO()), front=front):
            pass
