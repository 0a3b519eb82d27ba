"""Widely served open models by Hugging Face id: the fields of their configurations that decide the KV cache."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TypedDict

from estimator.errors import EstimatorError

_FILE = Path(__file__).with_name("models.json")


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
    content, keys = _read(), _keys()
    full = keys.get(name.lower())
    if full is None:
        near = get_close_matches(name.lower(), keys, n=3, cutoff=0.5)
        hint = f" Did you mean {', '.join(dict.fromkeys(keys[key] for key in near))}?" if near else ""
        raise EstimatorError(
            f"{name!r} is no file, no folder with a config.json, and none of {len(names())} known names.{hint}"
        )
    row = content["models"][full]
    return CatalogueEntry(full, row["config"], f"{content['sources'][row['source']]}, {content['date']}")


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
