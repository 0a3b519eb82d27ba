"""Compares the estimator with others on the same start-up logs: hf-mem 0.5.6 and aiconfigurator 0.12.0 from PyPI.

    python -m venv PEERS && PEERS/bin/pip install hf-mem==0.5.6 aiconfigurator==0.12.0
    python benchmarks/peers_memory.py FILE.jsonl --peers PEERS/bin/python [--configs DIR]

All are given the same configuration, GPU memory and settings, and are compared with what the engine logged, on the rows
that say it: cost per token, weights per GPU above 3 GiB, and the KV pool from the configuration alone where the log
names the share of memory. Then the rows in which another one is closer, and what each of them could not answer.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not __package__:  # run as a file: what it imports stands beside its folder
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.memory_accuracy import configurations, kind_of
from benchmarks.memory_prediction import Prediction, predict
from benchmarks.memory_rows import GIB, Row, read_row
from benchmarks.peers_ask import PEERS, Answer, Question
from estimator import EstimatorError, Model, catalog
from estimator.engine import default_batch

OURS = "KVGate"
_LEAST_GIB = 3.0
_CLOSER = 0.001
"""Differences below it are the logs' own rounding."""
_SYSTEMS = {
    "H100": "h100_sxm", "H200": "h200_sxm", "A100": "a100_sxm", "B200": "b200_sxm", "L40S": "l40s", "L4": "l4",
    "RTX PRO 6000": "rtx_pro_6000_server",
}  # fmt: skip
"""GPUs as aiconfigurator names them. For others it is given the H100's and their own memory."""
QUANTITIES = {"kv_bytes_per_token": "KV bytes per token", "weights_gib": "weights", "kv_gib": "KV pool"}
_USEFUL = 0.5
"""An answer that is further off is not called better than another."""
_NUMBER = re.compile(r"\d{4,}")
"""Those in the others' sentences, which else would all differ."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of one row."""

    row: Row
    quantity: str
    logged: float
    said: dict[str, float]
    """By whom; who is missing said nothing."""

    def error(self, name: str) -> float | None:
        """Relative; None where it said nothing."""
        return abs(self.said[name] / self.logged - 1) if name in self.said else None


def question_of(row: Row, model: Model) -> Question:
    """All that is known before the start."""
    memory = row.measured.total or (row.gpu.memory_bytes if row.gpu else 80 * GIB)
    name = row.gpu.name if row.gpu else ""
    context = row.setup.context_tokens or model.context_tokens
    batch = row.setup.batch or default_batch(
        row.engine, memory / GIB, a100=name.startswith("A100"), context_tokens=context, multimodal=model.multimodal
    )
    how = row.setup.quantization
    return {
        "model": model.name,
        "config": _config(model),
        "engine": row.engine.name,
        "system": next((theirs for ours, theirs in _SYSTEMS.items() if name.startswith(ours)), "h100_sxm"),
        "memory_bytes": memory,
        "utilization": row.setup.utilization or row.engine.utilization,
        "tp": row.setup.tp,
        "pp": row.setup.pp,
        "kv_dtype": row.setup.kv_dtype,
        "quantization": how.method if how else "",
        "batch_tokens": batch.tokens,
        "batch_sequences": batch.sequences,
    }


def _config(model: Model) -> dict[str, Any]:
    path = Path(model.source)
    if path.suffix == ".json" and path.is_file():
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    return dict(catalog.find(model.name).config)


def ask(python: str, questions: Sequence[Question]) -> list[dict[str, Answer]]:
    """Ask the others, in their own environment."""
    script = Path(__file__).with_name("peers_ask.py")
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    done = subprocess.run([python, str(script)], input=lines, capture_output=True, text=True, check=False)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if len(answers) != len(questions):
        raise SystemExit(f"{python} answered {len(answers)} of {len(questions)} questions: {done.stderr[-500:]}")
    return answers


def compare(row: Row, ours: Prediction, answers: dict[str, Answer]) -> list[Compared]:
    """Every quantity that the log states."""
    logged = {
        "kv_bytes_per_token": row.raw.get("derived_kv_bytes_per_token"),
        "weights_gib": row.raw.get("weights_gib"),
        "kv_gib": row.raw.get("kv_gib") if row.raw.get("gpu_memory_utilization") else None,
    }
    mine = {
        "kv_bytes_per_token": ours.kv_bytes_per_token,
        "weights_gib": ours.weights_gib,
        "kv_gib": ours.kv_gib_config,
    }
    found = []
    for quantity, value in logged.items():
        if not value or value <= 0 or (quantity == "weights_gib" and value <= _LEAST_GIB):
            continue
        said = {OURS: mine[quantity], **{name: answers[name].get(quantity) for name in PEERS}}
        found.append(Compared(row, quantity, value, {name: x for name, x in said.items() if x is not None}))
    return found


def table(compared: Sequence[Compared]) -> list[str]:
    """Each quantity by kind of model: how many rows say it, how many each estimator answered, and how well.

    The last column is our own median on the rows that the other one answered.
    """
    figures = f"{'n':>4} {'median':>10} {'p90':>10} {'max':>10}"
    lines = [f"{'quantity, kind':24} {'rows':>4}  {'estimator':15} {figures}   {OURS} there"]
    for quantity, title in QUANTITIES.items():
        groups: dict[str, list[Compared]] = defaultdict(list)
        for each in compared:
            if each.quantity == quantity:
                groups[""].append(each)
                groups["    " + kind_of(each.row)].append(each)
        for kind, rows in sorted(groups.items()):
            for name in (OURS, *PEERS):
                first = f"{kind or title:24} {len(rows):4}" if name == OURS else " " * 29
                lines.append(f"{first}  {name:15} {_figures(rows, name)}")
    return lines


def _figures(rows: Sequence[Compared], name: str) -> str:
    answered = [each for each in rows if name in each.said]
    errors = sorted(error for each in answered if (error := each.error(name)) is not None)
    if not errors:
        return f"{0:4}  no answer"
    ninth = errors[min(len(errors) - 1, int(0.9 * len(errors)))]
    text = " ".join(f"{100 * x:8.2f} %" for x in (statistics.median(errors), ninth, errors[-1]))
    same = [error for each in answered if name != OURS and (error := each.error(OURS)) is not None]
    return f"{len(errors):4} {text}" + (f"   {100 * statistics.median(same):8.2f} %" if same else "")


def closer(compared: Sequence[Compared]) -> list[str]:
    """Rows in which another one is closer than we are, by more than the logs' rounding, and not far off itself."""
    lines = []
    for each in compared:
        mine = each.error(OURS)
        for name in PEERS:
            theirs = each.error(name)
            if theirs is not None and theirs <= _USEFUL and (mine is None or theirs + _CLOSER < mine):
                ours = "nothing" if mine is None else f"{100 * mine:.2f} %"
                lines.append(
                    f"    {each.row.id} {QUANTITIES[each.quantity]}: {name} {100 * theirs:.2f} %, {OURS} {ours}"
                )
    return ["rows in which another one is closer:", *(lines or ["    none"])]


def unanswered(answers: Sequence[dict[str, Answer]]) -> list[str]:
    """What others could not say and why, with the number of rows."""
    lines = []
    for name in PEERS:
        lines.append(f"{name}, of {len(answers)} rows:")
        for key, title in (("how", "pool by its way"), ("why_no_pool", "no pool:"), ("error", "nothing:")):
            counts = Counter(_NUMBER.sub("N", each[name][key]) for each in answers if key in each[name])
            lines += [f"    {count:3} {title} {text}" for text, count in counts.most_common()]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--peers", required=True, help="Python of an environment with hf-mem and aiconfigurator")
    parser.add_argument("--configs", type=Path, help="folder with configurations that the catalogue lacks")
    options = parser.parse_args(arguments)
    configs = configurations(options.configs)
    rows: list[tuple[Row, Model]] = []
    left_out: Counter[str] = Counter()
    for line in options.file.read_text().splitlines():
        try:
            row = read_row(json.loads(line), configs)
        except EstimatorError as error:
            left_out[str(error)] += 1
            continue
        if row.engine.name == "llama.cpp":
            left_out["llama.cpp: others need the .gguf file itself"] += 1
        elif row.model is None:
            left_out["the model is not known"] += 1
        else:
            rows.append((row, row.model))
    answers = ask(options.peers, [question_of(row, model) for row, model in rows])
    compared = [each for (row, _), said in zip(rows, answers, strict=True) for each in compare(row, predict(row), said)]
    print("\n".join([*table(compared), "", *closer(compared), "", *unanswered(answers)]))
    print(f"rows left out: {dict(left_out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
