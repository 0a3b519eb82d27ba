"""Element types of a KV cache: what one value takes, and what stands beside the values of a head."""

from __future__ import annotations

from dataclasses import dataclass

from estimator.errors import EstimatorError


@dataclass(frozen=True, slots=True)
class KvFormat:
    """How keys and values are stored."""

    name: str
    element_bytes: float
    """Bytes of one value; block scales of packed formats are in it. Per-tensor scales cost nothing per token."""
    head_bytes: int = 0
    """Bytes beside each key head and each value head of one token: scales of their own."""
    latent_bytes: int = 0
    """Bytes of one token's latent where the format packs it in a way of its own; 0 where its elements are plain."""
    sparse_latent_bytes: int = 0
    """The same for latents with a sparse index beside them."""


def _formats() -> dict[str, KvFormat]:
    # Sparse MLA packs fp8 latents as 512 values, 4 scales and a 16-bit rotary part: 656 bytes; 352 in nvfp4 (vLLM).
    plain = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "f32": 4.0, "bf16": 2.0, "f16": 2.0}
    rows = [KvFormat(name, size) for name, size in plain.items()]
    rows += [KvFormat(name, 1.0, sparse_latent_bytes=656) for name in ("fp8", "fp8_e4m3", "fp8_e5m2", "fp8_inc")]
    rows += [
        KvFormat("fp8_ds_mla", 1.0, latent_bytes=656, sparse_latent_bytes=656),
        KvFormat("nvfp4_ds_mla", 0.5625, latent_bytes=352, sparse_latent_bytes=352),
        # vLLM: one 32-bit scale per head and token, for keys and for values.
        KvFormat("fp8_per_token_head", 1.0, head_bytes=4),
        KvFormat("int8_per_token_head", 1.0, head_bytes=4),
        KvFormat("int4_per_token_head", 0.5, head_bytes=4),
        KvFormat("nvfp4_4over6", 0.5625),
        KvFormat("nvfp4", 0.5625),  # 4 bits, and an 8-bit scale per 16 values
        KvFormat("int8", 1.0, head_bytes=4),  # LMDeploy: 16-bit scale and zero point per head and token
        KvFormat("int4", 0.5, head_bytes=4),
    ]
    # llama.cpp: blocks of 32 values with a 16-bit scale, "_1" with a 16-bit offset as well.
    blocks = {"q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18}
    rows += [KvFormat(name, size / 32) for name, size in blocks.items()]
    return {row.name: row for row in rows}


KV_FORMATS = _formats()
"""By the name that engines give them."""


def kv_format(name: str) -> KvFormat:
    """Look a format up.

    Raises:
        EstimatorError: for a name that is not in `KV_FORMATS`.
    """
    found = KV_FORMATS.get(name)
    if found is None:
        raise EstimatorError(f"KV dtype {name!r} is not known: use auto or one of {', '.join(KV_FORMATS)}.")
    return found
