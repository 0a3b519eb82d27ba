"""The rule of thumb for serving memory, M = P * 4 B / (32 / Q) * 1.2, beside what a model needs: where it is wrong.

Its 20 % stands for all that is not weights. That is too little for long contexts, and too much for none: KV grows with
tokens, overhead with the batch and the vocabulary, neither with the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from estimator.placement import Placement
from estimator.seed_tables import rule_of_thumb_gb

_GIB, _GB = 2**30, 10**9
_WIDTHS = (4, 8, 16, 32)


@dataclass(frozen=True, slots=True)
class RuleOfThumb:
    """The rule's answer and the planner's, for one copy."""

    billions: float
    bits: int
    """Q: the nominal width of a weight."""
    gb: float
    """M, in 10^9 bytes."""
    extra_gb: float
    """Its 20 %."""
    gpus: int
    """GPUs whose nominal size adds up to M; 0 where no GPU is known."""
    beside_weights_gb: float
    """What the placement takes beside weights for one request of its longest context: KV and overhead of all GPUs."""
    weights_gb: float
    """What the weights take on all GPUs."""

    @property
    def total_gb(self) -> float:
        """What the rule means to predict."""
        return self.weights_gb + self.beside_weights_gb

    @property
    def error(self) -> float:
        """Relative; below 0 where the rule says too little."""
        return self.gb / self.total_gb - 1


def rule_of_thumb(found: Placement) -> RuleOfThumb:
    """Put the rule beside a placement."""
    how = found.model.quantization if found.setup.quantization is None else found.setup.quantization
    stored = how.bits if how.method else 16.0
    bits = min(_WIDTHS, key=lambda width: abs(width - stored))
    billions = sum(part.params for part in found.model.parts if not part.extra) / 1e9
    gb = rule_of_thumb_gb(billions, bits)
    over = found.capacity.overhead
    beside = over.activations + over.non_torch + over.graphs
    one = _request_bytes(found)
    nominal = found.gpu.nominal_gb if found.gpu else 0
    return RuleOfThumb(
        billions=billions,
        bits=bits,
        gb=gb,
        extra_gb=gb / 6,
        gpus=math.ceil(gb / nominal) if nominal else 0,
        beside_weights_gb=found.gpus * (beside.likely + one) / _GB,
        weights_gb=found.gpus * found.capacity.weights / _GB,
    )


def _request_bytes(found: Placement) -> float:
    """One request of the longest context, on one GPU."""
    layout = found.capacity.pool.layout
    return float(layout.planned(found.capacity.context_tokens) * layout.bytes_per_block)
