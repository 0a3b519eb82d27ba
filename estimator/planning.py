"""Plans how to serve a model: what it takes of each GPU, how much of it runs, what to change, or which GPUs to take.

`plan` is the object behind `kvgate plan`. It reads names as people type them; all arithmetic is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Unpack

from estimator.advice import Advice, advise
from estimator.architecture import Model
from estimator.capacity import NOTHING_MEASURED, Measured, Setup
from estimator.decode import DecodeCeiling, decode_ceiling
from estimator.engine import Batch
from estimator.errors import EstimatorError
from estimator.gguf_types import gguf_quantization
from estimator.hardware import Gpu
from estimator.host import HostNeeds, host_needs
from estimator.layouts import Layouts, Stored, find_layouts, why_not
from estimator.placement import GPUS_PER_NODE, Placement, counts, place, splits
from estimator.plan_options import PlanOptions, read_batch, read_dtype, read_engine, read_gpu, read_setup
from estimator.quantization import named_quantization
from estimator.rule_of_thumb import RuleOfThumb, rule_of_thumb
from estimator.startup_log import StartupTerms, read_startup_log

__all__ = ["Concurrency", "Plan", "PlanOptions", "plan"]

_LENGTHS = (1024, 4096, 16_384)
_ENDLESS_TOKENS = 2**40
"""Contexts beyond are those of models without an end."""
_TOKENS_MISMATCH, _WEIGHTS_MISMATCH = 0.02, 0.15
"""Beyond, what a log states is not what is planned for."""
_GPUS_TRIED = 32
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Requests of one length that run at once on one copy."""

    tokens: int
    """Of each request, prompt and answer."""
    low: int
    likely: int
    high: int
    kv_likely: float
    """What memory alone would hold."""
    limited: bool
    """Whether the engine's limit of sequences stops it before memory does."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is served, one copy of it unless said."""

    placement: Placement
    copies: int
    found_by: str
    """Why these GPUs: "asked for", "the fewest that fit", "none fits" or "least memory of all layouts"."""
    concurrency: tuple[Concurrency, ...]
    decode: tuple[DecodeCeiling, ...]
    """Ceilings at the lengths of `concurrency` that fit; empty where the bandwidth is not known."""
    advice: tuple[Advice, ...]
    host: HostNeeds
    rule: RuleOfThumb
    layouts: Layouts | None
    """Only where no GPU was named."""
    why_not: str
    """Why it does not fit; empty where it does."""
    log: StartupTerms | None
    notes: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether one request of the longest context fits."""
        return self.placement.fits


def plan(m: Model, gpu: str | None = None, **options: Unpack[PlanOptions]) -> Plan:
    """Plan how to serve a model.

    Args:
        m: from `load_model`.
        gpu: a name of the catalogue, such as "H100-80GB"; None to look through all of it.
        **options: see `PlanOptions`.

    Raises:
        EstimatorError: for names that are not known, numbers out of range, parallelism that the model cannot be cut
            into, and a model without a description of its weights.
    """
    log = None if (lines := options.get("startup_log")) is None else read_startup_log(lines)
    if log is not None and log.engine is None:
        raise EstimatorError("The start-up log states nothing known: no line of vLLM, SGLang or llama.cpp is in it.")
    measured = log.measured() if log else NOTHING_MEASURED
    of, notes = read_engine(options, log)
    model = read_dtype(m, options)
    setup = read_setup(model, of, options, log)
    card = None if gpu is None else read_gpu(gpu)
    if card is None and measured.total is None:
        if log is not None:
            raise EstimatorError("The start-up log does not state the memory of the GPU: name the GPU.")
        return _over_all_gpus(model, setup, options, notes)
    total = measured.total if measured.total is not None else card.memory_bytes if card else 0.0
    setup = replace(setup, batch=read_batch(model, setup, options, total / _GIB, card))
    placement, found_by = _place(model, card, setup, options, measured)
    copies = (options.get("gpus") or placement.gpus) // placement.gpus
    return _plan(placement, copies, found_by, None, (*notes, *_log_notes(log, placement)), log)


def _plan(
    placement: Placement,
    copies: int,
    found_by: str,
    layouts: Layouts | None,
    notes: tuple[str, ...],
    log: StartupTerms | None = None,
) -> Plan:
    setup, model = placement.setup, placement.model
    context = placement.capacity.context_tokens
    lengths = [each for each in _LENGTHS if each < context]
    lengths += [] if context >= _ENDLESS_TOKENS else [context]
    concurrency = () if placement.keeps_nothing else tuple(_concurrency(placement, each) for each in lengths)
    ceilings = (decode_ceiling(placement, each) for each in lengths)
    return Plan(
        placement,
        copies,
        found_by,
        concurrency,
        tuple(each for each in ceilings if each is not None),
        advise(placement),
        host_needs(model, min(placement.gpus * copies, GPUS_PER_NODE), setup.quantization),
        rule_of_thumb(placement),
        layouts,
        why_not(placement),
        log,
        (*notes, *model.notes, *(f"Doubt: {each}" for each in model.doubts)),
    )


def _concurrency(found: Placement, tokens: int) -> Concurrency:
    pool = found.capacity.kv_pool
    low, likely, high = (found.running(tokens, each) for each in (pool.low, pool.likely, pool.high))
    held = found.requests(tokens)
    return Concurrency(tokens, low, likely, high, held, limited=int(held) > likely)


def _over_all_gpus(model: Model, setup: Setup, options: PlanOptions, notes: tuple[str, ...]) -> Plan:
    split = _asked(model, setup, options) if _cut(options) else None

    def batch_of(gpu: Gpu) -> Batch | None:
        return read_batch(model, setup, options, gpu.memory_gib, gpu)

    found = find_layouts(model, setup, _ways(model, setup, options), _kv_dtypes(setup), batch_of, split)
    if not found.fitting:
        last = max(found.too_small, key=lambda each: each.memory_gib)
        raise EstimatorError(
            f"{model.name} fits no layout of the catalogue's GPUs; the largest tried, {last.gpus} x {last.gpu}: "
            f"{last.reason}."
        )
    own = (each for each in found.fitting if each.stored == "auto" and each.kv_dtype == setup.kv_dtype)
    best = next(own, found.fitting[0])
    return _plan(best.placement, 1, "least memory of all layouts", found, notes)


def _cut(options: PlanOptions) -> bool:
    return any(options.get(each) is not None for each in ("gpus", "tp", "pp"))


def _asked(model: Model, setup: Setup, options: PlanOptions) -> tuple[int, int]:
    """The split that is said, or follows from the number of GPUs."""
    tp, pp, gpus = options.get("tp"), options.get("pp"), options.get("gpus")
    if tp is None and pp is None:
        return splits(model, setup, gpus or 1)
    one = tp or 1, pp or 1
    if gpus is not None and gpus % (one[0] * one[1]):
        raise EstimatorError(f"gpus is {gpus}: copies of tp {one[0]} x pp {one[1]} GPUs do not use all of them.")
    return one


def _place(
    model: Model, gpu: Gpu | None, setup: Setup, options: PlanOptions, measured: Measured
) -> tuple[Placement, str]:
    """On the GPUs asked for, or on the fewest that hold one request of the longest context."""
    if _cut(options) or measured is not NOTHING_MEASURED:
        tp, pp = _asked(model, setup, options)
        return place(model, gpu, replace(setup, tp=tp, pp=pp), measured), "asked for"
    tried: list[Placement] = []
    for tp, pp in counts(model, setup, _GPUS_TRIED):
        found = place(model, gpu, replace(setup, tp=tp, pp=pp), measured)
        if found.fits:
            return found, "the fewest that fit"
        tried.append(found)
    return next((each for each in tried if each.weights_fit), tried[-1]), "none fits"


def _ways(model: Model, setup: Setup, options: PlanOptions) -> tuple[Stored, ...]:
    """Ways to keep the weights: as said, as the checkpoint does, and of one in 16 bits also the usual smaller ones."""
    said = options.get("quant", "auto")
    own = Stored(said, setup.quantization)
    if said != "auto" or setup.quantization is not None or model.quantization.method:
        return (own,)
    if setup.engine.name == "llama.cpp":
        return (own, *(Stored(kind, gguf_quantization(kind, model)) for kind in ("Q8_0", "Q4_K_M")))
    return (own, Stored("fp8", named_quantization("fp8"), needs_fp8=True), Stored("awq", named_quantization("awq")))


def _kv_dtypes(setup: Setup) -> tuple[str, ...]:
    if setup.kv_dtype != "auto":
        return (setup.kv_dtype,)
    return ("auto", "q8_0" if setup.engine.name == "llama.cpp" else "fp8")


def _log_notes(log: StartupTerms | None, found: Placement) -> tuple[str, ...]:
    """What the log states that does not follow from its settings as given here: then they are others."""
    if log is None:
        return ()
    notes = []
    predicted = place(found.model, found.gpu, found.setup, Measured(total=found.measured.total)).capacity
    if log.weights is not None and abs(log.weights / predicted.weights - 1) > _WEIGHTS_MISMATCH:
        notes.append(
            f"The log states {log.weights / _GIB:.1f} GiB of weights, {predicted.weights / _GIB:.1f} are expected: "
            "they are stored or shared out otherwise than given here (quant, tp, pp)."
        )
    ours = found.capacity.pool.tokens
    known = log.kv_tokens is not None and log.kv_pool is not None and found.setup.engine.name != "llama.cpp"
    if known and log.kv_tokens and abs(ours / log.kv_tokens - 1) > _TOKENS_MISMATCH:
        notes.append(
            f"The log states {log.kv_tokens:,} tokens of KV, its memory would hold {ours:,}: "
            "it ran with another tp, KV dtype, version or context than given here."
        )
    return tuple(notes)
