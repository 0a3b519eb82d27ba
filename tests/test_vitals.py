"""That the process looks at itself, and tells whoever decides and the log."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from gateway import vitals
from gateway.shedding import Shedding, ShedLimits, Strain


async def test_what_is_seen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each lag to the metric; memory now and then; the beginning and the end of shedding to the log, once each."""
    monkeypatch.setattr(vitals, "LAG_SAMPLE_S", 0.0)
    ratios = iter([0.5, 0.95, 0.95, 0.95])
    over = asyncio.Event()
    strains: list[Strain | None] = []
    lags: list[float] = []
    shedding = Shedding(ShedLimits(lag_max_s=1e9))

    def ratio() -> float:
        strains.append(shedding.strain)
        found = next(ratios, 0.1)
        if len(strains) > 6:
            over.set()
        return found

    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(vitals.watch_vitals(shedding, lags.append, ratio))
            await asyncio.wait_for(over.wait(), 10)
            watch.cancel()
    assert strains[:6] == [None, None, Strain.MEMORY, Strain.MEMORY, Strain.MEMORY, None]
    assert [(line["event"], line.get("reason")) for line in logs] == [("shedding", "memory"), ("shedding_over", None)]
    assert len(lags) >= vitals.LAGS_PER_MEMORY * 6
    assert min(lags) >= 0
