"""Finds a model's description, by catalogue name, folder, file or parsed object, and reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

from estimator.architecture import Model
from estimator.errors import EstimatorError

__all__ = ["Model", "load_model"]

_CONFIG_BYTES_MAX = 16 * 2**20
"""The largest configurations known list every quantised layer and take 60 kB."""


def load_model(src: str | Path | Mapping[str, object]) -> Model:
    """Load a model.

    Args:
        src: a parsed `config.json`; a path to one; a folder that holds one, whose weights are read from its
            safetensors headers where it has any; a safetensors index beside a `config.json`; a `.gguf` file; or a
            name from the catalogue, a Hugging Face id with or without its owner, in any case, also of a variant that
            differs by quantisation (`…-AWQ`, `…-GGUF:Q4_K_M`).

    Raises:
        EstimatorError: where there is no such model, or its description cannot be read or priced.
    """
    if isinstance(src, Mapping):
        name = src.get("_name_or_path")
        return _read_config(src, name if isinstance(name, str) and name else "this model", "the object given")
    path = Path(src)
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError as error:  # such as a name that is too long for the file system
        raise EstimatorError(f"{str(src)[:100]!r} is no model: {error.strerror}.") from error
    if is_folder:
        return _with_weights(path, None)
    if path.name.endswith(".safetensors.index.json"):
        return _with_weights(path.parent, path)
    if path.suffix == ".gguf" and (is_file or path.parent != Path()):
        return _read_gguf(path)
    return _read_file(path) if is_file or path.suffix == ".json" else _from_catalogue(str(src))


# What only loading needs is imported by the functions that load: it is half of the package, and a program that is given
# a layout, or only prices, should not wait for it.
# ruff: noqa: PLC0415


def _with_weights(folder: Path, index: Path | None) -> Model:
    from estimator.safetensors_index import with_checkpoint

    return with_checkpoint(_read_file(folder / "config.json"), folder, index)


def _read_gguf(path: Path) -> Model:
    from estimator.gguf_model import load_gguf

    return load_gguf(path)


def _read_config(config: Mapping[str, object], name: str, source: str) -> Model:
    from estimator.hf_config import read_config

    return read_config(config, name, source)


@lru_cache(maxsize=1024)
def _from_catalogue(name: str) -> Model:
    """Kept: the gateway asks for the same few names again and again."""
    from estimator.catalog import find

    try:
        entry = find(name)
    except EstimatorError:
        from estimator.variants import load_variant

        if (variant := load_variant(name)) is None:
            raise
        return variant
    return _read_entry(entry.name)


@cache
def _read_entry(name: str) -> Model:
    """One object per model, under whatever name it is asked for. The catalogue bounds how many there are."""
    from estimator.catalog import find

    entry = find(name)
    return _read_config(entry.config, entry.name, entry.source)


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
    return _read_config(config, name or str(path), str(path))
