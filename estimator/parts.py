"""A model's parameters in parts: how many, and how they are shared out over GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "attention",
    "kv",
    "latent",
    "index",
    "state",
    "mlp",
    "experts",
    "shared",
    "router",
    "norm",
    "embedding",
    "head",
    "vision",
    "draft",
    "rope",
    "absorbed",
]
Split = Literal["tensor", "kv", "none", "vocab", "experts"]


@dataclass(frozen=True, slots=True)
class Part:
    """Parameters that are stored and shared out alike, over all layers."""

    role: Role
    params: int
    split: Split = "tensor"
    """"tensor": evenly over tensor-parallel ranks; "kv": over ranks up to the number of KV heads; "vocab": rows of the
    vocabulary; "experts": like "tensor", but over expert-parallel ranks where there are any; "none": whole on each."""
    kv_heads: int = 0
    layers: int = 0
    """Layers it is spread over; 0 for what stands before or after them."""
    width: int = 0
    """Width that kernels may pad, such as that of an expert; 0 where none does."""
    extra: bool = False
    """Whether engines make it while they load: no parameter of the checkpoint, and in 16 bits whatever the others."""

    def share(self, tp: int, ep: int = 1) -> float:
        """The part of it that one rank holds."""
        match self.split:
            case "none":
                return 1.0
            case "kv":
                return 1 / min(tp, max(1, self.kv_heads))
            case "experts" if ep > 1:
                return 1 / ep
            case _:
                return 1 / tp
