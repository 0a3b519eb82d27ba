"""What `kvgate plan --training` prints: components per GPU, GPUs that are enough, and the table people know."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import typer

from estimator.architecture import Model
from estimator.hardware import GPUS, Gpu
from estimator.plan_options import read_gpu
from estimator.training import Training, TrainingMemory, fewest_gpus, training_memory
from estimator.training_table import NOTES, SOURCE, training_table
from gateway.cli.bars import Segment, bar

_GIB, _GB = 2**30, 10**9
_CARDS_SHOWN = 8
_USABLE_SHARE = 0.9
"""Of a GPU's memory: fragments and temporary buffers take the rest."""


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """The components, and what they fit on."""

    model: Model
    how: Training
    memory: TrainingMemory
    gpu: Gpu | None
    fits: bool | None
    """None where no GPU was named."""
    enough: tuple[tuple[Gpu, int], ...]
    """GPUs of a kind with all shared out (stage 3), least memory first."""


def training_plan(model: Model, how: Training, gpu: str | None) -> TrainingPlan:
    """Add up, and look for GPUs that are enough.

    Raises:
        EstimatorError: as `training_memory`, and for an unknown GPU.
    """
    card = None if gpu is None else read_gpu(gpu)
    memory = training_memory(model, how)
    counted = (
        (each, fewest_gpus(model, how, _USABLE_SHARE * each.memory_bytes)) for each in ((card,) if card else GPUS)
    )
    enough = [(each, count) for each, count in counted if count is not None]
    enough.sort(key=lambda each: (each[1] * each[0].memory_gib, each[1]))
    fits = None if card is None else memory.total <= _USABLE_SHARE * card.memory_bytes
    return TrainingPlan(model, how, memory, card, fits, tuple(enough))


def training_json(found: TrainingPlan) -> dict[str, object]:
    """One object with stable keys."""
    return {
        "model": found.model.name,
        "training": asdict(found.how),
        "gpu": found.gpu.name if found.gpu else None,
        "fits": found.fits,
        "bytes_per_gpu": dict(found.memory.terms),
        "total_bytes_per_gpu": found.memory.total,
        "trained_params": found.memory.trained_params,
        "enough": [{"gpu": gpu.name, "gpus": count, "zero": 3} for gpu, count in found.enough],
        "notes": list(_notes(found)),
    }


def print_training(found: TrainingPlan) -> None:
    """One screen."""
    how, memory = found.how, found.memory
    sharing = f"{how.gpus} GPU{'s' if how.gpus > 1 else ''}" + (f", ZeRO stage {how.zero}" if how.zero else "")
    typer.echo(f"{found.model.name}: {how.method} training with {how.optimizer}, {sharing}")
    typer.echo(
        f"{how.batch} x {how.sequence_tokens:,} tokens per GPU and step, "
        f"{'with' if how.checkpointing else 'without'} checkpointing; "
        f"{memory.trained_params / 1e6:,.1f} million trained parameters"
    )
    if found.gpu is not None:
        usable = f"{_USABLE_SHARE * found.gpu.memory_gib:.1f} of {found.gpu.memory_gib:.1f} GiB"
        typer.echo(f"{'FITS' if found.fits else 'DOES NOT FIT'} on {found.gpu.name}, {usable} usable\n")
    whole = max(memory.total, float(found.gpu.memory_bytes) if found.gpu else 0.0)
    marks = "█▓▒░▚▞▪·"
    segments = [Segment(name, size, mark) for (name, size), mark in zip(memory.terms, marks, strict=True)]
    typer.echo(f"[{bar(segments, whole)}]")
    for each in segments:
        if each.size:
            typer.echo(f" {each.mark} {each.name:<16}{each.size / _GIB:>10.2f} GiB {each.size / _GB:>10.2f} GB")
    typer.echo(f"   {'per GPU in all':<16}{memory.total / _GIB:>10.2f} GiB {memory.total / _GB:>10.2f} GB\n")
    if found.enough:
        typer.echo("Enough with all shared out (ZeRO 3 or FSDP), least memory first:")
        for gpu, count in found.enough[:_CARDS_SHOWN]:
            typer.echo(f"  {count:>4} x {gpu.name}")
    else:
        typer.echo("No number of such GPUs is enough: activations alone do not fit; fewer tokens, or checkpointing.")
    for note in _notes(found):
        typer.echo(f"Note: {note}")


def _notes(found: TrainingPlan) -> tuple[str, ...]:
    """How far the known table is off, where the model is in it."""
    for cell in training_table():
        if cell.method == found.how.method and found.model.name.endswith(f"Llama-3.1-{cell.size}"):
            note = (
                f"The table people know ({SOURCE}) prints {cell.printed_gb:,} GB for this. 16-bit states alone are "
                f"{cell.states_gb:,.0f} GB ({cell.difference:+.0%}); with 32-bit copies, activations of 2,048 tokens "
                f"and libraries, all on one GPU, {cell.usual_gb:,.0f} GB."
            )
            return (note,)
    return ()


def table_json() -> dict[str, object]:
    """The nine cells."""
    cells = [{**asdict(cell), "difference": cell.difference} for cell in training_table()]
    return {"source": SOURCE, "cells": cells, "notes": list(NOTES)}


def print_table() -> None:
    """The nine cells, printed and computed."""
    typer.echo(f"Training memory of Llama 3.1, GB, as printed by {SOURCE}\n")
    typer.echo(f"{'':<6}{'':<7}{'printed':>9}{'16-bit states':>15}{'difference':>12}{'usual, in all':>15}")
    for cell in training_table():
        typer.echo(
            f"{cell.size:<6}{cell.method:<7}{cell.printed_gb:>9,}{cell.states_gb:>15,.1f}{cell.difference:>+12.0%}"
            f"{cell.usual_gb:>15,.1f}"
        )
    typer.echo("")
    for note in NOTES:
        typer.echo(f"Note: {note}")
