"""Widely served open models by Hugging Face id: the fields of their configurations that decide memory."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TypedDict

from estimator.errors import EstimatorError

_FILE = Path(__file__).with_name("models.json")
_PIECES = re.compile(r"[a-z]+|\d+")
_TUNED = frozenset({"instruct", "chat", "it", "hf", "base", "pt", "meta", "text", "ct", "mtp"})
"""Parts of a name that say how a model was trained or published: its architecture is the same without them."""
_STORED = frozenset(
    {
        "awq", "gptq", "gguf", "bnb", "fp8", "fp4", "nvfp4", "mxfp4", "int4", "int8", "w4a16", "w8a8", "w8a16", "4bit",
        "8bit", "bf16", "fp16", "f16", "dynamic", "quantized", "marlin", "mlx", "exl2", "unsloth",
    }
)  # fmt: skip
"""Parts that say how its weights are stored."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model's configuration, reduced, with where and when it was taken from."""

    name: str
    config: dict[str, object]
    source: str


class _Row(TypedDict):
    source: str
    config: dict[str, object]
    aliases: list[str]


class _File(TypedDict):
    date: str
    sources: dict[str, str]
    models: dict[str, _Row]


def names() -> tuple[str, ...]:
    """All ids, sorted."""
    return tuple(sorted(_read()["models"], key=str.lower))


def find(name: str) -> CatalogueEntry:
    """Look a model up by its id or an alias of it, with or without owner, in any case.

    Raises:
        EstimatorError: where it is not in the catalogue, with the nearest names that are.
    """
    keys = _keys()
    full = keys.get(name.lower()) or _variants(_TUNED).get(_plain(name, _TUNED))
    if full is None:
        near = get_close_matches(name.lower(), keys, n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(dict.fromkeys(keys[key] for key in near))}?" if near else ""
        raise EstimatorError(
            f"{name!r} is no file, no folder with a config.json, and none of {len(names())} known names.{hint}"
        )
    return _entry(full)


def find_variant(name: str) -> CatalogueEntry | None:
    """The model that a name is a variant of: fine-tuned for instructions, quantised, or spelled in another way.

    Its layers are the same; how its weights are stored is for the caller to say.
    """
    for dropped in (_TUNED, _TUNED | _STORED):
        full = _variants(dropped).get(_plain(name, dropped))
        if full is not None:
            return _entry(full)
    return None


def _entry(full: str) -> CatalogueEntry:
    content = _read()
    row = content["models"][full]
    return CatalogueEntry(full, row["config"], f"{content['sources'][row['source']]}, {content['date']}")


def _plain(name: str, dropped: frozenset[str]) -> str:
    """A name without its owner and the parts to drop, cut where letters meet digits: "Phi2" is "phi-2"."""
    words = re.split(r"[-_ .:]+", name.lower().rpartition("/")[2])
    return "-".join(piece for word in words if word not in dropped for piece in _PIECES.findall(word))


@cache
def _variants(dropped: frozenset[str]) -> dict[str, str]:
    variants: dict[str, str] = {}
    # Those that are not quantised first: a variant's own quantisation is another.
    for full, row in sorted(_read()["models"].items(), key=lambda item: "quantization_config" in item[1]["config"]):
        for known in (full, *row["aliases"]):
            variants.setdefault(_plain(known, dropped), full)
    return variants


@cache
def _read() -> _File:
    content: _File = json.loads(_FILE.read_bytes())
    return content


@cache
def _keys() -> dict[str, str]:
    keys: dict[str, str] = {}
    for full, row in _read()["models"].items():
        for known in (full, *row["aliases"]):
            keys[known.lower()] = full
            keys.setdefault(known.lower().rpartition("/")[2], full)
    return keys
