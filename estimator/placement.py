"""A model on GPUs: how their memory is shared out, and how many requests of a length run at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from estimator.architecture import Model
from estimator.capacity import NOTHING_MEASURED, Capacity, Measured, Setup, capacity, pool_of
from estimator.engine import Batch
from estimator.errors import EstimatorError
from estimator.hardware import Gpu
from estimator.kv_blocks import UNBOUNDED_TOKENS
from estimator.llamacpp import LlamaContext, layers_of, llama_cache
from estimator.overhead import Span

GPUS_PER_NODE = 8
"""Ranks that share every layer are kept within one node; further nodes hold further layers."""
_LLAMA_BATCH_TOKENS = 512
_LLAMA_MARGIN_BYTES = 2**30
"""What llama.cpp leaves free when it fits a model to a GPU by itself (`--fit-target`)."""


@dataclass(frozen=True, slots=True)
class Term:
    """One use of a GPU's memory, in bytes."""

    name: str
    span: Span
    measured: bool = False
    """Whether an engine has stated it."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One copy of a model on `tp` x `pp` GPUs."""

    model: Model
    gpu: Gpu | None
    """None where only its memory was measured."""
    setup: Setup
    capacity: Capacity
    measured: Measured = NOTHING_MEASURED

    @property
    def gpus(self) -> int:
        """GPUs of one copy."""
        return self.setup.tp * self.setup.pp

    @property
    def total_bytes(self) -> float:
        """Memory of one GPU."""
        if self.measured.total is not None:
            return self.measured.total
        return float(self.gpu.memory_bytes) if self.gpu else 0.0

    @property
    def keeps_nothing(self) -> bool:
        """Whether the model keeps nothing between tokens, such as an encoder."""
        return not self.capacity.pool.layout.bytes_per_block

    @property
    def weights_fit(self) -> bool:
        """Whether anything is left for KV beside weights and overhead."""
        return self.capacity.kv_pool.likely > 0

    @property
    def fits(self) -> bool:
        """Whether one request of the longest context fits."""
        if self.keeps_nothing:
            return self.weights_fit
        return self.requests(self.capacity.context_tokens) >= 1

    def requests(self, tokens: int, pool_bytes: float | None = None) -> float:
        """Requests of so many tokens whose KV fits at once, were there no other limit.

        Args:
            tokens: of each, prompt and answer.
            pool_bytes: of one GPU; the likely pool where nothing is said.
        """
        held = max(0, int(self.capacity.kv_pool.likely if pool_bytes is None else pool_bytes))
        if self.setup.engine.name == "llama.cpp":
            each = _llama_slot_bytes(self.model, self.setup, tokens)
            return float(held // each) if each else 0.0
        pool = pool_of(self.setup, self.capacity.pool.layout, held, self.capacity.context_tokens)
        planned = pool.layout.planned(tokens)
        return pool.blocks / planned if planned else 0.0

    def running(self, tokens: int, pool_bytes: float | None = None) -> int:
        """Requests of so many tokens that run at once: what memory holds, or what the engine is told to stop at."""
        held = int(self.requests(tokens, pool_bytes))
        limit = self.capacity.batch.sequences
        if self.setup.engine.name == "llama.cpp":
            said = limit > 1  # what is not said is one, see `_llama`
        else:
            said = self.setup.batch is not None or self.setup.engine.name == "vllm"
        return min(held, limit) if said else held  # other engines' own limits are far above what memory holds

    def fits_at(self, tokens: int) -> bool:
        """Whether one request of so many tokens fits."""
        return self.requests(tokens) >= 1

    def tokens_max(self, pool_bytes: float | None = None) -> int:
        """Longest request that fits alone in so many bytes per GPU, or in the likely pool; 0 where none does."""
        low, high = 0, min(self.model.context_tokens, UNBOUNDED_TOKENS)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.requests(middle, pool_bytes) >= 1 else (low, middle - 1)
        return low

    def terms(self) -> tuple[Term, ...]:
        """What a GPU holds: weights, KV pool, overhead; the rest is free."""
        found, said = self.capacity, self.measured
        pool = found.kv_pool
        pool = Span(*(max(0.0, bound) for bound in (pool.low, pool.likely, pool.high)))
        pool_known = pool.measured
        over = found.overhead
        return (
            Term("weights", Span.exactly(found.weights), said.weights is not None),
            Term("KV pool", pool, pool_known),
            Term("activations", over.activations, said.activations is not None),
            Term("libraries", over.non_torch, said.non_torch is not None),
            Term("CUDA graphs", over.graphs, said.graphs is not None),
        )


def place(model: Model, gpu: Gpu | None, setup: Setup, measured: Measured = NOTHING_MEASURED) -> Placement:
    """Share out the memory of the GPUs that a copy of a model is put on.

    Raises:
        EstimatorError: as `capacity`, for more pipeline stages than layers, and for llama.cpp with tp.
    """
    layers = model.layers + sum(state.layers for state in model.states)
    if setup.pp > max(1, layers):
        raise EstimatorError(f"pp {setup.pp} is more stages than the {layers} layers of {model.name}.")
    terms = measured
    if setup.engine.name == "llama.cpp":
        setup, terms = _llama(model, gpu, setup, measured)
    return Placement(model, gpu, setup, capacity(model, gpu, setup, terms), measured)


def _llama(model: Model, gpu: Gpu | None, setup: Setup, measured: Measured) -> tuple[Setup, Measured]:
    """llama.cpp as the budget of other engines: all but a margin, and a compute buffer of one batch's logits."""
    if setup.tp > 1:
        raise EstimatorError(f"tp is {setup.tp}: llama.cpp shares a model out by layers; say pp {setup.tp} instead.")
    total = measured.total if measured.total is not None else gpu.memory_bytes if gpu else 0.0
    share = setup.utilization
    if share is None and total:
        share = max(0.05, 1 - _LLAMA_MARGIN_BYTES / total)
    terms = measured
    if measured.activations is None:
        logits = _LLAMA_BATCH_TOKENS * (model.vocab_size or 128_000) * 4
        terms = replace(measured, activations=float(logits))
    batch = setup.batch or Batch(_LLAMA_BATCH_TOKENS, 1)
    return replace(setup, utilization=share, batch=batch, graphs=False), terms


def _llama_slot_bytes(model: Model, setup: Setup, tokens: int) -> int:
    """Bytes that the GPU with most layers allocates for one slot of so many tokens."""
    kind = "f16" if setup.kv_dtype == "auto" else setup.kv_dtype
    context = LlamaContext(tokens, kind, kind, flash_attention=True)
    cache = llama_cache(layers_of(model), context, model)
    layers = max(1, model.layers + sum(state.layers for state in model.states))
    return round((cache.kv_bytes + cache.state_bytes) * -(-layers // setup.pp) / layers)


def splits(model: Model, setup: Setup, gpus: int) -> tuple[int, int]:
    """Share a model out over so many GPUs: as many as can share every layer within a node, stages beyond.

    Args:
        model: from `load_model`.
        setup: whose engine decides; llama.cpp knows stages only.
        gpus: of one copy.
    """
    if setup.engine.name == "llama.cpp":
        return 1, gpus
    best = next(each for each in range(min(gpus, GPUS_PER_NODE), 0, -1) if gpus % each == 0 and _divides(model, each))
    return best, gpus // best


def _divides(model: Model, tp: int) -> bool:
    try:
        model.check_tp(tp)
    except EstimatorError:
        return False
    return True


def counts(model: Model, setup: Setup, gpus_max: int) -> Iterator[tuple[int, int]]:
    """Splits to try, from one GPU to as many as said, doubling, without those that no model like it takes."""
    layers = model.layers + sum(state.layers for state in model.states)
    gpus = 1
    while gpus <= gpus_max:
        tp, pp = splits(model, setup, gpus)
        if pp <= max(1, layers) and (pp == 1 or setup.engine.name == "llama.cpp" or gpus > GPUS_PER_NODE):
            yield tp, pp
        gpus *= 2
