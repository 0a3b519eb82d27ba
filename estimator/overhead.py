"""What a GPU holds besides weights and KV cache: activations, sampler, CUDA graphs, and what the driver takes.

These are the terms that configurations do not give. Each is a span: the likely value, and bounds that logged values of
many versions stay within. A measured term (`startup_log`) takes the place of a span.

Sources: start-up logs of vLLM 0.5 to 0.30. The sampler's 38.7 bytes per sequence and word fit eight text models from
0.6 to 125 billion parameters within 2 %: 32-bit logits with the sorted copy, indices and sums of top-k and top-p in
plain PyTorch. Since 0.19 logs show about 32, since the runner of 0.30 about 12; bounds span all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from estimator.architecture import Model
from estimator.engine import Batch, Engine

_GIB = 2**30
_SAMPLER_BYTES = ((0, 30), 12.0), ((0, 19), 32.0), ((0, 0), 38.7)
"""Bytes per sequence and word of the vocabulary, by the version since which they hold."""
_LEAN_SAMPLER_BYTES = 11.0
_MODEST_SEQUENCES = 32
"""What servers that are short of memory are often told to run at once: the lower bound where nothing is said."""
_NON_TORCH_ALL = (0, 6, 6)
"""vLLM before 0.6.6 counted all that other libraries held as its own."""
_ENCODER_BYTES = 1.2 * _GIB
"""What profiling the encoder of a model that reads images adds, give or take."""


@dataclass(frozen=True, slots=True)
class Span:
    """A quantity in bytes, with bounds."""

    low: float
    likely: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Span:
        """A measured quantity."""
        return cls(value, value, value)

    def __add__(self, other: Span) -> Span:
        """Bounds add up: the terms have common causes."""
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def at_least(self, other: Span) -> Span:
        """The greater of both, bound by bound."""
        return Span(max(self.low, other.low), max(self.likely, other.likely), max(self.high, other.high))

    @property
    def measured(self) -> bool:
        """Whether it is no guess."""
        return self.low == self.high


@dataclass(frozen=True, slots=True)
class Overhead:
    """Terms on one GPU."""

    activations: Span
    """Peak of a forward pass or of the sampler, whichever is greater, above the weights."""
    non_torch: Span
    """CUDA context, cuBLAS, NCCL."""
    graphs: Span
    """CUDA graphs."""
    graphs_in_budget: bool
    """Whether they come out of the engine's share, or out of what it leaves free."""

    @property
    def budgeted(self) -> Span:
        """What comes out of the engine's share before the KV cache does."""
        total = self.activations + self.non_torch
        return total + self.graphs if self.graphs_in_budget else total


def overhead(
    model: Model, of: Engine, batch: Batch, *, tp: int = 1, graphs: bool = True, batch_stated: bool = True
) -> Overhead:
    """Predict all terms.

    Args:
        model: from `load_model`.
        of: engine and version.
        batch: tokens and sequences that it works on at once.
        tp: tensor-parallel ranks.
        graphs: whether CUDA graphs are captured.
        batch_stated: whether the batch is known, or what servers do where nothing is said.
    """
    activations = _forward(model, batch, tp).at_least(_sampler(model, of, batch, stated=batch_stated))
    if model.multimodal:
        activations = _with_encoder(activations, model, of, batch)
    return Overhead(
        activations=activations,
        non_torch=_non_torch(of, tp),
        graphs=_graphs(model, tp) if graphs else Span.exactly(0),
        graphs_in_budget=of.budgets_graphs,
    )


def _with_encoder(text: Span, model: Model, of: Engine, batch: Batch) -> Span:
    """What profiling the part that reads images adds."""
    cross = next((a for a in model.attentions if a.kind == "cross"), None)
    if cross is not None and not of.v1:
        # vLLM's first architecture fills every sequence with images; what they become is about twice as wide as text.
        likely = batch.sequences * cross.window * 3 * 2 * model.hidden_size * 2
        return text.at_least(Span(0.3 * likely, likely, 1.3 * likely))
    return text + Span(0, 0.1 * _GIB, 2 * _ENCODER_BYTES)


def _sampler(model: Model, of: Engine, batch: Batch, *, stated: bool) -> Span:
    """Logits are gathered: tensor parallelism does not make them fewer."""
    words = -(-(model.vocab_size or 128_000) // 64) * 64
    if model.multimodal and not of.v1:
        # vLLM's first architecture profiled as many sequences as had room for their images: few.
        return Span(0, 0.1 * _GIB, 42 * batch.sequences * words)
    each = next(size for since, size in _SAMPLER_BYTES if of.version >= since)
    least = batch.sequences if stated else min(batch.sequences, _MODEST_SEQUENCES)
    return Span(_LEAN_SAMPLER_BYTES * least * words, each * batch.sequences * words, 42 * batch.sequences * words)


def _forward(model: Model, batch: Batch, tp: int) -> Span:
    """Residual stream and feed-forward layer of one batch: three copies of each at the peak."""
    inner = max(model.ffn_size // tp, (3 * model.moe_width) // max(1, tp)) if model.moe_width else model.ffn_size // tp
    width = 3 * (model.hidden_size + inner) * 2
    likely = batch.tokens * width
    return Span(0.3 * likely, likely, 2 * likely)


def _non_torch(of: Engine, tp: int) -> Span:
    if of.name == "vllm" and of.version < _NON_TORCH_ALL:
        likely = 0.35 if tp == 1 else 0.95 * tp
        return Span(0.1 * _GIB, likely * _GIB, (0.3 + 1.2 * likely) * _GIB)
    if tp == 1:
        return Span(0.02 * _GIB, 0.13 * _GIB, 0.6 * _GIB)
    likely = 0.55 if tp <= 4 else 1.0
    return Span(0.1 * _GIB, likely * _GIB, (1.3 if tp <= 4 else 8.0) * _GIB)


def _graphs(model: Model, tp: int) -> Span:
    per_gpu = 0.3 * _GIB + 0.006 * _GIB * (model.layers + sum(state.layers for state in model.states)) * (1 + (tp > 1))
    return Span(0.1 * _GIB, per_gpu, 3 * per_gpu + 1.0 * _GIB)
