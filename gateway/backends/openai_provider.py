"""Everything known about hosted OpenAI-compatible providers, Novita among them, and about engines that tell nothing.

Their memory is their own business: there is no KV pool, only rate limits. Novita (https://novita.ai/docs) has the base
URL `https://api.novita.ai/openai`; its `/v1/models` has `context_size`, `input_token_price_per_m` and
`output_token_price_per_m`; its limits are per account tier and model, in requests and tokens per minute; no
`Retry-After` is documented with its 429.
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.backends.calibration import Calibration
from gateway.backends.engine import OK, Fault, Fetch, TelemetryError, listing_of, public_names
from gateway.backends.listing import ListedModel
from gateway.backends.pool import EnginePool, StatedPool, pool_of
from gateway.domain import Capacity, Reading

NO_LISTING = (404, 405, 501)
"""Providers without a list of models answer so; what the operator configured then stands."""
KEY_REFUSED = (401, 403)


class OpenAiProvider:
    """Looks at one provider: whether it answers, takes our key, and what its models are."""

    kind = "openai"
    keeps_connections = True

    def __init__(self, name: str, models: Mapping[str, str], stated: StatedPool) -> None:
        self._name = name
        self._models = models
        self._capacity = _stated_capacity(stated)
        self.listed: tuple[ListedModel, ...] = ()
        self.calibration: Calibration | None = None

    @property
    def hosted(self) -> bool:
        """An engine of unknown kind with a stated pool is one's own: the ledger alone then keeps its books."""
        return self._capacity is None

    async def read(self, fetch: Fetch, asked_at: float) -> Reading:
        """See `Engine.read`."""
        status, body = await fetch("/v1/models")
        if status == OK:
            self.listed = listing_of(body)
        elif status in KEY_REFUSED:
            raise TelemetryError(Fault.MISSING_METRIC, f"GET /v1/models answered {status}: check api_key")
        elif status not in NO_LISTING or not self._models:
            raise TelemetryError(Fault.MISSING_METRIC, f"GET /v1/models answered {status}")
        return Reading(
            backend=self._name,
            asked_at=asked_at,
            # Aliases need not be listed: what the operator configured is served.
            models=frozenset(self._models) or public_names({}, self.listed),
            capacity=self._capacity,
        )


def _stated_capacity(stated: StatedPool) -> Capacity | None:
    return None if stated.capacity_tokens is None else pool_of(EnginePool(block_tokens=1), stated).capacity
