"""Weights as a checkpoint stores them, tensor by tensor, put in the place of those that follow from a configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from estimator.architecture import Model
from estimator.parts import Part, Role, Split

_SPLITS: Mapping[Role, Split] = {
    "kv": "kv", "latent": "none", "index": "none", "experts": "experts", "router": "none", "norm": "none",
    "embedding": "vocab", "head": "vocab",
}  # fmt: skip
"""How parts are shared out over ranks; those not named here evenly."""
_OUTSIDE: frozenset[Role] = frozenset({"embedding", "head", "vision"})
"""Parts that stand before or after the layers."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a checkpoint."""

    role: Role
    params: int
    """0 for what only scales others."""
    bytes: int


def with_stored_weights(model: Model, tensors: Iterable[Stored], method: str, layers: int) -> Model:
    """The same model with the parameters and the bits of these tensors, part by part.

    Draft layers are left out, as engines load them only where they are told to; a note gives their size.

    Args:
        model: what its configuration says.
        tensors: all tensors of the checkpoint.
        method: what the way of storing is called; empty where nothing is quantised.
        layers: how many there are.
    """
    params: dict[Role, int] = {}
    sizes: dict[Role, int] = {}
    for tensor in tensors:
        params[tensor.role] = params.get(tensor.role, 0) + tensor.params
        sizes[tensor.role] = sizes.get(tensor.role, 0) + tensor.bytes
    drafts = sizes.pop("draft", 0)
    known = {part.role: part for part in model.parts if not part.extra}
    made = [part for part in model.parts if part.extra]
    parts, bits = [], []
    for role, size in sizes.items():
        if not size:
            continue
        count = params[role] or size  # scales of a part that has no tensors of its own
        like = known.get(role)
        parts.append(
            Part(
                role,
                count,
                _SPLITS.get(role, "tensor"),
                kv_heads=max((attention.kv_heads for attention in model.attentions), default=0) if role == "kv" else 0,
                layers=0 if role in _OUTSIDE else layers,
                width=like.width if like and role == "experts" else 0,
            )
        )
        bits.append((role, 8 * size / count))
    total = sum(part.params for part in parts)
    mean = 8 * sum(sizes.values()) / total if total else 16.0
    how = replace(model.quantization, method=method, bits=mean, roles=frozenset(), other_bits=tuple(bits), kept=())
    note = f"Its draft layers take {drafts / 2**30:.2f} GiB more of the checkpoint, loaded only where they are used."
    notes = (*model.notes, note) if drafts else model.notes
    return replace(model, parts=(*parts, *made), parts_missing="", quantization=how, notes=notes)
