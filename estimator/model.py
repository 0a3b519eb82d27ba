"""Finds a model's description, by catalogue name, folder, file or parsed object, and reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from estimator.architecture import Model
from estimator.catalog import find
from estimator.errors import EstimatorError
from estimator.hf_config import read_config

__all__ = ["Model", "load_model"]

_CONFIG_BYTES_MAX = 16 * 2**20
"""The largest configurations known list every quantised layer and take 60 kB."""


def load_model(src: str | Path | Mapping[str, object]) -> Model:
    """Load a model.

    Args:
        src: a parsed `config.json`; a path to one or to a folder that holds one; or a name from the catalogue,
            a Hugging Face id with or without its owner, in any case.

    Raises:
        EstimatorError: where there is no such model, or its description cannot be read or priced.
    """
    if isinstance(src, Mapping):
        name = src.get("_name_or_path")
        return read_config(src, name if isinstance(name, str) and name else "this model", "the object given")
    path = Path(src)
    try:
        path = path / "config.json" if path.is_dir() else path
        is_file = path.is_file() or path.suffix == ".json"
    except OSError as error:  # such as a name that is too long for the file system
        raise EstimatorError(f"{str(src)[:100]!r} is no model: {error.strerror}.") from error
    return _read_file(path) if is_file else _from_catalogue(str(src))


@cache
def _from_catalogue(name: str) -> Model:
    """Kept: the gateway asks for the same few names again and again. The catalogue bounds how many there are."""
    entry = find(name)
    return read_config(entry.config, entry.name, entry.source)


def _read_file(path: Path) -> Model:
    try:
        with path.open("rb") as file:
            content = file.read(_CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise EstimatorError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > _CONFIG_BYTES_MAX:
        raise EstimatorError(f"{path} has more than {_CONFIG_BYTES_MAX:,} bytes: it is no model configuration.")
    try:
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EstimatorError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise EstimatorError(f"{path} holds no JSON object.")
    name = path.parent.name if path.name == "config.json" else path.stem
    return read_config(config, name or str(path), str(path))
