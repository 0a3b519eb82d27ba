"""GGUF files: bits per weight of their types, and which type llama.cpp gives to which tensor of a mixed file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from estimator.architecture import Model
from estimator.errors import EstimatorError
from estimator.parts import Role
from estimator.quantization import Quantization

TYPE_BITS: Mapping[str, float] = {
    "F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_1": 6, "Q5_0": 5.5, "Q4_K": 4.5,
    "Q4_1": 5, "Q4_0": 4.5, "IQ4_NL": 4.5, "IQ4_XS": 4.25, "Q3_K": 3.4375, "IQ3_S": 3.4375, "IQ3_XXS": 3.0625,
    "Q2_K": 2.625, "IQ2_S": 2.5625, "IQ2_XS": 2.3125, "IQ2_XXS": 2.0625, "IQ1_M": 1.75, "IQ1_S": 1.5625, "MXFP4": 4.25,
}  # fmt: skip
"""Bits per weight of a tensor, scales in (ggml)."""
_MEAN_BITS: Mapping[str, float] = {
    "Q2_K": 3.16, "Q3_K_S": 3.64, "Q3_K_M": 4.0, "Q3_K_L": 4.3, "Q4_0": 4.66, "Q4_1": 5.12, "Q4_K_S": 4.67,
    "Q4_K_M": 4.89, "Q5_0": 5.59, "Q5_1": 6.03, "Q5_K_S": 5.57, "Q5_K_M": 5.7, "Q6_K": 6.56, "Q8_0": 8.5, "IQ1_S": 2.0,
    "IQ2_XXS": 2.38, "IQ2_XS": 2.59, "IQ3_XXS": 3.25, "IQ3_XS": 3.5, "IQ3_S": 3.66, "IQ3_M": 3.76, "IQ4_XS": 4.46,
    "IQ4_NL": 4.68, "F16": 16, "BF16": 16, "F32": 32, "MXFP4": 4.4,
}  # fmt: skip
"""Mean bits of whole files of an 8-billion model, for models of which nothing else is known (llama.cpp's own table)."""
_DEFAULTS: Mapping[str, str] = {
    "Q3_K_S": "Q3_K", "Q3_K_M": "Q3_K", "Q3_K_L": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K", "IQ3_XS": "IQ3_S", "IQ3_M": "IQ3_S", "IQ2_M": "IQ2_S", "Q2_K_S": "Q2_K",
}  # fmt: skip
_LOW = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS")
_WHOLE = ("F32", "F16", "BF16", "Q8_0")
_LOG_NAMES = (("medium", "M"), ("small", "S"), ("large", "L"))
_FUSED = ("Phi3", "PhiFor", "Falcon", "GPT2", "MPT", "Bloom")
"""Families whose files hold queries, keys and values in one tensor, which has types of its own."""
_FUSED_TYPES: Mapping[str, str] = {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}
_SUPER_BLOCK = 256
_FALLBACK: Mapping[str, str] = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "Q3_K": "IQ4_NL", "Q2_K": "IQ4_NL"}
"""For rows that are no multiple of a super-block of 256."""


_NUMBERS: Mapping[str, str] = {
    "0": "F32", "1": "F16", "2": "Q4_0", "3": "Q4_1", "7": "Q8_0", "8": "Q5_0", "9": "Q5_1", "10": "Q2_K",
    "11": "Q3_K_S", "12": "Q3_K_M", "13": "Q3_K_L", "14": "Q4_K_S", "15": "Q4_K_M", "16": "Q5_K_S", "17": "Q5_K_M",
    "18": "Q6_K", "32": "BF16",
}  # fmt: skip
"""A file's type as its header numbers it ("general.file_type")."""


def gguf_type(text: str) -> str | None:
    """A file's type from what llama.cpp prints of it, such as "mostly Q4_K - Medium"; None if it is none."""
    low = text.strip().lower()
    if low in _NUMBERS:
        return _NUMBERS[low]
    match = re.search(r"\b(i?q\d_(?:k|xxs|xs|nl|s|m|\d)(?:_[sml])?|bf16|f16|f32|mxfp4)\b", low)
    if match is None:
        return None
    name = match.group(1).upper()
    size = next((short for long, short in _LOG_NAMES if long in low), "")
    if size and name.endswith("_K"):
        wide = f"{name}_{size}"
        name = wide if wide in _MEAN_BITS else name
    return name if name in _MEAN_BITS else None


def mean_bits(file_type: str) -> float:
    """Bits per weight over a whole file, where only the number of parameters is known.

    Raises:
        EstimatorError: for a type that is not known.
    """
    if file_type not in _MEAN_BITS:
        raise EstimatorError(f"GGUF type {file_type!r} is not known: use one of {', '.join(_MEAN_BITS)}.")
    return _MEAN_BITS[file_type]


def gguf_quantization(file_type: str, model: Model) -> Quantization:
    """Bits of each part when llama.cpp quantises this model to a file of this type.

    Follows `llama_tensor_get_type`, with an importance matrix for the types that need one.

    Raises:
        EstimatorError: for a type that is not known.
    """
    mean_bits(file_type)
    layers = max(1, model.layers + sum(state.layers for state in model.states))
    kv_heads = model.attentions[0].kv_heads if model.attentions and not model.mla else model.attention_heads
    gqa = max(1, model.attention_heads // kv_heads)
    eight = _experts(model) == 8
    seventy = 60e9 < sum(part.params for part in model.parts) < 80e9 and not eight
    base = _DEFAULTS.get(file_type, file_type)

    def mean(pick: Callable[[int], str], width: int) -> float:
        return sum(TYPE_BITS[_fitted(pick(i), width)] for i in range(layers)) / layers

    hidden, inner = model.hidden_size or _SUPER_BLOCK, model.ffn_size or _SUPER_BLOCK
    value = mean(lambda i: _value(file_type, base, i, layers, gqa, eight, seventy), hidden)
    key = TYPE_BITS[_fitted("Q8_0" if eight and base not in _WHOLE else _key(file_type, base), hidden)]
    query = TYPE_BITS[_fitted(_key(file_type, base), hidden)]
    up = mean(lambda i: _up(file_type, base, i, layers), hidden)
    if any(model.architecture.startswith(each) for each in _FUSED):
        key = query = value = TYPE_BITS[_fitted(_FUSED_TYPES.get(file_type, base), hidden)]
    out = TYPE_BITS[_fitted(_output_projection(file_type, base, eight), hidden)]
    down = mean(lambda i: _down(file_type, base, i, layers), inner)
    feed = (2 * up + down) / 3
    head = _head(file_type, base)
    tied = not any(part.role == "head" for part in model.parts)
    words = head if tied else _words(file_type, base)
    bits: dict[Role, float] = {
        "attention": (query + out) / 2, "kv": (key + value) / 2, "latent": query, "index": query, "state": query,
        "mlp": feed, "experts": feed, "shared": feed, "router": 32, "norm": 32,
        "embedding": TYPE_BITS[_fitted(words, hidden)], "head": TYPE_BITS[_fitted(head, hidden)], "vision": 0.0,
    }  # fmt: skip
    return Quantization(file_type, TYPE_BITS[base], frozenset(), tuple(bits.items()))


def _experts(model: Model) -> int:
    for part in model.parts:
        if part.role == "router" and part.layers and model.hidden_size:
            return part.params // (part.layers * model.hidden_size)
    return 0


def _fitted(name: str, width: int) -> str:
    return _FALLBACK.get(name, name) if width % _SUPER_BLOCK else name


def _more_bits(i: int, layers: int) -> bool:
    return i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2


def _value(file: str, base: str, i: int, layers: int, gqa: int, eight: bool, seventy: bool) -> str:  # noqa: FBT001, C901
    if base in _WHOLE:
        return base
    if eight:
        return "Q8_0"
    found = base
    match file:
        case "Q2_K":
            found = "Q4_K" if gqa >= 4 else "Q3_K"
        case "IQ3_XXS":
            found = "Q4_K" if gqa >= 4 else "IQ3_S"
        case "IQ3_XS" | "IQ3_S" if gqa >= 4:
            found = "Q4_K"
        case "IQ3_M" | "Q3_K_M":
            found = "Q5_K" if file == "Q3_K_M" and i < 2 else "Q4_K"
        case "Q3_K_L":
            found = "Q5_K"
        case "IQ4_NL" | "IQ4_XS" if gqa >= 4:
            found = "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more_bits(i, layers):
            found = "Q6_K"
        case "Q4_K_S" if i < 4:
            found = "Q5_K"
        case _ if file in _LOW:
            found = "Q4_K" if gqa >= 4 else "Q2_K"
        case _:
            pass
    return "Q5_K" if seventy and found in {"Q3_K", "Q4_K"} else found


def _key(file: str, base: str) -> str:
    return {"IQ3_XXS": "IQ2_S", "IQ3_XS": "IQ3_XXS"}.get(file, base)


def _up(file: str, base: str, i: int, layers: int) -> str:
    return "IQ3_XXS" if file == "IQ3_XS" and layers // 8 <= i < 7 * layers // 8 else base


def _output_projection(file: str, base: str, eight: bool) -> str:  # noqa: FBT001
    if eight and file in {"Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ3_XS", "IQ3_XXS", "IQ3_S", "IQ4_XS"}:
        return "Q5_K"
    return {"Q2_K": "Q3_K", "IQ3_XXS": "IQ3_S", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K", "IQ3_M": "Q4_K"}.get(file, base)


def _down(file: str, base: str, i: int, layers: int) -> str:
    early = i < layers // 8
    match file:
        case "Q2_K":
            return "Q3_K"
        case "Q3_K_M":
            return "Q5_K" if i < layers // 16 else "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "Q4_K_M" | "Q5_K_M" if _more_bits(i, layers):
            return "Q6_K"
        case "Q4_K_S" | "IQ4_XS" | "IQ4_NL" if early:
            return "Q5_K"
        case "IQ3_M" if early:
            return "Q4_K"
        case _ if file in _LOW and early:
            return "Q2_K"
        case _:
            return base


def _head(file: str, base: str) -> str:
    if base in _WHOLE:
        return base
    return "Q5_K" if file in _LOW else "Q6_K"


def _words(file: str, base: str) -> str:
    if file in {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS"}:
        return "Q2_K"
    return "IQ3_S" if file in {"IQ2_S", "IQ2_M", "IQ3_XXS"} else base
