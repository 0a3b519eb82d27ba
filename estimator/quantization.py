"""How weights are stored: bits of a quantised weight with its scales, and which parts of a model stay in 16 bits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from estimator.config_fields import ConfigFields
from estimator.errors import EstimatorError
from estimator.parts import Role

_LINEAR: frozenset[Role] = frozenset({"attention", "kv", "latent", "index", "state", "mlp", "experts", "shared"})
"""What quantisation means by "all linear layers": embeddings, output, norms, routers and towers stay as they are."""
_USUAL = _LINEAR - {"state", "index"}
"""What those who quantise usually do: recurrent layers and indices stay as they are too."""
BITS = {
    "fp8": 8.0,
    "mxfp8": 8.25,
    "int8": 8.0,
    "awq": 4.15625,  # groups of 128 with a 16-bit scale and a 4-bit zero point
    "gptq": 4.15625,
    "gptq-int8": 8.1875,
    "int4": 4.125,
    "mxfp4": 4.25,  # an 8-bit scale per 32 values
    "nvfp4": 4.5,  # an 8-bit scale per 16 values
    "bitsandbytes": 4.5,  # a 32-bit scale per 64 values, as engines keep it once loaded
    "bitsandbytes-nested": 4.127,
    "bitsandbytes-int8": 8.0,
}
"""Bits of one quantised weight by method, with the scales of its usual group size."""
_STEPS = {("mxfp4", False): (256, 1), ("mxfp4", True): (128, 256)}
"""What kernels pad experts to, by method and whether they are Marlin's, which run where the GPU has none of its own."""
_EXPERTS_ONLY = ("mxfp4", "experts_int8", "moe_wna16")
_ROLE_WORDS: tuple[tuple[str, tuple[Role, ...]], ...] = (
    ("indexer", ("index",)),
    ("linear_attn", ("state",)),
    ("mixer", ("state",)),
    ("mamba", ("state",)),
    ("kv_a_proj", ("latent",)),
    ("q_a_proj", ("latent",)),
    ("attn", ("attention", "kv", "latent", "index")),
    ("shared_expert", ("shared",)),
    ("experts", ("experts",)),
    ("mlp.gate.", ("router",)),
    ("feed_forward.router", ("router",)),
    ("mlp", ("mlp",)),
    ("lm_head", ("head",)),
    ("embed_tokens", ("embedding",)),
)
_FP4_EXPERTS = "fp4"
_LAYER = re.compile(r"layers\.(\d+|\*)")


@dataclass(frozen=True, slots=True)
class Quantization:
    """Bits per weight, by part."""

    method: str = ""
    """Empty where nothing is quantised."""
    bits: float = 16.0
    """Bits of one quantised weight, scales in."""
    roles: frozenset[Role] = frozenset()
    """Parts that are quantised."""
    other_bits: tuple[tuple[Role, float], ...] = ()
    """Parts that are quantised to something else."""
    kept: tuple[tuple[Role, float], ...] = ()
    """Share of a quantised part that stays in 16 bits."""
    width_step: int = 1
    """What kernels pad the width of an expert to a multiple of."""
    hidden_step: int = 1
    """What they pad the width of its input to a multiple of."""

    def bits_of(self, role: Role) -> float:
        """Mean bits per weight of a part."""
        bits = dict(self.other_bits).get(role, self.bits if role in self.roles else 16.0)
        kept = dict(self.kept).get(role, 0.0)
        return kept * 16 + (1 - kept) * bits


UNQUANTIZED = Quantization()


def named_quantization(name: str, group_size: int | None = None) -> Quantization:
    """The usual form of a method.

    Args:
        name: as engines or checkpoints call it, such as "awq_marlin" or "compressed-tensors fp8".
        group_size: weights per scale, where it is not the usual 128.

    Raises:
        EstimatorError: for a method that is not known.
    """
    method = _method(name)
    if method is None:
        raise EstimatorError(f"Quantisation {name!r} is not known: use one of {', '.join(BITS)}.")
    bits = BITS[method]
    if group_size and method in {"awq", "gptq", "int4"}:
        bits = 4 + (16 if method == "int4" else 20) / group_size
    experts_only = any(name.lower().startswith(each) for each in _EXPERTS_ONLY)
    roles: frozenset[Role] = frozenset({"experts"}) if experts_only else _USUAL
    width, hidden = _STEPS.get((method, "marlin" in name.lower()), (1, 1))
    return Quantization(method, bits, roles, width_step=width, hidden_step=hidden)


def _method(name: str) -> str | None:
    low = name.lower()
    for words, method in (
        (("nvfp4",), "nvfp4"),
        (("mxfp4",), "mxfp4"),
        (("mxfp8",), "mxfp8"),
        (("gptq-int8", "gptq_int8", "gptq/int8"), "gptq-int8"),
        (("awq",), "awq"),
        (("gptq",), "gptq"),
        (("nested",), "bitsandbytes-nested"),
        (("bitsandbytes-8", "bitsandbytes-int8", "bnb-8"), "bitsandbytes-int8"),
        (("bitsandbytes", "bnb"), "bitsandbytes"),
        (("fp8", "w8a8", "fbgemm"), "fp8"),
        (("int8",), "int8"),
        (("int4", "w4a16", "wna16"), "int4"),
    ):
        if any(word in low for word in words):
            return method
    return None


def read_quantization(whole: ConfigFields, fields: ConfigFields) -> Quantization:
    """What a configuration says of its own quantisation; `UNQUANTIZED` where it says nothing.

    Raises:
        EstimatorError: for lists that are none.
    """
    said = whole.inner("quantization_config") or fields.inner("quantization_config")
    if said is None:
        return UNQUANTIZED
    if experts := fields.text("expert_dtype"):  # DeepSeek V4 says it beside
        said = ConfigFields(said.model, {**said.values, "expert_dtype": experts})
    found = _from_method(said)
    if found is None:
        return UNQUANTIZED
    if found.roles == _USUAL:  # a configuration lists what it leaves out
        found = replace(found, roles=_LINEAR)
    ignored = [*said.items("ignore"), *said.items("modules_to_not_convert"), *said.items("exclude_modules")]
    layers = fields.count_if_any("num_hidden_layers", "num_layers") or 1
    return replace(found, kept=_kept(ignored, layers, found.roles))


def _from_method(said: ConfigFields) -> Quantization | None:
    algo = said.text("quant_algo")
    method = algo if algo and algo != "MIXED_PRECISION" else said.text("quant_method")
    experts = said.text("moe_quant_algo")
    if algo == "MIXED_PRECISION" and (layers := said.inner("quantized_layers")) and not experts:
        return _mixed(layers.values)
    if method in {"compressed-tensors", "modelopt"}:
        return _grouped(said)
    group = said.count_if_any("group_size") if said.values.get("group_size") not in {-1, None} else None
    bits = said.count_if_any("bits", "w_bit", "num_bits")
    name = f"{method}-int8" if bits == 8 and method in {"gptq", "awq"} else method
    if method == "bitsandbytes" and said.has("load_in_8bit"):
        name = "bitsandbytes-int8"
    if not name or _method(name) is None:
        return None
    found = named_quantization(name, group)
    if experts or _FP4_EXPERTS in said.text("expert_dtype"):
        return replace(found, other_bits=(("experts", BITS[_method(experts) or "mxfp4"]),))
    return found


def _grouped(said: ConfigFields) -> Quantization | None:
    """compressed-tensors: bits, type and group size of the weights of its first group."""
    groups = said.inner("config_groups")
    first = next((g for g in groups.values.values() if isinstance(g, Mapping)), None) if groups else None
    if first is None:
        return named_quantization(said.text("quant_algo")) if said.text("quant_algo") else None
    weights = ConfigFields(said.model, first).inner("weights")
    if weights is None:
        return None
    bits = weights.count("num_bits")
    size = weights.count_if_any("group_size") if weights.has("group_size") else None
    if weights.text("type") == "float":
        method = "fp8" if bits == 8 else ("mxfp4" if size == 32 else "nvfp4")
        return replace(named_quantization(method), width_step=1)
    scale = 16 / size if size else 0.0
    return Quantization("int8" if bits == 8 else "int4", bits + scale, _LINEAR)


def _mixed(layers: Mapping[str, object]) -> Quantization:
    """Each layer's own: the first said of a part stands for all of it."""
    bits: dict[Role, float] = {}
    for name, how in layers.items():
        algo = ConfigFields("", how).text("quant_algo") if isinstance(how, Mapping) else ""
        method = _method(algo)
        for role in _roles(name):
            if method:
                bits.setdefault(role, BITS[method])
    return Quantization("mixed", 16.0, frozenset(), tuple(sorted(bits.items())))


def _roles(name: str) -> Sequence[Role]:
    low = name.replace("\\", "") + "."
    return next((roles for word, roles in _ROLE_WORDS if word in low), ())


def _kept(ignored: Sequence[object], layers: int, roles: frozenset[Role]) -> tuple[tuple[Role, float], ...]:
    """Shares of parts that a list of patterns leaves out; a pattern without a layer's number means all layers."""
    everywhere: set[Role] = set()
    numbers: dict[Role, set[int]] = {}
    for pattern in ignored:
        if not isinstance(pattern, str):
            continue
        match = _LAYER.search(pattern)
        rest = pattern[match.end() :] if match else pattern
        whole_layer = match is not None and not rest.strip(".*$")
        found = tuple(roles) if whole_layer else _roles(rest)
        if any(piece in rest for piece in ("norm", "bias", "embed_vision", "conv1d")):
            continue
        if match is None or match.group(1) == "*":
            everywhere.update(found)
        else:
            for role in found:
                numbers.setdefault(role, set()).add(int(match.group(1)))
    shares = {role: min(1.0, len(found) / layers) for role, found in numbers.items()}
    shares |= dict.fromkeys(everywhere, 1.0)
    return tuple(sorted((role, share) for role, share in shares.items() if role in roles))
