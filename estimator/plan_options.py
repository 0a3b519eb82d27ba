"""What `plan` may be told, and how it is read: names as people type them, and numbers within their bounds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import TypedDict

from estimator.architecture import Model
from estimator.capacity import Setup
from estimator.engine import NEWEST_VLLM, Batch, Engine, default_batch, engine
from estimator.errors import EstimatorError
from estimator.gguf_types import gguf_quantization, gguf_type
from estimator.hardware import GPUS, Gpu, find_gpu
from estimator.kv_formats import kv_format
from estimator.parts import Role
from estimator.quantization import BITS, UNQUANTIZED, Quantization, named_quantization
from estimator.startup_log import StartupTerms

_ENGINE_NAMES = {"llamacpp": "llama.cpp", "trtllm": "tensorrt-llm"}
_ENGINES = ("vllm", "sglang", "llamacpp", "trtllm")
_DTYPES = {
    "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16", "fp16": "float16", "half": "float16",
    "float32": "float32", "fp32": "float32", "float": "float32",
}  # fmt: skip
_UNQUANTIZED = ("none", "bf16", "fp16", "bfloat16", "float16")
_ALL_ROLES: frozenset[Role] = frozenset(
    ("attention", "kv", "latent", "index", "state", "mlp", "experts", "shared", "router", "norm", "embedding", "head",
     "vision", "draft", "rope", "absorbed")
)  # fmt: skip
_MONTH = re.compile(r"20\d\d-\d\d")
_COUNT_MAX = 2**31 - 1
_GPUS_MAX = 1024
_LLAMA_BATCH = Batch(512, 1)


class PlanOptions(TypedDict, total=False):
    """What `plan` may be told; what is left out is the engine's default, or is looked for."""

    gpus: int | None
    """GPUs in all; more than one copy's are used for further copies."""
    tp: int | None
    pp: int | None
    dtype: str
    """Of weights that are not quantised, and of activations."""
    quant: str
    """A method, such as "fp8" or "awq", a GGUF type, "none", or "auto" for the checkpoint's own."""
    kv_dtype: str
    max_model_len: int | None
    max_num_seqs: int | None
    max_num_batched_tokens: int | None
    gpu_memory_utilization: float | None
    engine: str | None
    """"vllm", "sglang", "llamacpp" or "trtllm"."""
    engine_version: str | None
    enforce_eager: bool
    """No CUDA graphs."""
    startup_log: Iterable[str] | None
    """Lines of an engine's start-up log: what it states takes the place of what is predicted."""


def read_engine(options: PlanOptions, log: StartupTerms | None) -> tuple[Engine, tuple[str, ...]]:
    """The engine and its version: as told, as the log states it, or vLLM's newest.

    Raises:
        EstimatorError: for an engine or version that cannot be read.
    """
    said = options.get("engine") or (log.engine if log and log.engine else "vllm")
    name = _ENGINE_NAMES.get(said.lower(), said.lower())
    if name not in {_ENGINE_NAMES.get(each, each) for each in _ENGINES}:
        raise EstimatorError(f"Engine {said!r} is not known: use one of {', '.join(_ENGINES)}.")
    version = options.get("engine_version") or (log.version if log else None)
    found = engine(name, version)
    if options.get("engine_version") and found.dated and not _MONTH.search(version or ""):
        raise EstimatorError(f'Engine version {version!r} cannot be read: write it like "0.22.1", or as a month.')
    newest = ".".join(str(part) for part in NEWEST_VLLM[:2])
    if name == "vllm" and found.version[:2] > NEWEST_VLLM[:2]:
        return found, (f"vLLM {version} is newer than what is known: the rules of {newest} are used.",)
    if name == "vllm" and found.dated:
        return found, (f"No version was named: vLLM {newest} is assumed.",)
    return found, ()


def read_gpu(name: str) -> Gpu:
    """A GPU of the catalogue.

    Raises:
        EstimatorError: where it is not in it, with the nearest names that are.
    """
    try:
        return find_gpu(name)
    except EstimatorError as error:
        known = {_plain(each): gpu.name for gpu in GPUS for each in (gpu.name, *gpu.aliases)}
        near = dict.fromkeys(known[each] for each in get_close_matches(_plain(name), known, n=5, cutoff=0.4))
        hint = f"did you mean {', '.join(near)}?" if near else f"it holds {', '.join(gpu.name for gpu in GPUS)}."
        raise EstimatorError(f"GPU {name!r} is not in the catalogue: {hint}") from error


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+|nvidia|geforce|amd", "", name.lower())


def read_setup(model: Model, of: Engine, options: PlanOptions, log: StartupTerms | None) -> Setup:
    """How the model is served, but for its batch and how it is cut.

    Raises:
        EstimatorError: for what is not known or out of range.
    """
    check_numbers(options)
    context = options.get("max_model_len")
    if context is not None and context > model.context_tokens:
        raise EstimatorError(
            f"max_model_len is {context:,}: {model.name} reaches no further than {model.context_tokens:,} tokens."
        )
    share = options.get("gpu_memory_utilization")
    kv_dtype = options.get("kv_dtype", "auto")
    if kv_dtype != "auto":
        kv_format(kv_dtype)
    return Setup(
        of,
        context_tokens=context or (log.context_tokens if log else None),
        utilization=share if share is not None else log.utilization if log else None,
        block_tokens=log.block_tokens if log else None,
        kv_dtype=kv_dtype,
        graphs=not options.get("enforce_eager", False),
        quantization=read_quant(model, options),
    )


def check_numbers(options: PlanOptions) -> None:
    """Accept only numbers that engines take.

    Raises:
        EstimatorError: naming the field and its value.
    """
    for name, value, most in (
        ("gpus", options.get("gpus"), _GPUS_MAX),
        ("tp", options.get("tp"), _GPUS_MAX),
        ("pp", options.get("pp"), _GPUS_MAX),
        ("max_model_len", options.get("max_model_len"), _COUNT_MAX),
        ("max_num_seqs", options.get("max_num_seqs"), _COUNT_MAX),
        ("max_num_batched_tokens", options.get("max_num_batched_tokens"), _COUNT_MAX),
    ):
        if value is not None and not 1 <= value <= most:
            raise EstimatorError(f"{name} is {value:,}: it must be from 1 to {most:,}.")
    share = options.get("gpu_memory_utilization")
    if share is not None and not (math.isfinite(share) and 0 < share <= 1):
        raise EstimatorError(f"gpu_memory_utilization is {share:g}: it must be above 0 and at most 1.")


def read_dtype(model: Model, options: PlanOptions) -> Model:
    """The model as it computes where a dtype is said.

    Raises:
        EstimatorError: for a dtype that is none; 8 bits and fewer are a quantisation.
    """
    said = options.get("dtype", "auto")
    if said == "auto":
        return model
    if said.lower() not in _DTYPES:
        raise EstimatorError(f"dtype {said!r} is not known: use auto, bfloat16, float16 or float32 (less is --quant).")
    return replace(model, dtype=_DTYPES[said.lower()])


def read_quant(model: Model, options: PlanOptions) -> Quantization | None:
    """How the weights are stored; None for the checkpoint's own way.

    Raises:
        EstimatorError: for a method that is not known.
    """
    said = options.get("quant", "auto")
    if said == "auto":
        wide = options.get("dtype", "auto").lower() in {"float32", "fp32", "float"} and not model.quantization.method
        return Quantization("float32", 32.0, _ALL_ROLES) if wide else None
    if said.lower() in _UNQUANTIZED:
        return UNQUANTIZED
    if (kind := gguf_type(said)) is not None:
        return gguf_quantization(kind, model)
    try:
        return named_quantization(said)
    except EstimatorError as error:
        raise EstimatorError(
            f"Quantisation {said!r} is not known: use auto, none, a GGUF type such as Q4_K_M, or one of "
            f"{', '.join(BITS)}."
        ) from error


def read_batch(model: Model, setup: Setup, options: PlanOptions, memory_gib: float, gpu: Gpu | None) -> Batch | None:
    """What runs at once, where some of it is said; None for the engine's default."""
    sequences, tokens = options.get("max_num_seqs"), options.get("max_num_batched_tokens")
    if sequences is None and tokens is None:
        return None
    usual = _LLAMA_BATCH
    if setup.engine.name != "llama.cpp":
        a100 = gpu is not None and gpu.name.startswith("A100")
        context = setup.context_tokens or model.context_tokens
        usual = default_batch(setup.engine, memory_gib, a100=a100, context_tokens=context, multimodal=model.multimodal)
    return Batch(tokens or usual.tokens, sequences or usual.sequences)
