"""Fuzzes one target with atheris, which has to be installed apart: `python -m benchmarks.fuzz parse --runs 1000000`.

Prints a row: target, executions, seconds, and what was found; `--record` adds it to `RESULTS.md` beside this file. A
finding is printed with its bytes. Memory and time are bounded for each execution: 5 s, 2 GB.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

NAMES = ("parse", "sse", "http1", "peer", "upstream", "page")
RESULTS = Path(__file__).with_name("RESULTS.md")
INPUT_MAX_BYTES = 1024
ONE_MAX_S = 5
_DONE = re.compile(r"Done (\d+) runs in (\d+) second")


def _fuzz(name: str, folder: Path, runs: int, seed: int) -> NoReturn:
    """In a process of its own: the fuzzer ends it."""
    atheris = importlib.import_module("atheris")  # Installed apart.
    with atheris.instrument_imports(include=["gateway"]):
        from benchmarks.fuzz.targets import TARGETS  # noqa: PLC0415  # instrumented as it is imported
    target = TARGETS[name]
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    for at, data in enumerate(target.seeds):
        (corpus / str(at)).write_bytes(data)
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
    words.write_text("".join(f'"{word}"\n' for word in escaped), "ascii")
    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        f"-max_len={INPUT_MAX_BYTES}",
        f"-timeout={ONE_MAX_S}",
        f"-dict={words}",
    ]
    atheris.Setup([name, *options, "-verbosity=1", f"-artifact_prefix={folder}/found-", str(corpus)], target.run)
    atheris.Fuzz()
    raise AssertionError("the fuzzer ends the process")


def main(arguments: list[str]) -> int:
    """0 if nothing was found, 1 with a finding, 2 without a fuzzer."""
    parser = argparse.ArgumentParser(prog="benchmarks.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="add the row to RESULTS.md")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.inside is not None:
        _fuzz(given.target, given.inside, given.runs, given.seed)
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __package__, *arguments, "--inside", folder]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
        findings = sorted(Path(folder).glob("found-*"))
        for finding in findings:
            print(finding.name, finding.read_bytes())
    done = _DONE.search(ended.stderr)
    if done is None or findings or ended.returncode:
        print(ended.stdout[-4_000:], ended.stderr[-4_000:], sep="\n", file=sys.stderr)
    told = ", ".join(finding.name for finding in findings) or ("none" if done else "it did not end")
    today = dt.datetime.now(dt.UTC).date()  # noqa: TID251  # a date in a report
    runs, seconds = done.groups() if done else ("?", "?")
    row = f"| {today} | `{given.target}` | {given.seed} | {runs} | {seconds} | {told} |"
    print(row)
    if given.record:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(row + "\n")
    return int(told != "none")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
