"""The cheapest layouts of a model over all GPUs of the catalogue, and why one GPU fewer does not do.

Cheapest means least GPU memory in all, and of equals the most bandwidth: prices differ from day to day and place to
place, and none is assumed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from estimator.architecture import Model
from estimator.capacity import Setup
from estimator.engine import Batch
from estimator.errors import EstimatorError
from estimator.hardware import GPUS, Gpu
from estimator.placement import GPUS_PER_NODE, Placement, counts, place
from estimator.quantization import Quantization

_GPUS_MAX = 2 * GPUS_PER_NODE
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Stored:
    """A way to keep the weights."""

    name: str
    """As `--quant` takes it."""
    quantization: Quantization | None
    """None for the checkpoint's own."""
    needs_fp8: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to serve a model."""

    placement: Placement
    stored: str
    """What `--quant` says."""
    kv_dtype: str

    @property
    def memory_gib(self) -> float:
        """Of all its GPUs: what layouts are ordered by."""
        return self.placement.gpus * self.placement.total_bytes / _GIB

    @property
    def gpu_name(self) -> str:
        """Of the catalogue."""
        assert self.placement.gpu is not None
        return self.placement.gpu.name


@dataclass(frozen=True, slots=True)
class NoFit:
    """The most GPUs of a kind that are too few."""

    gpu: str
    gpus: int
    memory_gib: float
    """Of all of them."""
    stored: str
    reason: str


@dataclass(frozen=True, slots=True)
class Layouts:
    """What was found."""

    fitting: tuple[Layout, ...]
    """Least memory first."""
    too_small: tuple[NoFit, ...]
    """In the catalogue's order."""


def find_layouts(
    model: Model,
    setup: Setup,
    stored: Sequence[Stored],
    kv_dtypes: Sequence[str],
    batch_of: Callable[[Gpu], Batch | None] = lambda _: None,
    split: tuple[int, int] | None = None,
) -> Layouts:
    """Try every GPU, 1, 2, 4, 8 and 16 of it: the fewest that hold one request of the longest context.

    Args:
        model: from `load_model`.
        setup: all that is not tried.
        stored: ways to keep the weights.
        kv_dtypes: in the order in which they are wanted: a later one is shown only if it saves GPUs.
        batch_of: what runs at once on such a GPU; None for the engine's default.
        split: tp and pp, where they are not tried.

    Raises:
        EstimatorError: for a model without a description of its weights.
    """
    fitting: list[Layout] = []
    too_small: list[NoFit] = []
    for gpu in GPUS:
        for how in stored:
            if how.needs_fp8 and not gpu.fp8:
                continue
            tried = (split,) if split else counts(model, setup, 1 if gpu.unified else _GPUS_MAX)
            found, failed = _of_gpu(model, gpu, replace(setup, batch=batch_of(gpu)), how, kv_dtypes, tuple(tried))
            fitting += found
            too_small += failed
    if not fitting and not too_small:
        raise EstimatorError(f"No GPU of the catalogue computes with what is asked for {model.name}.")
    fitting.sort(key=lambda each: (each.memory_gib, -_bandwidth(each), each.gpu_name))
    return Layouts(tuple(fitting), tuple(too_small))


def _bandwidth(layout: Layout) -> float:
    gpu = layout.placement.gpu
    return gpu.bandwidth_gb_s * layout.placement.gpus if gpu else 0.0


def _of_gpu(
    model: Model,
    gpu: Gpu,
    setup: Setup,
    stored: Stored,
    kv_dtypes: Sequence[str],
    splits: Sequence[tuple[int, int]],
) -> tuple[list[Layout], list[NoFit]]:
    fitting: list[Layout] = []
    failed: NoFit | None = None
    for kv_dtype in kv_dtypes:
        if kv_dtype.startswith("fp8") and not gpu.fp8:
            continue
        fewest = fitting[0].placement.gpus if fitting else _GPUS_MAX + 1
        for tp, pp in splits:
            if tp * pp >= fewest:
                break
            how = replace(setup, tp=tp, pp=pp, quantization=stored.quantization, kv_dtype=kv_dtype)
            found = place(model, gpu, how)
            if found.fits:
                fitting.insert(0, Layout(found, stored.name, kv_dtype))
                break
            if kv_dtype == kv_dtypes[0]:
                failed = NoFit(gpu.name, found.gpus, found.gpus * gpu.memory_gib, stored.name, why_not(found))
    return fitting, [failed] if failed else []


def why_not(found: Placement) -> str:
    """Why a model does not fit, in a sentence with numbers; empty where it does."""
    if found.fits:
        return ""
    capacity = found.capacity
    weights, budget = capacity.weights / _GIB, capacity.budget / _GIB
    each = "" if found.gpus == 1 else " per GPU"
    if weights > found.total_bytes / _GIB:
        return f"weights of {weights:.1f} GiB{each} exceed its {found.total_bytes / _GIB:.1f} GiB"
    over = capacity.overhead.budgeted.likely / _GIB
    if not found.weights_fit:
        return f"weights {weights:.1f} + overhead {over:.1f} GiB{each} exceed the engine's {budget:.1f} GiB"
    longest, pool = found.tokens_max(), capacity.kv_pool.likely / _GIB
    return (
        f"{pool:.1f} GiB{each} left for KV hold one request of {longest:,} tokens, not of {capacity.context_tokens:,}"
    )
