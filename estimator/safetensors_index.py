"""Reads what a checkpoint in safetensors stores from its index and its files' headers, never their data."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from estimator.architecture import Model
from estimator.checkpoint import Stored, with_stored_weights
from estimator.errors import EstimatorError
from estimator.parts import Role
from estimator.weights import weights

INDEX_NAME = "model.safetensors.index.json"
_HEADER_BYTES_MAX = 64 * 2**20
_FILES_MAX, _DIMENSIONS_MAX, _SIZE_MAX = 2048, 16, 2**50
_BITS: Mapping[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_PACKED = frozenset({"I32", "U8", "I8", "I64"})
"""Types that hold quantised weights, several in one element."""
_SCALES = ("scale", "zero", "g_idx", "absmax", "quant_map", "quant_state", "weight_shape", "amax")
"""Parts of the names of tensors that belong to quantised weights."""
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_ROLES: tuple[tuple[str, Role], ...] = (
    ("mtp.", "draft"), ("vision", "vision"), ("visual", "vision"), ("image", "vision"), ("audio", "vision"),
    ("multi_modal", "vision"), ("mm_projector", "vision"), ("lm_head", "head"), ("norm", "norm"),
    ("embed", "embedding"), ("wte", "embedding"), ("indexer", "index"), ("linear_attn", "state"),
    ("kv_a_proj", "latent"), ("q_a_proj", "latent"), ("kv_b_proj", "attention"), ("k_proj", "kv"), ("v_proj", "kv"),
    ("q_proj", "attention"), ("o_proj", "attention"), ("attn", "attention"), ("attention", "attention"),
    ("shared_expert", "shared"), ("experts", "experts"), ("router", "router"), (".gate.", "router"), ("mlp", "mlp"),
    ("feed_forward", "mlp"), ("_proj", "mlp"), ("mixer", "state"), ("mamba", "state"), ("conv", "state"),
)  # fmt: skip
"""What tensors are, by the first of these that is in their name; else norms, which every rank has whole."""


def with_checkpoint(model: Model, folder: Path, index: Path | None = None) -> Model:
    """The model with the weights that its folder stores; as it was where there are none.

    An index whose files are not there gives the size of the whole, and what the configuration says is scaled to it.

    Args:
        model: from the folder's `config.json`.
        folder: where the files are.
        index: of the files, where it has another name than `model.safetensors.index.json`.

    Raises:
        EstimatorError: naming file and field, where some files are missing or one cannot be read.
    """
    path = index or folder / INDEX_NAME
    if index is None and not path.is_file():
        files = sorted(folder.glob("*.safetensors"))[: _FILES_MAX + 1]
        if not files:
            return model
    else:
        content = _object(path)
        files = _listed(path, content)
        missing = [file.name for file in files if not file.is_file()]
        if len(missing) == len(files):
            return _scaled(model, path, content)
        if missing:
            which = f"{missing[0]}, which is not there ({len(missing)} of {len(files)} missing)"
            raise EstimatorError(f"{path} lists in 'weight_map' the file {which}.")
    if len(files) > _FILES_MAX:
        raise EstimatorError(f"{folder} has more than {_FILES_MAX:,} files of weights.")
    layers = max((part.layers for part in model.parts), default=0)
    tensors = [tensor for file in files for tensor in _tensors(file, model, layers)]
    return with_stored_weights(model, tensors, model.quantization.method, layers)


def _object(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            content = file.read(_HEADER_BYTES_MAX + 1)
    except OSError as error:
        raise EstimatorError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > _HEADER_BYTES_MAX:
        raise EstimatorError(f"{path} has more than {_HEADER_BYTES_MAX:,} bytes: it is no index.")
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EstimatorError(f"{path} holds no valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise EstimatorError(f"{path} holds no JSON object.")
    return found


def _listed(path: Path, content: Mapping[str, object]) -> list[Path]:
    listed = content.get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise EstimatorError(f"{path} has no 'weight_map': it is no safetensors index.")
    names = set()
    for tensor, name in listed.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise EstimatorError(f"{path} names {str(name)[:60]!r} as the file of {tensor[:60]!r} in 'weight_map'.")
        names.add(name)
    return [path.with_name(name) for name in sorted(names)]


def _scaled(model: Model, path: Path, content: Mapping[str, object]) -> Model:
    metadata = content.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < _SIZE_MAX or size != int(size):
        raise EstimatorError(f"{path} has no usable 'metadata.total_size': it is {size!r}.")
    listed = content["weight_map"]
    names = [str(name) for name in listed] if isinstance(listed, dict) else []
    if not model.parts:
        whole = Stored("mlp", int(8 * size / model.quantization.bits), int(size))
        return with_stored_weights(model, [whole], model.quantization.method, 0)
    layers = max((part.layers for part in model.parts), default=0)
    drafts = model.draft_layers if any(_role(name, layers) == "draft" for name in names) else 0
    predicted = weights(model, drafts=drafts, loaded=False)
    factor = size / predicted.bytes_per_gpu
    bits = tuple((part.role, factor * model.quantization.bits_of(part.role)) for part in model.parts if not part.extra)
    note = f"Its weights are those of its configuration, scaled by {factor:.3f} to the index's total size."
    how = replace(model.quantization, other_bits=tuple(dict(bits).items()), roles=frozenset(), kept=())
    return replace(model, quantization=how, notes=(*model.notes, note))


def _tensors(path: Path, model: Model, layers: int) -> Iterator[Stored]:
    """Every tensor of one file. Weights of 32 bits are served in 16 where the model is."""
    few = 4 if model.quantization.bits < 7 else 8
    for name, entry in _header(path).items():
        if name == "__metadata__":
            continue
        kind, elements, size = _entry(path, name, entry)
        params = elements
        if any(word in name for word in _SCALES):
            params = 0
        elif model.quantization.method and kind in _PACKED:
            params = 8 * size // few
        elif not model.quantization.method and kind in {"F32", "F64"}:
            size = 2 * elements
        yield Stored(_role(name, layers), params, size)


def _header(path: Path) -> Mapping[str, object]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _HEADER_BYTES_MAX:
                raise EstimatorError(f"{path} states a header of {length:,} bytes: it is no safetensors file.")
            content = file.read(length)
    except OSError as error:
        raise EstimatorError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) < length:
        raise EstimatorError(f"{path} is cut off: its header has {len(content):,} of {length:,} bytes.")
    return _parsed(path, content)


def _entry(path: Path, name: str, entry: object) -> tuple[str, int, int]:
    """Type, elements and bytes of a tensor, which must agree."""
    values = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = values.get("dtype"), _sizes(values.get("shape")), _sizes(values.get("data_offsets"))
    if not isinstance(kind, str) or kind not in _BITS:
        raise EstimatorError(f"{path}: 'dtype' of {name[:80]!r} is {str(kind)[:60]!r}, which is not known.")
    if shape is None or offsets is None or len(offsets) != 2:
        raise EstimatorError(f"{path}: 'shape' or 'data_offsets' of {name[:80]!r} are no lists of sizes.")
    elements, size = math.prod(shape), offsets[1] - offsets[0]
    if size < 0 or 8 * size != elements * _BITS[kind]:
        raise EstimatorError(f"{path}: 'data_offsets' of {name[:80]!r} span {size:,} bytes, not what its shape takes.")
    return kind, elements, size


def _sizes(value: object) -> list[int] | None:
    """A short list of sizes; None for anything else."""
    if not isinstance(value, list) or len(value) > _DIMENSIONS_MAX:
        return None
    return value if all(type(size) is int and 0 <= size < _SIZE_MAX for size in value) else None


def _role(name: str, layers: int) -> Role:
    match = _LAYER.search(name)
    found: Role = next((role for word, role in _ROLES if word in f".{name}"), "norm")
    return "draft" if match and 0 < layers <= int(match[1]) and found != "vision" else found
