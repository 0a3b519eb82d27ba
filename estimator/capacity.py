"""From a GPU's memory to the KV pool, its blocks and tokens as the engine prints them, and how many requests run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from estimator.architecture import Model
from estimator.engine import Batch, Engine, default_batch
from estimator.errors import EstimatorError
from estimator.hardware import Gpu
from estimator.kv_blocks import KvGroup, KvLayout
from estimator.kv_groups import KvRules, kv_layout
from estimator.overhead import Overhead, Span, overhead
from estimator.quantization import Quantization
from estimator.weights import weights

_LATENT_BLOCK = 64
_GIB = 2**30
_SGLANG_WINDOW_SHARE, _SGLANG_STATE_SHARE = 0.8, 0.9
"""Tokens that layers with windows have room for, per token of the others; bytes of states per byte of cache."""
_WEIGHTS_DOUBT, _FEW_BITS_DOUBT, _FEW_BITS = 0.015, 0.06, 7
"""How far predicted weights may be off: more where few bits are used, as checkpoints differ in what they leave out."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Terms that an engine has stated, in bytes per GPU; None where it has not. They replace predicted ones."""

    weights: float | None = None
    activations: float | None = None
    non_torch: float | None = None
    graphs: float | None = None
    total: float | None = None
    """Memory of the GPU."""
    kv_pool: float | None = None


NOTHING_MEASURED = Measured()


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is served."""

    engine: Engine
    tp: int = 1
    pp: int = 1
    dcp: int = 1
    ep: int = 1
    context_tokens: int | None = None
    """Longest sequence; the model's own where nothing is said."""
    utilization: float | None = None
    """The engine's share of a GPU's memory; its default where nothing is said."""
    block_tokens: int | None = None
    kv_dtype: str = "auto"
    batch: Batch | None = None
    """The engine's default for this GPU where nothing is said."""
    batch_stated: bool = True
    """False where `batch` is only what is usual: the bounds then allow for less."""
    graphs: bool = True
    prefix_caching: bool = True
    draft_tokens: int = 0
    draft_layers: int = 0
    quantization: Quantization | None = None
    """How the weights are stored, where it is not as the configuration says."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A KV pool as an engine reports it."""

    layout: KvLayout
    blocks: int
    tokens: int
    """What the engine prints as its size in tokens: see `Engine.prints`."""
    concurrency: float
    """Requests of the longest context that it holds at once."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A GPU's memory, shared out; bytes on the GPU that has least left."""

    budget: float
    weights: float
    overhead: Overhead
    kv_pool: Span
    pool: Pool
    context_tokens: int
    batch: Batch

    @property
    def fits(self) -> bool:
        """Whether one request of the longest context fits."""
        return self.pool.concurrency >= 1


def capacity(model: Model, gpu: Gpu | None, setup: Setup, measured: Measured = NOTHING_MEASURED) -> Capacity:
    """Share out a GPU's memory.

    Args:
        model: from `load_model`.
        gpu: one of `hardware.GPUS`; None only where its memory was measured.
        setup: how the model is served.
        measured: what an engine has stated.

    Raises:
        EstimatorError: for a model without a description of its weights, and sizes that no engine takes.
    """
    total = measured.total if measured.total is not None else gpu and gpu.memory_bytes
    if not total:
        raise EstimatorError(f"The memory of the GPU for {model.name} is not known: name a GPU or its bytes.")
    context = setup.context_tokens or model.context_tokens
    a100 = gpu is not None and gpu.name.startswith("A100")
    batch = setup.batch or default_batch(
        setup.engine, total / _GIB, a100=a100, context_tokens=context, multimodal=model.multimodal
    )
    predicted = overhead(model, setup.engine, batch, tp=setup.tp, graphs=setup.graphs, batch_stated=setup.batch_stated)
    terms = _replaced(predicted, measured)
    weight_bytes = measured.weights if measured.weights is not None else _weights(model, setup)
    share = setup.engine.utilization if setup.utilization is None else setup.utilization
    budget = total * share
    how = model.quantization if setup.quantization is None else setup.quantization
    doubt = _FEW_BITS_DOUBT if how.method and how.bits < _FEW_BITS else _WEIGHTS_DOUBT
    slack = 0.0 if measured.weights is not None else doubt * weight_bytes
    left = _left(setup.engine, total, budget, weight_bytes, terms)
    left = replace(left, low=left.low - slack, high=left.high + slack)
    if setup.engine.name == "sglang" and model.states:
        part = 1 / (1 + _SGLANG_STATE_SHARE)
        left = Span(left.low * part, left.likely * part, left.high * part)
    if gpu is not None and gpu.unified:  # what the rest of the system holds is not known
        left = replace(left, low=left.low - 0.1 * total)
    span = Span.exactly(measured.kv_pool) if measured.kv_pool is not None else left
    layout = layout_of(model, setup, batch)
    return Capacity(
        budget, weight_bytes, terms, span, pool_of(setup, layout, max(0, int(span.likely)), context), context, batch
    )


def _weights(model: Model, setup: Setup) -> float:
    found = weights(
        model, tp=setup.tp, pp=setup.pp, ep=setup.ep, quantization=setup.quantization, drafts=setup.draft_layers
    )
    return found.bytes_per_gpu + setup.engine.load_bytes


def _replaced(predicted: Overhead, measured: Measured) -> Overhead:
    found = predicted
    if measured.activations is not None:
        found = replace(found, activations=Span.exactly(measured.activations))
    if measured.non_torch is not None:
        found = replace(found, non_torch=Span.exactly(measured.non_torch))
    if measured.graphs is not None:
        found = replace(found, graphs=Span.exactly(max(0.0, measured.graphs)))
    return found


def _left(of: Engine, total: float, budget: float, weight_bytes: float, terms: Overhead) -> Span:
    """What is left for the KV cache, by the engine's own budget."""
    used = terms.budgeted
    match of.name:
        case "sglang":
            # A share of what was free before loading covers weights and cache; the rest is for activations and graphs.
            context = terms.non_torch
            free = Span(total - context.high, total - context.likely, total - context.low)
            keep = 1 - budget / total
            low, likely, high = ((1 - keep) * each - weight_bytes for each in (free.low, free.likely, free.high))
            return Span(low - _GIB, likely, high)  # ranks differ by what libraries hold, and the least one counts
        case "tensorrt-llm" | "lmdeploy":
            # A share of what is free after loading.
            share = budget / total
            return Span(*(share * (total - weight_bytes - each) for each in (used.high, used.likely, used.low)))
        case _:
            rest = budget - weight_bytes
            return Span(rest - used.high, rest - used.likely, rest - used.low)


def layout_of(model: Model, setup: Setup, batch: Batch) -> KvLayout:
    """Groups and blocks as this engine cuts them."""
    of = setup.engine
    if of.name == "sglang":
        return _sglang_layout(model, setup)
    rules = KvRules(
        pp=setup.pp,
        dcp=setup.dcp,
        groups=of.groups_layers and of.name == "vllm",
        prefix_caching=setup.prefix_caching,
        checkpoint_block=of.checkpoint_block,
        draft_tokens=setup.draft_tokens,
        draft_layers=setup.draft_layers,
    )
    return kv_layout(
        model,
        block_tokens=setup.block_tokens or default_block(model, of),
        kv_dtype=setup.kv_dtype,
        tp=setup.tp,
        tokens_in_flight=of.batches_in_flight * batch.tokens,
        rules=rules,
    )


def _sglang_layout(model: Model, setup: Setup) -> KvLayout:
    """One pool of tokens; layers with windows have one of their own, which holds fewer. Encoders are given one too."""
    model.check_tp(setup.tp)
    stored, size = model.kv_format(setup.kv_dtype), 0.0
    for attention in model.attentions:
        share = _SGLANG_WINDOW_SHARE if attention.kind in {"sliding", "chunked"} else 1.0
        size += share * attention.layers * attention.bytes_per_token(stored, setup.tp)
        size += attention.index_layers * attention.index_bytes
        if attention.kind == "full" and setup.draft_layers:
            size += setup.draft_layers * (attention.bytes_per_token(stored, setup.tp) + attention.index_bytes)
    if not size:
        return KvLayout(())
    tokens = setup.block_tokens or 1
    layers = sum(attention.layers for attention in model.attentions)
    return KvLayout((KvGroup("full", layers, tokens, int(size / setup.pp * tokens)),))


def default_block(model: Model, of: Engine) -> int:
    """Tokens per block where nothing is said."""
    match of.name:
        case "sglang":
            return 1
        case "tensorrt-llm":
            return 32 if of.version >= (1, 0) or of.dated else 64
        case "lmdeploy":
            return 64
        case _:
            return _LATENT_BLOCK if model.mla and of.v1 else 16


def pool_of(setup: Setup, layout: KvLayout, pool_bytes: int, context_tokens: int, blocks: int | None = None) -> Pool:
    """Cut so many bytes into blocks, and state them as the engine does.

    Args:
        setup: how the model is served.
        layout: from `layout_of`.
        pool_bytes: of one GPU, the one with least.
        context_tokens: longest sequence.
        blocks: where the engine states them itself.
    """
    if not layout.bytes_per_block:
        return Pool(layout, 0, 0, 0.0)
    found = pool_bytes // layout.bytes_per_block if blocks is None else blocks
    planned = layout.planned(context_tokens)
    concurrency = found / planned if planned else 0.0
    if setup.engine.prints == "context":
        tokens = int(concurrency * context_tokens)
    elif setup.engine.prints == "groups":
        tokens = found // len(layout.groups) * min(group.block_tokens for group in layout.groups)
    else:
        tokens = found * layout.block_tokens
        concurrency = tokens / context_tokens
    return Pool(layout, found, tokens, concurrency)
