"""What memory pressure does to a real engine, straight and through KVGate: `python -m benchmarks.kv_pressure`.

vLLM (`tests/engines/install.sh` first): 64 requests of 32 + 200 tokens at once on 1,024 tokens of KV cache. It preempts
and computes again. llama.cpp with one pool for all slots: 16 such requests, 8 at once. It ends every stream. Rounds
alternate, so that a machine that is slower for a while is so for both.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.engines import gguf_model, tiny_model
from tests.engines.load import Load, Measured, run_load
from tests.engines.servers import PATIENT, kvgate_server, llamacpp_server, vllm_server

LOADS = {"vllm": Load(requests=64, concurrency=64), "llamacpp": Load(requests=16, concurrency=8)}
WARM_UP = Load(requests=4, concurrency=4, output_tokens=32, seed=2)
HEAD = """
| way | preemptions | lost | tok/s | TTFT p50 / p99 | gap p50 / p99 / max |
|---|---|---|---|---|---|"""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the engine."""

    name: str
    url: str


def main() -> None:
    """Measures and prints a table; the exit status says nothing of the numbers."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--engine", choices=sorted(LOADS), default="vllm")
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--direct-only", action="store_true", help="leave the gateway out")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _engine(given.engine, folder) as engine_url:
            straight = Way("straight", engine_url)
            metrics_url = f"{engine_url}/metrics" if given.engine == "vllm" else None
            if given.direct_only:
                _compare([straight], LOADS[given.engine], metrics_url, given.rounds)
                return
            with kvgate_server(engine_url, folder, PATIENT) as gateway:
                ways = [straight, Way("KVGate", gateway.api)]
                _compare(ways, LOADS[given.engine], metrics_url, given.rounds)


@contextmanager
def _engine(kind: str, folder: Path) -> Iterator[str]:
    if kind == "vllm":
        with vllm_server(tiny_model.write_huggingface(folder / "model"), folder / "engine.log") as url:
            yield url
    else:
        with llamacpp_server(gguf_model.write_gguf(folder / "model.gguf"), folder / "engine.log") as url:
            yield url


def _compare(ways: Sequence[Way], load: Load, metrics_url: str | None, rounds: int) -> None:
    for way in ways:
        asyncio.run(run_load(WARM_UP, way.url))
    print(HEAD, flush=True)
    for _ in range(rounds):
        for way in ways:
            print(_row(way, load, asyncio.run(run_load(load, way.url, metrics_url))), flush=True)


def _row(way: Way, load: Load, measured: Measured) -> str:
    preemptions = "-" if measured.preemptions is None else str(measured.preemptions)
    cells = [
        way.name,
        preemptions,
        f"{len(measured.errors)} of {load.requests}",
        f"{measured.tokens_per_s:,.0f}",
        f"{measured.first_token_s(0.5):.2f} / {measured.first_token_s(0.99):.2f} s",
        " / ".join(f"{1000 * measured.gap_s(part):,.0f}" for part in (0.5, 0.99, 1)) + " ms",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
