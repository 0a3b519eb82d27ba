"""One row of a file of start-up logs, as a prediction needs it: model, GPU, settings, and what the log states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from estimator import EstimatorError, Model, catalog
from estimator.capacity import Measured, Setup
from estimator.engine import Batch, Engine, engine
from estimator.gguf_types import gguf_quantization, gguf_type
from estimator.hardware import Gpu, find_gpu
from estimator.hf_config import read_config
from estimator.quantization import Quantization, named_quantization

GIB = 2**30
_ASIDE = re.compile(r"\[.*?\]|\(.*?\)|\+.*")
_CLASS = re.compile(r"\((.+?)-class")
_PARAMS = re.compile(r"([\d.,]+) ([KMB])")
_SCALE = {"K": 1e3, "M": 1e6, "B": 1e9}
_OWN_MXFP4_SINCE = (0, 11)
"""vLLM before 0.11 used Marlin's kernels for mxfp4."""
_NESTED_BEFORE = (0, 7)
"""vLLM before 0.7 kept the scales of bitsandbytes quantised themselves."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one start-up before it."""

    id: str
    engine: Engine
    model: Model | None
    why_no_model: str
    gpu: Gpu | None
    setup: Setup
    measured: Measured
    """What the log states of everything but weights, pool and their sum."""
    raw: Mapping[str, Any]

    @property
    def other(self) -> Mapping[str, Any]:
        """Fields that only some logs have."""
        found: Mapping[str, Any] = self.raw.get("other") or {}
        return found


def read_row(raw: Mapping[str, Any], configs: Mapping[str, Model]) -> Row:
    """Read one line of the file.

    Args:
        raw: the parsed line.
        configs: models by name, for those that are not in the catalogue.
    """
    of = engine(raw["engine"], raw.get("engine_version"))
    other = raw.get("other") or {}
    model, why = _model(raw, configs)
    measured = Measured(
        activations=_bytes(_activation(raw, other)),
        non_torch=_bytes(other.get("non_torch_gib")),
        total=_bytes(_total(other)),
        graphs=_bytes(raw.get("graph_gib")) if of.budgets_graphs else None,
    )
    return Row(raw["id"], of, model, why, _gpu(raw), _setup(raw, of, model), measured, raw)


def number_of(fields: Mapping[str, Any], name: str) -> int | None:
    """A whole number that some logs give as text; None where it is neither."""
    text = str(fields.get(name) or "").replace(",", "")
    return int(text) if text.isdecimal() else None


def _bytes(gib: float | None) -> float | None:
    return None if gib is None else gib * GIB


def _activation(raw: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    if (stated := other.get("peak_activation_gib")) is not None:
        return float(stated)
    peak, loaded = other.get("peak_torch_gib"), raw.get("weights_gib")
    return None if peak is None or loaded is None else peak - loaded


def _total(other: Mapping[str, Any]) -> float | None:
    if (stated := other.get("total_gpu_gib")) is not None:
        return float(stated)
    if derived := other.get("total_gpu_gib_derived_from_cg_line"):
        return float(str(derived).rpartition("=")[2])
    return None


def _gpu(raw: Mapping[str, Any]) -> Gpu | None:
    name = raw.get("gpu")
    if not name:
        return None
    try:
        return find_gpu(name)
    except EstimatorError:
        return None


def _setup(raw: Mapping[str, Any], of: Engine, model: Model | None) -> Setup:
    other = raw.get("other") or {}
    words = f"{other.get('config', '')} {other.get('speculative', '')}".upper()
    drafts = re.search(r"MTP(\d*)", words) if "NO-MTP" not in words and "ASSISTANT" not in words else None
    dcp = re.search(r"DCP(\d+)", words)
    tokens, sequences = number_of(other, "max_num_batched_tokens"), number_of(other, "max_num_seqs")
    batch = Batch(tokens or 8192, sequences or 256) if tokens and sequences else None
    kv_dtype = raw.get("kv_dtype")
    return Setup(
        engine=of,
        tp=raw.get("tp") or 1,
        pp=raw.get("pp") or 1,
        dcp=other.get("decode_context_parallel_size") or (int(dcp.group(1)) if dcp else 1),
        context_tokens=raw.get("max_model_len"),
        utilization=raw.get("gpu_memory_utilization") or other.get("kv_cache_free_gpu_mem_fraction"),
        block_tokens=raw.get("block_size"),
        kv_dtype=kv_dtype if kv_dtype and kv_dtype != "bf16" else "auto",
        batch=batch,
        graphs=not other.get("enforce_eager", False),
        prefix_caching=other.get("prefix_caching", True),
        draft_layers=(model.draft_layers or 1) if drafts and model is not None and model.draft_layers else 0,
        quantization=_quantization(raw, of, model),
    )


def _quantization(raw: Mapping[str, Any], of: Engine, model: Model | None) -> Quantization | None:
    """What the log says of it; None where it says nothing: then the configuration's own holds."""
    said = raw.get("quant")
    if model is None:
        return None
    if of.name == "llama.cpp":
        found = gguf_type(said or "")
        return gguf_quantization(found, model) if found else None
    if model.quantization.method == "mxfp4":
        marlin = "marlin" in (said or "").lower() or of.version < _OWN_MXFP4_SINCE
        return named_quantization("mxfp4 (Marlin)") if marlin else None
    if not said:
        return None
    name = f"{said} {raw['model']}" if said == "compressed-tensors" else said
    if "bitsandbytes" in said and of.name == "vllm" and of.version < _NESTED_BEFORE:
        name = "bitsandbytes-nested"
    try:
        named = named_quantization(name)
    except EstimatorError:
        return None
    own = model.quantization.method
    same = own == named.method or (own == "mixed" and "modelopt" in said)
    return None if same else named


def _model(raw: Mapping[str, Any], configs: Mapping[str, Model]) -> tuple[Model | None, str]:
    name = str(raw["model"])
    named = _CLASS.search(name)
    plain = named.group(1) if named else _ASIDE.sub("", name).strip()
    for candidate in (name, plain, plain.replace("_", "/", 1)):
        if candidate in configs:
            return configs[candidate], ""
        try:
            found = catalog.find(candidate)
        except EstimatorError:
            variant = catalog.find_variant(candidate) if candidate else None
            if variant is None:
                continue
            found = variant
        model = _read(found.config, found.name, found.source)
        if raw["engine"] != "llama.cpp" or _same_size(raw, model):
            return model, ""
    if raw["engine"] == "llama.cpp" and (same := _by_size(raw)) is not None:
        return same, ""
    return None, f"model {name!r} is neither in the catalogue nor among the configurations"


_READ: dict[str, Model] = {}


def _read(config: Mapping[str, object], name: str, source: str) -> Model:
    if name not in _READ:
        _READ[name] = read_config(config, name, source)
    return _READ[name]


def header_params(raw: Mapping[str, Any]) -> float | None:
    """Parameters as the header of a GGUF file states them."""
    match = _PARAMS.match(str((raw.get("other") or {}).get("params") or ""))
    return float(match.group(1).replace(",", ".")) * _SCALE[match.group(2)] if match else None


def _text_params(model: Model) -> int:
    return sum(part.params for part in model.parts if part.role != "vision" and not part.extra)


def _same_size(raw: Mapping[str, Any], model: Model) -> bool:
    stated, text = header_params(raw), _text_params(model)
    return stated is None or not text or abs(text / stated - 1) < 0.03


def _by_size(raw: Mapping[str, Any]) -> Model | None:
    """A file without a telling name: the catalogue's model with as many parameters, layers and KV elements."""
    other = raw.get("other") or {}
    stated = header_params(raw)
    if stated is None:
        return None
    for name in catalog.names():
        entry = catalog.find(name)
        model = _read(entry.config, entry.name, entry.source)
        first = model.attentions[0] if len(model.attentions) == 1 else None
        if first is None or first.latent or first.layers != other.get("n_layer"):
            continue
        keys = other.get("n_embd_k_gqa")
        if keys in {None, first.kv_heads * first.key_dim} and abs(_text_params(model) / stated - 1) < 0.002:
            return model
    return None
