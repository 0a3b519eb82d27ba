"""The nine cells of training memory that people know, as printed, beside what the components add up to.

The cells come from "Llama 3.1 - 405B, 70B & 8B with multilinguality and long context", huggingface.co/blog/llama31, of
23 July 2024: a mode of its own, as no one rule gives all nine. They state neither batch nor optimiser. What comes
closest is pure 16-bit AdamW without activations for "full", and weights with 15 % on top for "LoRA".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from estimator.errors import EstimatorError
from estimator.model import load_model
from estimator.training import METHODS, Method, Training, training_memory

SOURCE = "huggingface.co/blog/llama31, 23 July 2024"
PRINTED_GB: Mapping[str, Mapping[Method, int]] = {
    "8B": {"full": 60, "lora": 16, "qlora": 6},
    "70B": {"full": 500, "lora": 160, "qlora": 48},
    "405B": {"full": 3250, "lora": 950, "qlora": 250},
}
NOTES = (
    "The cells name no batch, length or optimiser; GB are 10^9 bytes, of all GPUs together.",
    "Full: they fit 16-bit weights, gradients and AdamW states, 8 bytes a parameter, without activations.",
    "Mixed precision, which is what training usually is, takes 16 bytes a parameter: twice as much.",
    "LoRA: 8B is the 16-bit weights alone; 70B and 405B have about 15 % on top.",
)


@dataclass(frozen=True, slots=True)
class TrainingCell:
    """One cell, and the components beside it; GB are 10^9 bytes."""

    size: str
    method: Method
    printed_gb: int
    states_gb: float
    """Weights, gradients and AdamW states in 16 bits: what the cells come closest to."""
    usual_gb: float
    """The same with 32-bit copies, activations of one sequence of 2,048 tokens with checkpointing, and libraries."""

    @property
    def difference(self) -> float:
        """Of the states from what is printed, relative."""
        return self.states_gb / self.printed_gb - 1


def printed_gb(size: str, method: Method) -> int:
    """A cell as printed: the table's own mode.

    Raises:
        EstimatorError: for a size that the table does not have.
    """
    if size not in PRINTED_GB:
        raise EstimatorError(f"The table has no row {size!r}: use one of {', '.join(PRINTED_GB)}.")
    return PRINTED_GB[size][method]


def training_table() -> tuple[TrainingCell, ...]:
    """Nine cells, by rows."""
    return tuple(_cell(size, method) for size in PRINTED_GB for method in METHODS)


def _cell(size: str, method: Method) -> TrainingCell:
    model = load_model(f"meta-llama/Meta-Llama-3.1-{size}")
    pure = training_memory(model, Training(method, mixed=False))
    usual = training_memory(model, Training(method))
    return TrainingCell(size, method, printed_gb(size, method), pure.states / 1e9, usual.total / 1e9)
