"""What to change so that a model fits, or more of it does: each change is tried, and its effect computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from estimator.capacity import Measured, Setup
from estimator.engine import Batch
from estimator.gguf_types import gguf_quantization
from estimator.placement import GPUS_PER_NODE, Placement, counts, place
from estimator.quantization import named_quantization

_GAIN_LEAST, _GAIN_LEAST_SHORT = 0.02, 0.2
"""A change that gains less is not worth a line; nor one that is far from enough."""
_LEAST_SHOWN = 0.05
"""Of a request."""
_SEQUENCES = (256, 64)
_BATCH_TOKENS = 2048
_UTILIZATION = 0.95
"""About the most that engines can be given before other libraries run out of memory."""
_CONTEXT_LEAST = 2048
"""A shorter context is no help."""
_EIGHT_BITS = 8.9
_RECIPE = (f"--max-num-seqs {_SEQUENCES[-1]}", "--enforce-eager", "--gpu-memory-utilization", "--kv-dtype")
"""Settings in the order in which they hurt."""
_ROUNDED = "check the answers: keys and values are rounded"
_OTHER_WEIGHTS = "needs a checkpoint stored so"


@dataclass(frozen=True, slots=True)
class Advice:
    """One change, or several together, and what it does."""

    change: str
    """As options of `kvgate plan`."""
    frees_bytes: float
    """Per GPU, for the KV pool."""
    context_tokens: int
    """Length of the requests that are counted: the longest, before and after; a recipe may shorten it."""
    requests_before: float
    """Of that length at once, on all GPUs of a copy."""
    requests_after: float
    note: str = ""

    @property
    def fits(self) -> bool:
        """Whether one request of `context_tokens` fits afterwards."""
        return self.requests_after >= 1


@dataclass(frozen=True, slots=True)
class _Change:
    text: str
    setup: Setup
    note: str = ""


def advise(found: Placement) -> tuple[Advice, ...]:
    """Changes that gain something, most useful first; where the model does not fit, first what makes it fit."""
    if found.keeps_nothing:
        return ()
    context = found.capacity.context_tokens
    judged = [_judged(found, each, context) for each in _changes(found)]
    least = 1 + (_GAIN_LEAST if found.fits else _GAIN_LEAST_SHORT)
    worth = [each for each in judged if each.requests_after > max(_LEAST_SHOWN, least * each.requests_before)]
    worth.sort(key=lambda each: -each.requests_after)
    return tuple(worth) if found.fits else (*_recipes(found), *worth)


def _judged(found: Placement, change: _Change, context: int) -> Advice:
    """What an engine has stated holds for what it ran with: a change is the difference of two predictions."""
    known = Measured(total=found.measured.total)
    before, after = (place(found.model, found.gpu, setup, known) for setup in (found.setup, change.setup))
    frees = after.capacity.kv_pool.likely - before.capacity.kv_pool.likely
    pool = found.capacity.kv_pool.likely + frees
    return Advice(change.text, frees, context, found.requests(context), after.requests(context, pool), change.note)


def _changes(found: Placement) -> list[_Change]:
    return [*_settings(found), *_weight_bits(found), *_more_gpus(found)]


def _settings(found: Placement) -> list[_Change]:
    """What takes neither another checkpoint nor another GPU."""
    return [*_kv_bits(found), *_batches(found), *_limits(found)]


def _kv_bits(found: Placement) -> Iterator[_Change]:
    """8-bit KV, where the GPU can and it is not so already."""
    llama = found.setup.engine.name == "llama.cpp"
    kind = "q8_0" if llama else "fp8"
    stored = found.model.kv_format("f16" if llama and found.setup.kv_dtype == "auto" else found.setup.kv_dtype)
    if stored.element_bytes >= 2 and (llama or found.gpu is None or found.gpu.fp8):
        yield _Change(f"--kv-dtype {kind}", replace(found.setup, kv_dtype=kind), _ROUNDED)


def _batches(found: Placement) -> Iterator[_Change]:
    """What is set aside for running less at once is freed."""
    if found.setup.engine.name != "vllm":
        return
    batch = found.capacity.batch
    for sequences in _SEQUENCES:
        if sequences < batch.sequences:
            fewer = Batch(batch.tokens, sequences)
            yield _Change(f"--max-num-seqs {sequences}", replace(found.setup, batch=fewer), f"now {batch.sequences:,}")
    if batch.tokens > _BATCH_TOKENS:
        smaller = Batch(_BATCH_TOKENS, batch.sequences)
        note = f"now {batch.tokens:,}; long prompts are read in more steps"
        yield _Change(f"--max-num-batched-tokens {_BATCH_TOKENS}", replace(found.setup, batch=smaller), note)


def _limits(found: Placement) -> Iterator[_Change]:
    setup = found.setup
    if setup.graphs and found.capacity.overhead.graphs_in_budget:
        yield _Change("--enforce-eager", replace(setup, graphs=False), "no CUDA graphs: decoding gets slower")
    share = setup.engine.utilization if setup.utilization is None else setup.utilization
    if setup.engine.name in {"vllm", "sglang"} and share < _UTILIZATION:
        more = replace(setup, utilization=_UTILIZATION)
        yield _Change(f"--gpu-memory-utilization {_UTILIZATION}", more, f"now {share:g}")


def _weight_bits(found: Placement) -> Iterator[_Change]:
    """Fewer bits than the weights have now."""
    how = found.model.quantization if found.setup.quantization is None else found.setup.quantization
    bits = how.bits if how.method else 16.0
    if found.setup.engine.name == "llama.cpp":
        for kind, least in (("Q8_0", 10.0), ("Q4_K_M", 5.0)):
            if bits > least:
                fewer = replace(found.setup, quantization=gguf_quantization(kind, found.model))
                yield _Change(f"--quant {kind}", fewer, _OTHER_WEIGHTS)
        return
    if bits > _EIGHT_BITS and (found.gpu is None or found.gpu.fp8):
        yield _Change("--quant fp8", replace(found.setup, quantization=named_quantization("fp8")), _OTHER_WEIGHTS)
    if bits > 5:
        yield _Change("--quant awq", replace(found.setup, quantization=named_quantization("awq")), _OTHER_WEIGHTS)


def _more_gpus(found: Placement) -> Iterator[_Change]:
    """The next larger split that engines take; where the model does not fit, the next in which it does."""
    known = Measured(total=found.measured.total)
    for tp, pp in counts(found.model, found.setup, 2 * GPUS_PER_NODE):
        more = replace(found.setup, tp=tp, pp=pp)
        if tp * pp <= found.gpus or tp < found.setup.tp:
            continue
        if found.fits or place(found.model, found.gpu, more, known).fits:
            text = " ".join(f"--{name} {ranks}" for name, ranks in (("tp", tp), ("pp", pp)) if ranks > 1)
            yield _Change(text, more, f"{tp * pp} GPUs a copy")
            return


def _shorter(found: Placement, setup: Setup, texts: list[str]) -> Advice | None:
    """The longest context of which one request fits, in whole thousands."""
    change = _Change("", setup)
    whole = _judged(found, change, found.capacity.context_tokens)
    after = place(found.model, found.gpu, setup, Measured(total=found.measured.total))
    pool = found.capacity.kv_pool.likely + whole.frees_bytes
    longest = after.tokens_max(pool) // 1024 * 1024
    if longest < _CONTEXT_LEAST:
        return None
    text = " ".join([*texts, f"--max-model-len {longest}"])
    return Advice(text, whole.frees_bytes, longest, found.requests(longest), after.requests(longest, pool))


def _recipes(found: Placement) -> Iterator[Advice]:
    """A shorter context alone; and settings added one to another until the longest fits, or as long a one as can."""
    if found.weights_fit and (short := _shorter(found, found.setup, [])):
        yield short
    setup, texts = found.setup, list[str]()
    for option in _RECIPE:
        at = place(found.model, found.gpu, setup, Measured(total=found.measured.total))
        change = next((each for each in _settings(at) if each.text.startswith(option)), None)
        if change is None:
            continue
        setup = change.setup
        texts.append(change.text)
        advice = _judged(found, _Change(" ".join(texts), setup), found.capacity.context_tokens)
        if advice.fits:
            if len(texts) > 1:  # one change alone is listed anyhow
                yield advice
            return
    if texts and (short := _shorter(found, setup, texts)):
        yield short
