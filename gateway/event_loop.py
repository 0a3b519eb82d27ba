"""Which event loop the processes run on, and how seldom it stops to look for garbage."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

GARBAGE_THRESHOLDS = 10_000, 5, 5
"""Objects that have come and not gone before the young are looked through; such looks before the older ones are."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where there is one: a third less CPU per chunk. None: asyncio's own."""
    try:
        import uvloop  # noqa: PLC0415  # absent on Windows
    except ImportError:
        return None
    return uvloop.new_event_loop


def collect_seldom() -> None:
    """Look for garbage only when much has piled up; to be called once all that stays is there.

    What a request leaves behind is freed at its end, without being looked for. Every look stops all requests, for as
    long as there are objects of those that run: Python's usual pace, a look per 700 objects, takes one per cent of the
    time, in stops of up to 10 ms, and finds nothing.
    """
    gc.freeze()  # What there is by now stays, and need not be looked through again and again.
    gc.set_threshold(*GARBAGE_THRESHOLDS)
