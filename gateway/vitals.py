"""How the process itself is: looks at its event loop and its memory, and tells whoever decides by them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from gateway.memory_use import used_ratio
from gateway.shedding import Shedding

LAG_SAMPLE_S = 0.1
LAGS_PER_MEMORY = 10

log = structlog.get_logger()


async def watch_vitals(
    shedding: Shedding, on_lag: Callable[[float], None], memory_ratio: Callable[[], float] = used_ratio
) -> None:
    """Look again and again until cancelled; a change of what becomes of new requests is logged.

    Args:
        shedding: told of everything.
        on_lag: told of how late the event loop was, in seconds.
        memory_ratio: reads the use of memory; it is called in a thread.
    """
    loop = asyncio.get_running_loop()
    samples = 0
    while True:
        before = shedding.strain
        due = loop.time() + LAG_SAMPLE_S
        await asyncio.sleep(LAG_SAMPLE_S)
        lag_s = max(0.0, loop.time() - due)
        on_lag(lag_s)
        shedding.on_lag(lag_s)
        samples += 1
        if samples % LAGS_PER_MEMORY == 0:
            shedding.on_memory(await asyncio.to_thread(memory_ratio))
        if shedding.strain is not before:
            if shedding.strain is not None:
                log.warning("shedding", reason=shedding.strain.value)
            else:
                log.info("shedding_over")
