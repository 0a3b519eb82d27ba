"""Reads what a running gateway tells of itself on its admin port, by the metric names that its users rely on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

SETTLE_WAIT_MAX_S = 5.0
POLL_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True)
class GatewayPage:
    """The samples of one look."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    def total(self, name: str, **labels: str) -> float:
        """Sum of all series of a name that carry these labels; fails where there is none."""
        values = [value for sample, has, value in self.samples if sample == name and labels.items() <= has.items()]
        assert values, f"no {name} with {labels}"
        return sum(values)

    def labels(self, name: str) -> dict[str, str]:
        """The labels of the only series of a name."""
        (labels,) = (has for sample, has, _ in self.samples if sample == name)
        return labels

    @property
    def reserved_tokens(self) -> float:
        """KV tokens that the ledger holds for admitted requests."""
        return self.total("kvgate_backend_kv_reserved_tokens")


async def look(admin_url: str) -> GatewayPage:
    """One look at the gateway."""
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/metrics") as response:
        text = await response.text()
    families = text_string_to_metric_families(text)
    samples = (sample for family in families for sample in family.samples)
    return GatewayPage(tuple((sample.name, sample.labels, sample.value) for sample in samples))


async def look_until(admin_url: str, wanted: Callable[[GatewayPage], bool]) -> GatewayPage:
    """Looks until the page is as wanted, or for a few seconds: a release waits for the engine to show free memory."""
    deadline = time.monotonic() + SETTLE_WAIT_MAX_S
    while True:
        page = await look(admin_url)
        if wanted(page) or time.monotonic() > deadline:
            return page
        await asyncio.sleep(POLL_INTERVAL_S)
