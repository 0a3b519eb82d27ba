"""Measures the estimator against real start-up logs.

    python benchmarks/memory_accuracy.py FILE.jsonl [--rows OUT.jsonl] [--configs DIR]

Prints, per quantity, engine and kind of model, how many rows were compared and the median, 90th percentile and greatest
relative error, then the rows that were skipped with the reason. `--rows` writes one prediction per row.

What is predicted from what: cost per token, weights and llama.cpp's cache from the model and its settings alone. The
pool twice: from the configuration alone, and from the weights and overhead that the log states. Tokens, blocks and
concurrency from the pool's bytes where the log states them, rounded as they are; else from the predicted pool.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: what it imports stands beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.memory_prediction import QUANTITIES, Prediction, predict
from benchmarks.memory_rows import Row, read_row
from estimator import EstimatorError, Model, load_model

_SMALL_WEIGHTS_GIB = 3.0
_LOG_OF = {
    "kv_bytes_per_token": "derived_kv_bytes_per_token",
    "kv_gib_config": "kv_gib",
    "kv_gib_config_guess": "kv_gib",
    "kv_gib_log_terms": "kv_gib",
}
_SHOWN = {
    "kv_bytes_per_token": "KV bytes per token",
    "weights_gib": "weights above 3 GiB",
    "kv_gib": "KV GiB, llama.cpp",
    "kv_gib_log_terms": "KV GiB from the log's terms",
    "kv_gib_config": "KV GiB from the config alone",
    "kv_gib_config_guess": "    where the log names no utilization",
    "kv_tokens": "KV tokens",
    "kv_blocks": "KV blocks",
    "max_concurrency": "concurrency",
}


@dataclass(frozen=True, slots=True)
class Error:
    """One prediction beside what was logged."""

    row: Row
    quantity: str
    predicted: float
    logged: float

    @property
    def relative(self) -> float:
        """Of what was logged."""
        return abs(self.predicted / self.logged - 1)


def errors_of(row: Row, found: Prediction) -> list[Error]:
    """Compare every quantity that the log states."""
    errors = []
    unsaid = row.raw.get("gpu_memory_utilization") is None
    for quantity in _SHOWN:
        if (quantity == "kv_gib_config" and unsaid) or (quantity == "kv_gib_config_guess" and not unsaid):
            continue
        predicted = getattr(found, quantity.removesuffix("_guess"))
        logged = row.raw.get(_LOG_OF.get(quantity, quantity))
        if predicted is None or not logged or logged < 0:
            continue
        if quantity == "weights_gib" and logged <= _SMALL_WEIGHTS_GIB:
            continue
        if quantity == "kv_gib" and row.engine.name != "llama.cpp":
            continue
        errors.append(Error(row, quantity, predicted, logged))
    return errors


def kind_of(row: Row) -> str:
    """What a model is counted under in the table."""
    model = row.model
    if model is None:
        return "header only"
    if model.states:
        return "with states"
    if len(model.attentions) > 1:
        return "with windows"
    if model.mla:
        return "latent"
    return "encoder" if model.attentions and model.attentions[0].kind == "encoder" else "uniform"


def _line(title: str, errors: Sequence[Error]) -> str:
    relative = sorted(error.relative for error in errors)
    ninth = relative[min(len(relative) - 1, int(0.9 * len(relative)))]
    figures = "  ".join(f"{100 * x:8.3f} %" for x in (statistics.median(relative), ninth, relative[-1]))
    worst = max(errors, key=lambda error: error.relative)
    return f"{title:48} {len(relative):4}  {figures}  {worst.row.id}"


def _table(errors: Sequence[Error]) -> list[str]:
    lines = [f"{'quantity, engine, kind':48} {'n':>4}  {'median':>10}  {'p90':>10}  {'max':>10}  worst row"]
    for quantity, title in _SHOWN.items():
        here = [error for error in errors if error.quantity == quantity]
        if not here:
            continue
        lines.append(_line(title, here))
        groups: dict[tuple[str, str], list[Error]] = defaultdict(list)
        for error in here:
            groups[error.row.engine.name, kind_of(error.row)].append(error)
        lines += [_line(f"    {name}, {kind}", found) for (name, kind), found in sorted(groups.items())]
    return lines


def _coverage(pairs: Sequence[tuple[Row, Prediction]]) -> list[str]:
    inside, outside = 0, []
    for row, found in pairs:
        logged = row.raw.get("kv_gib")
        if logged is None or found.kv_gib_low is None or found.kv_gib_high is None:
            continue
        if found.kv_gib_low <= logged <= found.kv_gib_high:
            inside += 1
        else:
            outside.append(f"{row.id} ({found.kv_gib_low:.2f} to {found.kv_gib_high:.2f}, logged {logged:.2f})")
    total = inside + len(outside)
    lines = [f"interval of the config alone covers the log in {inside} of {total} rows"]
    return lines + [f"    outside: {each}" for each in outside]


def _skipped(pairs: Sequence[tuple[Row, Prediction]]) -> list[str]:
    lines = []
    for row, found in pairs:
        for quantity in QUANTITIES:
            logged = row.raw.get(_LOG_OF.get(quantity, quantity))
            if logged is not None and getattr(found, quantity) is None:
                lines.append(f"    {row.id} {quantity}: {found.reasons.get(quantity, '')}")
    return ["skipped, though logged:", *lines] if lines else []


def configurations(folder: Path | None) -> dict[str, Model]:
    """Models by Hugging Face id, from files named `owner--name_config.json`."""
    found: dict[str, Model] = {}
    for path in sorted(folder.glob("*_config.json")) if folder else ():
        try:
            found[path.name.removesuffix("_config.json").replace("--", "/", 1)] = load_model(path)
        except EstimatorError:
            continue
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the table; write the rows where asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=Path, help="where to write one prediction per row")
    parser.add_argument("--configs", type=Path, help="folder with configurations that the catalogue lacks")
    options = parser.parse_args(arguments)
    configs = configurations(options.configs)
    pairs: list[tuple[Row, Prediction]] = []
    unread: list[Prediction] = []
    for line in options.file.read_text().splitlines():
        raw: dict[str, Any] = json.loads(line)
        try:
            row = read_row(raw, configs)
        except EstimatorError as error:
            unread.append(Prediction(raw["id"], reasons=dict.fromkeys(QUANTITIES, str(error))))
            continue
        pairs.append((row, predict(row)))
    errors = [error for row, found in pairs for error in errors_of(row, found)]
    print("\n".join([*_table(errors), "", *_coverage(pairs), "", *_skipped(pairs)]))
    for missing in unread:
        print(f"    {missing.id}: {missing.reasons[QUANTITIES[0]]}")
    if options.rows:
        rows = [*(found for _, found in pairs), *unread]
        options.rows.write_text("".join(json.dumps(asdict(found)) + "\n" for found in rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
