"""Models that are another's by name: quantised, as GGUF, or published by someone else."""

from __future__ import annotations

import re
from dataclasses import replace

from estimator.architecture import Model
from estimator.catalog import find_variant
from estimator.errors import EstimatorError
from estimator.gguf_types import gguf_quantization, gguf_type
from estimator.hf_config import read_config
from estimator.quantization import Quantization, named_quantization

_FILE_TYPE = re.compile(r"[-.:_](?:UD-)?(I?Q\d_\w+|B?F16|F32)?(?:\.gguf)?$", re.IGNORECASE)
"""How names of GGUF files end; repositories of several take a colon and the type after their name."""


def load_variant(name: str) -> Model | None:
    """The model that a name is a variant of, its weights stored as the name says; None where it is none.

    Its layers are the other's. A doubt says so where the name does not tell how the weights are stored.
    """
    typed = _FILE_TYPE.search(name)
    plain = name[: typed.start()] if typed else name
    entry = find_variant(plain)
    if entry is None:
        return None
    model = read_config(entry.config, name, entry.source)
    how = _stored(name, typed.group(1) if typed else None, model)
    notes = (*model.notes, f"Its layers are those of {entry.name}.")
    if how is None:
        doubt = f"The name does not say how its weights are stored: they are counted as those of {entry.name}."
        return replace(model, notes=notes, doubts=(*model.doubts, doubt))
    own = how.method == model.quantization.method
    return replace(model, notes=notes, quantization=model.quantization if own else how)


def _stored(name: str, file_type: str | None, model: Model) -> Quantization | None:
    if file_type or "gguf" in name.lower():
        known = gguf_type(file_type or "")
        return gguf_quantization(known, model) if known else None
    try:
        return named_quantization(name)
    except EstimatorError:
        return None
