"""Compares the estimator's KV layouts with what vLLM itself answers for the same configurations.

    python benchmarks/kv_truth.py FILE.jsonl --configs DIR

Each row names a configuration, a pool in bytes and settings, and gives vLLM's blocks, tokens and concurrency. Blocks
and tokens must be equal in every row that is not skipped: exit code 1 otherwise. Rows are skipped, by name, where vLLM
itself answered nothing or the configuration is not there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: what it imports stands beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from estimator import EstimatorError, Model, catalog, load_model
from estimator.kv_cache import KvLayout, KvRules, kv_layout

BATCH_TOKENS = 8192
"""Batched tokens where a row does not say: the server's default on large GPUs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server would report of its pool."""

    blocks: int
    tokens: int
    concurrency: float


def answer(layout: KvLayout, pool_bytes: int, context_tokens: int) -> Answer:
    """Blocks, tokens and concurrency as vLLM 0.32 states them."""
    blocks = pool_bytes // layout.bytes_per_block
    concurrency = blocks / layout.planned(context_tokens)
    return Answer(blocks, int(concurrency * context_tokens), concurrency)


def predict(row: Mapping[str, Any], configs: Path) -> Answer:
    """Answer for one row.

    Raises:
        EstimatorError: where the configuration is missing or cannot be priced.
    """
    layout = kv_layout(
        _model(row["file"], configs),
        block_tokens=row["block_size"],
        kv_dtype=row["kv_dtype"],
        tp=row["tp"],
        tokens_in_flight=2 * row.get("max_num_batched_tokens", BATCH_TOKENS),
        rules=KvRules(prefix_caching=row.get("enable_prefix_caching", True), pp=row.get("pp", 1)),
    )
    return answer(layout, row["bytes"], row["max_model_len"])


def _model(file: str, configs: Path) -> Model:
    """The configuration in the folder; the catalogue's of the same name where there is none."""
    path = configs / file
    return load_model(path if path.is_file() else _id_of(file))


def _id_of(file: str) -> str:
    return file.removesuffix("_config.json").replace("--", "/", 1)


def _known(file: str, configs: Path) -> bool:
    return (configs / file).is_file() or _id_of(file) in catalog.names()


def main(arguments: list[str] | None = None) -> int:
    """Print one line per row that differs or is skipped, then the sum."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--configs", type=Path, required=True, help="folder with the rows' configurations")
    options = parser.parse_args(arguments)
    equal, wrong, skipped = 0, 0, 0
    for line in options.file.read_text().splitlines():
        row: dict[str, Any] = json.loads(line)
        name = f"{row['file']} tp{row.get('tp', 1)} {row.get('kv_dtype', 'auto')}"
        if not row.get("ok", True):
            print(f"skipped    {name}: vLLM gave no answer ({str(row.get('error', ''))[:80]})")
            skipped += 1
            continue
        if not _known(row["file"], options.configs):
            print(f"skipped    {name}: neither in {options.configs} nor in the catalogue")
            skipped += 1
            continue
        try:
            found = predict(row, options.configs)
        except EstimatorError as error:
            print(f"refused    {name}: {error}")
            wrong += 1
            continue
        if (found.blocks, found.tokens) == (row["num_blocks"], row["kv_cache_size_tokens"]):
            equal += 1
            continue
        wrong += 1
        print(
            f"different  {name}: {found.blocks:,} blocks, {found.tokens:,} tokens; "
            f"vLLM {row['num_blocks']:,} and {row['kv_cache_size_tokens']:,}"
        )
    print(f"{equal} rows equal, {wrong} not, {skipped} skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
