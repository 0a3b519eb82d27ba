"""What a gateway learned of answers' lengths: kept in its file, or found at the engine, or said to be lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from estimator.output_length import PRIOR_FORECAST
from gateway.pricing import PricingShown
from gateway.simulation.server import RunningEngine, start_engine
from tests.e2e.stand import SMALL, Stand, gateway

REQUESTS = 24


@pytest.fixture
async def engine() -> AsyncIterator[RunningEngine]:
    async with start_engine(SMALL) as running:
        yield running


def known(stand: Stand) -> PricingShown | None:
    """What a gateway knows of the engine's model."""
    return next((shown for shown in stand.running.pricing.snapshot() if shown.model == "m"), None)


async def ask(stand: Stand) -> None:
    """Requests that are free to end, streamed and not."""
    for number in range(REQUESTS):
        assert (await stand.complete(stream=number % 2 == 0)).status == 200


async def test_a_gateway_goes_on_where_the_last_one_ended(engine: RunningEngine, tmp_path: Path) -> None:
    """Saved when it stops, restored before the first request; the engine's own count is not added to that."""
    state = {"path": str(tmp_path / "learned.json")}
    async with gateway(engine.url, state=state) as stand:
        assert (await stand.complete(max_tokens=5, ignore_eos=True)).status == 200
        await ask(stand)
        before = known(stand)
    assert before is not None
    assert (before.learnt, before.compared) == (REQUESTS, REQUESTS)
    with capture_logs() as logs:
        async with gateway(engine.url, state=state) as stand:
            after = known(stand)
    assert after is not None
    assert (after.learnt, after.compared) == (REQUESTS, REQUESTS)
    assert after.quantiles[0].tokens < PRIOR_FORECAST.quantile(0.5) / 2
    assert [line["models"] for line in logs if line["event"] == "learned_restored"] == [1]


async def test_without_a_file_an_engine_tells_what_it_counted(engine: RunningEngine) -> None:
    """One that started before the gateway has answered others."""
    async with gateway(engine.url) as stand:
        await ask(stand)
    async with gateway(engine.url) as stand:
        shown = known(stand)
        assert shown is not None
        assert (shown.learnt, shown.compared) == (REQUESTS, 0)
        assert shown.fits == 1


async def test_a_damaged_file_costs_what_was_in_it(engine: RunningEngine, tmp_path: Path) -> None:
    """The gateway starts, says so in one line, serves, and saves anew."""
    path = tmp_path / "learned.json"
    path.write_bytes(b'{"kvgate_learned":1,"sha256":"')
    with capture_logs() as logs:
        async with gateway(engine.url, state={"path": str(path)}) as stand:
            await ask(stand)
    assert [line["event"] for line in logs if "learned" in line["event"]] == ["learned_not_restored"]
    assert path.stat().st_size > 1000
    assert (tmp_path / "learned.json.bad").exists()


async def test_a_file_that_cannot_be_written_costs_nothing_else(engine: RunningEngine, tmp_path: Path) -> None:
    """Its folder is missing: one line, and requests are served."""
    with capture_logs() as logs:
        async with gateway(engine.url, state={"path": str(tmp_path / "missing" / "learned.json")}) as stand:
            await ask(stand)
    assert len([line for line in logs if line["event"] == "learned_not_saved"]) == 1
