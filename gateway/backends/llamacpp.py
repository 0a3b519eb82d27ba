"""Everything known about the llama.cpp server: its slots, its context, its list of models.

It has no gauge of its KV cache: use is the sum of what its busy slots hold. It never preempts: where slots share one
("unified") cache and that overflows, every stream dies. No page tells a unified cache from a split one: `n_ctx` is what
one slot may use in either, the whole cache or its part of it. So the smaller is believed, that one `n_ctx` is all there
is, unless `kv.capacity_tokens` says otherwise. Cells are counted one by one, without the padding of sliding windows.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.backends.calibration import Calibration
from gateway.backends.engine import (
    LISTING_MAX_AGE_S,
    OK,
    Fault,
    Fetch,
    RestartWatch,
    TelemetryError,
    decoded,
    fetch_ok,
    listing_of,
    public_names,
    samples_of,
    total,
    whole,
)
from gateway.backends.exposition import Samples
from gateway.backends.listing import ListedModel
from gateway.backends.pool import EnginePool, StatedPool, pool_of
from gateway.domain import Capacity, Reading

DEFERRED = b"llamacpp:requests_deferred"
DECODES = b"llamacpp:n_decode_total"
PROMPT = b"llamacpp:prompt_tokens_total"
OUTPUT = b"llamacpp:tokens_predicted_total"
WANTED = frozenset({DEFERRED, DECODES, PROMPT, OUTPUT})
WORK = (DECODES, PROMPT, OUTPUT)
SLOT_TOKENS_MAX = 2**40
NOT_OFFERED = (404, 501)
"""How it answers for a page that its command line switched off."""


class _Generation(msgspec.Struct):
    n_ctx: int


class Props(msgspec.Struct):
    """Of `/props`."""

    default_generation_settings: _Generation
    total_slots: int
    build_info: str = ""
    model_path: str = ""
    media_marker: str = ""
    """Random for each start in recent versions."""


class Slot(msgspec.Struct):
    """Of `/slots`."""

    is_processing: bool
    n_prompt_tokens: int = 0
    """Tokens in its cache: generated ones are among them."""


class LlamaCpp:
    """Looks at one llama.cpp server."""

    kind = "llamacpp"
    keeps_connections = False
    """Its server closes kept ones without a word, and each holds one of its few threads."""
    hosted = False

    def __init__(self, name: str, models: Mapping[str, str], stated: StatedPool) -> None:
        self._name = name
        self._models = models
        self._stated = stated
        self._life = RestartWatch()
        self._listed_for = ""
        self._listed_at = float("-inf")
        self.listed: tuple[ListedModel, ...] = ()
        self.calibration: Calibration | None = None

    async def read(self, fetch: Fetch, asked_at: float) -> Reading:
        """See `Engine.read`."""
        props = decoded(await fetch_ok(fetch, "/props"), Props, "/props")
        slots = await _slots(fetch)
        samples = await _metrics(fetch)
        capacity = capacity_of(props, self._stated)
        work = [n for n in (total(samples, name, "") for name in WORK) if n is not None]
        work_done = sum(work) if work else None
        marks = f"{props.media_marker}/{props.model_path}/{props.total_slots}/{props.default_generation_settings.n_ctx}"
        generation = self._life.observe(marks, work_done)
        if generation != self._listed_for or asked_at - self._listed_at >= LISTING_MAX_AGE_S:
            self.listed = listing_of(await fetch_ok(fetch, "/v1/models"))
            self._listed_for, self._listed_at = generation, asked_at
        return Reading(
            backend=self._name,
            asked_at=asked_at,
            # It answers under any name, so the operator's names hold without being listed.
            models=frozenset(self._models) or public_names({}, self.listed),
            generation=generation,
            capacity=capacity,
            used_blocks=None if slots is None else used_tokens(slots) // capacity.layout.block_tokens,
            running=None if slots is None else sum(slot.is_processing for slot in slots),
            waiting=whole(total(samples, DEFERRED, "")),
            work_done=work_done,
            engine_version=props.build_info[:64],
        )


def capacity_of(props: Props, stated: StatedPool) -> Capacity:
    """One slot's context is the cache, unless the operator knows of more.

    Raises:
        TelemetryError: numbers that cannot be.
    """
    context_tokens = props.default_generation_settings.n_ctx
    if not 0 < context_tokens <= SLOT_TOKENS_MAX or props.total_slots < 1:
        raise TelemetryError(Fault.PARSE, f"/props has {props.total_slots} slots of {context_tokens} tokens")
    pool = pool_of(EnginePool(blocks=context_tokens, block_tokens=1, tokens=context_tokens), stated)
    blocks, layout = pool.capacity.blocks, pool.capacity.layout
    return Capacity(
        blocks,
        layout,
        sequence_tokens_max=context_tokens,
        sequences_max=props.total_slots,
        # A cache that is split among the slots cannot overflow, but no page tells which one this is.
        overflow_is_fatal=True,
    )


def used_tokens(slots: list[Slot]) -> int:
    """Tokens that busy slots hold. Idle ones keep theirs only until somebody needs the cells.

    Raises:
        TelemetryError: numbers that cannot be.
    """
    held = [slot.n_prompt_tokens for slot in slots if slot.is_processing]
    if any(not 0 <= tokens <= SLOT_TOKENS_MAX for tokens in held):
        raise TelemetryError(Fault.PARSE, "/slots has a number of tokens that cannot be")
    return sum(held)


async def _slots(fetch: Fetch) -> list[Slot] | None:
    """None where the page is switched off (`--no-slots`)."""
    status, body = await fetch("/slots")
    if status in NOT_OFFERED:
        return None
    if status != OK:
        raise TelemetryError(Fault.MISSING_METRIC, f"GET /slots answered {status}")
    return decoded(body, list[Slot], "/slots")


async def _metrics(fetch: Fetch) -> Samples:
    """Empty where the page is switched off (without `--metrics`): only the length of the queue is on no other page."""
    status, body = await fetch("/metrics")
    return samples_of(body, WANTED) if status == OK else {}
