"""How fast tokens can come at most: the time that memory takes to be read once.

Each step reads every weight that it uses, and the KV of each sequence, once; nothing is faster than the memory's
bandwidth allows. Source: Pope et al., "Efficiently Scaling Transformer Inference", 2022, arXiv 2211.05102, section 2.
A ceiling: kernels reach less of the bandwidth, ranks wait for each other, and large batches are bound by arithmetic
first. Experts are taken to be drawn evenly. A sparse index is not known to skip what it skips.
"""

from __future__ import annotations

from dataclasses import dataclass

from estimator.architecture import Model
from estimator.capacity import Setup
from estimator.placement import Placement
from estimator.weights import weights

FORMULA = "bandwidth / (weights read + batch x KV of a sequence), per GPU"
SOURCE = "Pope et al. 2022, arXiv 2211.05102"
_NOT_READ = frozenset({"vision", "draft", "rope"})


@dataclass(frozen=True, slots=True)
class DecodeCeiling:
    """Tokens per second of one copy of a model, no more than memory bandwidth allows."""

    context_tokens: int
    """Length of every sequence."""
    sequence_tokens_per_s: float
    """Of one sequence that runs alone."""
    batch: int
    """Sequences that memory and the engine's limit let run at once."""
    batch_tokens_per_s: float
    """Of all of them together."""
    formula: str = FORMULA
    source: str = SOURCE


def decode_ceiling(found: Placement, context_tokens: int) -> DecodeCeiling | None:
    """The ceiling at a length.

    Args:
        found: where the model is; None comes back where its GPU's bandwidth is not known, or it generates nothing.
        context_tokens: of each sequence.
    """
    if found.gpu is None or found.keeps_nothing or not found.fits_at(context_tokens):
        return None
    bandwidth = found.gpu.bandwidth_gb_s * 1e9
    kv = kv_read_bytes(found.model, found.setup, context_tokens)
    batch = max(1, found.running(context_tokens))
    alone = weights_read_bytes(found.model, found.setup, 1) + kv
    # Stages work in turn, each on its part of the batch: every GPU reads its weights once per part.
    stages = found.setup.pp
    together = weights_read_bytes(found.model, found.setup, max(1, batch // stages)) + batch * kv / stages
    return DecodeCeiling(context_tokens, bandwidth / alone, batch, batch * bandwidth / together)


def weights_read_bytes(model: Model, setup: Setup, batch: int) -> float:
    """Bytes that the ranks of one tensor-parallel group read per step, over all stages: one rank's.

    Of experts those that at least one of `batch` tokens is sent to; of an embedding that is no output as well, nothing.
    """
    found = weights(model, tp=setup.tp, ep=setup.ep, quantization=setup.quantization)
    tied = not any(part.role == "head" for part in model.parts)
    used = 1 - (1 - expert_share(model)) ** batch
    read = 0.0
    for role, size in found.by_role:
        if role in _NOT_READ or (role == "embedding" and not tied):
            continue
        read += size * used if role == "experts" else size
    return read


def expert_share(model: Model) -> float:
    """Share of a layer's routed experts that one token uses; 1 where that is not known."""
    experts = next((part for part in model.parts if part.role == "experts"), None)
    router = next((part for part in model.parts if part.role == "router" and part.layers), None)
    if experts is None or router is None or not experts.width or not model.moe_width or not model.hidden_size:
        return 1.0
    count = router.params / (router.layers * model.hidden_size)
    return min(1.0, model.moe_width / experts.width / count) if count >= 1 else 1.0


def kv_read_bytes(model: Model, setup: Setup, tokens: int) -> float:
    """Bytes of one sequence's KV that one rank reads per token, over all stages: of windows what they span."""
    stored = model.kv_format(setup.kv_dtype)
    read = 0.0
    for attention in model.attentions:
        seen = min(tokens, attention.window) if attention.window else tokens
        read += attention.layers * seen * attention.bytes_per_token(stored, setup.tp)
        read += attention.index_layers * seen * attention.index_bytes
    return read / setup.dcp + sum(state.layers * state.bytes(setup.tp) for state in model.states)
