"""Predictions for one row of start-up logs: cost per token, weights, pool, tokens, blocks, concurrency."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.memory_rows import GIB, Row, header_params, number_of
from estimator import EstimatorError, Model
from estimator.capacity import Capacity, Pool, Setup, capacity, layout_of, pool_of
from estimator.engine import Batch, default_batch
from estimator.gguf_types import gguf_type, mean_bits
from estimator.llamacpp import LlamaContext, LlamaLayers, layers_of, llama_cache
from estimator.weights import weights

_GGUF_WINDOWS = {"gemma2": (2, 4096), "gemma3": (6, 1024), "cohere2": (4, 4096), "gpt-oss": (2, 128)}
"""Every how manieth layer is full, and the window of the others, where a file's header says only its family."""
UTILIZATIONS = (0.8, 0.97)
"""Shares of a GPU's memory that are usual, for logs that do not say theirs."""


@dataclass
class Prediction:
    """What is said of one row; None only with a reason."""

    id: str
    kv_bytes_per_token: float | None = None
    weights_gib: float | None = None
    kv_gib: float | None = None
    kv_tokens: int | None = None
    kv_blocks: int | None = None
    max_concurrency: float | None = None
    kv_gib_config: float | None = None
    """From the configuration alone, with bounds."""
    kv_gib_low: float | None = None
    kv_gib_high: float | None = None
    kv_gib_log_terms: float | None = None
    """From the log's own weights and overhead."""
    pool: str = "predicted"
    """What tokens, blocks and concurrency follow from: the predicted pool, or the bytes that the log states."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Per quantity that is None: why."""


QUANTITIES = ("kv_bytes_per_token", "weights_gib", "kv_gib", "kv_tokens", "kv_blocks", "max_concurrency")


def predict(row: Row) -> Prediction:
    """Predict all that can be predicted of one row."""
    found = Prediction(row.id)
    if row.engine.name == "llama.cpp":
        _llama(row, found)
    elif row.model is None:
        for name in QUANTITIES:
            found.reasons[name] = row.why_no_model
    else:
        _weights(row, row.model, found)
        try:
            _paged(row, row.model, found)
        except EstimatorError as error:
            for name in QUANTITIES:
                if getattr(found, name) is None:
                    found.reasons.setdefault(name, str(error))
    for name in QUANTITIES:
        if getattr(found, name) is None:
            paged = row.engine.name != "llama.cpp"
            nothing = "neither the pool nor the GPU is known" if paged else "this engine has no such quantity"
            found.reasons.setdefault(name, nothing)
    return found


def _weights(row: Row, model: Model, found: Prediction) -> None:
    try:
        size = weights(
            model,
            tp=row.setup.tp,
            pp=row.setup.pp,
            quantization=row.setup.quantization,
            drafts=row.setup.draft_layers,
            loaded=row.engine.name != "llama.cpp",
        ).bytes_per_gpu
        found.weights_gib = (size + row.engine.load_bytes) / GIB
    except EstimatorError as error:
        found.reasons["weights_gib"] = str(error)


def _batch(row: Row) -> Batch:
    if row.setup.batch is not None:
        return row.setup.batch
    gib = (row.measured.total or 0) / GIB or (row.gpu.memory_gib if row.gpu else 80.0)
    a100 = row.gpu is not None and row.gpu.name.startswith("A100")
    context = row.setup.context_tokens or 8192
    multimodal = row.model is not None and row.model.multimodal
    batch = default_batch(row.engine, gib, a100=a100, context_tokens=context, multimodal=multimodal)
    tokens, sequences = number_of(row.other, "max_num_batched_tokens"), number_of(row.other, "max_num_seqs")
    return Batch(tokens or batch.tokens, sequences or batch.sequences)


def _paged(row: Row, model: Model, found: Prediction) -> None:
    batch = _batch(row)
    setup = replace(row.setup, batch=batch, batch_stated=row.other.get("max_num_seqs") is not None)
    context = setup.context_tokens or model.context_tokens
    layout = layout_of(model, setup, batch)
    found.kv_bytes_per_token = _per_printed_token(setup, layout_pool(setup, layout, context), context)
    alone = _alone(row, model, setup, found)
    measured = _with_log_terms(row, model, setup, found)
    best = measured or alone
    if best is not None:
        found.kv_gib = best.kv_pool.likely / GIB
    stated = row.raw.get("kv_gib")
    blocks = row.raw.get("kv_blocks")
    if row.engine.name == "sglang" and stated is None and (delta := row.other.get("pool_delta_gib")):
        stated = delta - _request_table(row, model) / GIB
    if stated is not None and stated > 0:
        found.pool = "stated by the log"
        _say(found, pool_of(setup, layout, int(stated * GIB), context), row)
    elif blocks is not None:
        found.pool = "blocks stated by the log"
        _say(found, pool_of(setup, layout, 0, context, blocks=blocks), row)
        if found.kv_gib is None:
            found.kv_gib = blocks * layout.bytes_per_block / GIB
    elif best is not None:
        _say(found, best.pool, row)


def _request_table(row: Row, model: Model) -> int:
    """What SGLang allocates beside the cache: 4 bytes per running request and token of the context."""
    context = row.setup.context_tokens or model.context_tokens
    requests = row.other.get("max_running_requests") or 2048
    return int(requests) * context * 4


def layout_pool(setup: Setup, layout: Any, context: int) -> Pool:
    """A pool large enough that rounding does not show, to derive the cost of a printed token from."""
    return pool_of(setup, layout, 2**20 * layout.bytes_per_block, context)


def _per_printed_token(setup: Setup, pool: Pool, context: int) -> float | None:
    """Bytes of the pool per token that the engine prints: what a log's KV GiB divided by its tokens gives."""
    del setup, context
    return pool.blocks * pool.layout.bytes_per_block / pool.tokens if pool.tokens else None


def _say(found: Prediction, pool: Pool, row: Row) -> None:
    found.kv_tokens, found.max_concurrency = pool.tokens, round(pool.concurrency, 3)
    found.kv_blocks = pool.blocks if row.engine.name in {"vllm", "tensorrt-llm", "lmdeploy"} else None
    if row.engine.name == "sglang":
        found.max_concurrency = None


def _alone(row: Row, model: Model, setup: Setup, found: Prediction) -> Capacity | None:
    total = row.measured.total
    if total is None and row.gpu is None:
        found.reasons["kv_gib"] = f"the GPU ({row.raw.get('gpu')!r}) is not known"
        return None
    measured = replace(row.measured, activations=None, non_torch=None, graphs=None)
    result = capacity(model, row.gpu, setup, measured)
    found.kv_gib_config = result.kv_pool.likely / GIB
    low, high = result, result
    if setup.utilization is None:  # it may have been anything usual
        least, most = UTILIZATIONS
        low = capacity(model, row.gpu, replace(setup, utilization=least), measured)
        high = capacity(model, row.gpu, replace(setup, utilization=most), measured)
    found.kv_gib_low, found.kv_gib_high = low.kv_pool.low / GIB, high.kv_pool.high / GIB
    return result


def _with_log_terms(row: Row, model: Model, setup: Setup, found: Prediction) -> Capacity | None:
    loaded = row.raw.get("weights_gib")
    terms = row.measured
    if loaded is None or terms.activations is None or terms.non_torch is None or terms.total is None:
        return None
    draft = row.other.get("draft_weights_gib") or 0
    result = capacity(model, row.gpu, setup, replace(terms, weights=(loaded + draft) * GIB))
    found.kv_gib_log_terms = result.kv_pool.likely / GIB
    return result


def _llama(row: Row, found: Prediction) -> None:
    other = row.other
    _llama_weights(row, found)
    layers = _header_layers(row)
    if layers is None:
        for name in ("kv_bytes_per_token", "kv_gib", "kv_tokens"):
            found.reasons[name] = "neither the file's header nor the catalogue says what a layer keeps"
        return
    cells = number_of(other, "n_ctx") or row.raw.get("max_model_len") or 0
    if not cells:
        found.reasons["kv_gib"] = "the context is not stated"
        return
    context = LlamaContext(
        tokens=int(cells),
        key_type=_type(other.get("k_type")),
        value_type=_type(other.get("v_type")),
        batch_tokens=number_of(other, "n_ubatch") or 512,
        flash_attention=str(other.get("flash_attn")) == "1",
        padded=other.get("flash_attn") is not None,
        windows=bool(other.get("swa_split")),
    )
    cache = llama_cache(layers, context, row.model)
    total = cache.kv_bytes + (cache.state_bytes if not layers else 0)
    found.kv_gib = total / GIB
    found.kv_tokens = cache.cells
    found.kv_bytes_per_token = total / cache.cells


def _type(name: str | None) -> str:
    return name or "f16"


def _llama_weights(row: Row, found: Prediction) -> None:
    file_type = gguf_type(row.raw.get("quant") or "")
    if file_type is None:
        found.reasons["weights_gib"] = f"the file's type {row.raw.get('quant')!r} is not known"
    elif row.model is not None and row.model.parts and row.setup.quantization is not None:
        _weights(row, row.model, found)
    elif params := header_params(row.raw):
        found.weights_gib = params * mean_bits(file_type) / 8 / GIB
    else:
        found.reasons["weights_gib"] = "neither the model nor its number of parameters is known"


def _header_layers(row: Row) -> tuple[LlamaLayers, ...] | None:
    """The catalogue's layers where the file's header agrees with them; the header's where it does not, or stands alone.

    A header alone says one width for all layers, and nothing of windows but its family.
    """
    other = row.other
    key, value, count = other.get("n_embd_k_gqa"), other.get("n_embd_v_gqa"), other.get("n_layer")
    windows = bool(other.get("swa_split"))
    if row.model is not None:
        wide = key in {attention.wide_key for attention in row.model.attentions if attention.wide_key}
        layers = layers_of(row.model, expanded=wide)
        if not key or all(each.key_elements == key for each in layers):
            return layers if windows else tuple(replace(each, window=0) for each in layers)
    if not key or not value or not count:
        return None
    every, window = _GGUF_WINDOWS.get(str(other.get("arch")), (1, 0)) if windows else (1, 0)
    full = count // every
    return LlamaLayers(full, key, value), LlamaLayers(count - full, key, value, window)
