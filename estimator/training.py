"""Memory of training: weights, gradients, optimiser, adapters and activations on each GPU, from a model's parts.

Laws: mixed precision keeps 2 bytes of weights, 2 of gradients, 4 of a 32-bit copy and the optimiser's states per
trained parameter; ZeRO and FSDP divide first the states and the copy, then gradients, then weights, over the GPUs
that hold copies of the model. Source: Rajbhandari et al., "ZeRO", 2020, arXiv 1910.02054, section 3. Activations of a
layer are 34 bytes per token and unit of width with flash attention, 2 with checkpointing, which computes the rest
anew. Source: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer Models", 2022, arXiv
2205.05198, section 4. All sizes are bytes on one GPU. Temporary buffers and fragments come on top: leave a tenth
free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from estimator.architecture import Model
from estimator.errors import EstimatorError
from estimator.quantization import UNQUANTIZED, named_quantization
from estimator.weights import weights

Method = Literal["full", "lora", "qlora"]
METHODS: tuple[Method, ...] = ("full", "lora", "qlora")
OPTIMIZERS: Mapping[str, tuple[float, float]] = {
    "adamw": (8.0, 4.0),
    "adamw-8bit": (2.06, 2.06),
    "lion": (4.0, 2.0),
    "sgd-momentum": (4.0, 2.0),
    "sgd": (0.0, 0.0),
    "adafactor": (0.01, 0.01),
}
"""Bytes of states per trained parameter: beside 32-bit copies, and where everything is kept in 16 bits.

Two states, one or none; in 8 bits with a 32-bit scale per 256 values (Dettmers et al. 2021, arXiv 2110.02861);
Adafactor keeps a row and a column of each matrix (Shazeer and Stern 2018, arXiv 1804.04235).
"""
_LAYER_BYTES, _CHECKPOINT_BYTES = 34, 2
_LOGITS_BYTES = 8
"""Per word and token: 16 bits, 32 bits for the loss, and their gradient in 16."""
_LIBRARIES_BYTES = 1.5e9
"""CUDA context, cuBLAS, NCCL: 1 to 2 GB."""
_COUNT_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Training:
    """How a model is trained."""

    method: str = "full"
    """One of `METHODS`."""
    optimizer: str = "adamw"
    mixed: bool = True
    """Whether 32-bit copies of the trained parameters are kept; False for "pure bf16"."""
    batch: int = 1
    """Sequences per GPU and step."""
    sequence_tokens: int = 2048
    checkpointing: bool = True
    zero: int = 0
    """ZeRO stage; 3 is FSDP's full sharding."""
    gpus: int = 1
    """GPUs that each work on sequences of their own."""
    rank: int = 16
    """Of the adapters."""


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on one GPU."""

    weights: float
    gradients: float
    master: float
    """32-bit copy of what is trained."""
    optimizer: float
    activations: float
    logits: float
    gathered: float
    """Whole layers that sharded weights are gathered into for a moment: this one and the next."""
    libraries: float
    trained_params: float
    """Of the whole model, adapters only where there are some."""

    @property
    def total(self) -> float:
        """Of all terms."""
        return sum(size for _, size in self.terms)

    @property
    def states(self) -> float:
        """What stays from step to step: all but activations, what is gathered, and libraries."""
        return self.weights + self.gradients + self.master + self.optimizer

    @property
    def terms(self) -> tuple[tuple[str, float], ...]:
        """Each with its name."""
        return (
            ("weights", self.weights),
            ("gradients", self.gradients),
            ("32-bit copy", self.master),
            ("optimiser", self.optimizer),
            ("activations", self.activations),
            ("logits", self.logits),
            ("gathered layers", self.gathered),
            ("libraries", self.libraries),
        )


def training_memory(model: Model, how: Training) -> TrainingMemory:
    """Add up the components.

    Args:
        model: from `load_model`.
        how: method, optimiser, batch and sharding.

    Raises:
        EstimatorError: for a model without a description of its weights, and for what is not known or out of range.
    """
    _check(model, how)
    params = sum(part.params for part in model.parts if not part.extra)
    trained = float(params) if how.method == "full" else adapter_params(model, how.rank)
    stored = named_quantization("bitsandbytes-nested") if how.method == "qlora" else UNQUANTIZED
    base = float(weights(model, quantization=stored, loaded=False).bytes_per_gpu)
    if how.method != "full":
        base += 2 * trained
    beside_copies, pure = OPTIMIZERS[how.optimizer]
    layers = _layers(model)
    tokens = how.batch * how.sequence_tokens
    per_layer = tokens * model.hidden_size
    kept = layers * _CHECKPOINT_BYTES + _LAYER_BYTES if how.checkpointing else layers * _LAYER_BYTES
    divided = [how.gpus if how.zero >= stage else 1 for stage in (1, 2, 3)]
    return TrainingMemory(
        weights=base / divided[2],
        gradients=2 * trained / divided[1],
        master=4 * trained / divided[0] if how.mixed else 0.0,
        optimizer=trained * (beside_copies if how.mixed else pure) / divided[0],
        activations=float(per_layer * kept),
        logits=float(tokens * model.vocab_size * _LOGITS_BYTES),
        gathered=2 * base / layers if divided[2] > 1 else 0.0,
        libraries=_LIBRARIES_BYTES,
        trained_params=trained,
    )


def fewest_gpus(model: Model, how: Training, memory_bytes: float, gpus_max: int = 1024) -> int | None:
    """GPUs of this size that the training fits on with all shared out (stage 3), doubling; None where it never does.

    Raises:
        EstimatorError: as `training_memory`.
    """
    gpus = 1
    while gpus <= gpus_max:
        sharded = replace(how, gpus=gpus, zero=3)
        if training_memory(model, sharded).total <= memory_bytes:
            return gpus
        gpus *= 2
    return None


def adapter_params(model: Model, rank: int) -> float:
    """Parameters of adapters on every linear layer but experts: `rank` times the sum of its sides.

    Latent attention is counted as if queries, latents and output were as wide as the model.
    """
    hidden, total = model.hidden_size, 0
    for attention in model.attentions:
        if attention.latent:
            sides = 4 * 2 * hidden
        else:
            query = model.attention_heads * attention.key_dim
            out = model.attention_heads * attention.value_dim
            key, value = attention.kv_heads * attention.key_dim, attention.kv_heads * attention.value_dim
            sides = 4 * hidden + query + key + value + out
        total += attention.layers * sides
    total += sum(state.layers * 4 * hidden for state in model.states)
    if not model.moe_width:
        total += _layers(model) * 3 * (hidden + model.ffn_size)
    return float(rank * total)


def _layers(model: Model) -> int:
    return max(1, model.layers + sum(state.layers for state in model.states))


def _check(model: Model, how: Training) -> None:
    if how.method not in METHODS:
        raise EstimatorError(f"Training {how.method!r} is not known: use one of {', '.join(METHODS)}.")
    if how.optimizer not in OPTIMIZERS:
        raise EstimatorError(f"Optimiser {how.optimizer!r} is not known: use one of {', '.join(OPTIMIZERS)}.")
    for name, value in (
        ("batch", how.batch),
        ("sequence_tokens", how.sequence_tokens),
        ("gpus", how.gpus),
        ("rank", how.rank),
    ):
        if not 1 <= value <= _COUNT_MAX:
            raise EstimatorError(f"{name} is {value:,}: it must be from 1 to {_COUNT_MAX:,}.")
    if not 0 <= how.zero <= 3:
        raise EstimatorError(f"zero is {how.zero}: it must be a stage from 0 to 3.")
    if how.sequence_tokens > model.context_tokens:
        raise EstimatorError(
            f"sequence_tokens is {how.sequence_tokens:,}: {model.name} reaches {model.context_tokens:,} tokens."
        )
    if not model.hidden_size or not model.vocab_size:
        raise EstimatorError(f"The configuration of {model.name} names no hidden_size or no vocab_size.")
