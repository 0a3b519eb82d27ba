"""A scaled trace against real vLLM, straight and through KVGate: `python -m benchmarks.real_replay --trace FILE.csv`.

vLLM for CPU (`tests/engines/install.sh` first) with a small pool and a model with made-up weights. Each run has a fresh
engine, and a fresh gateway, which has learned nothing: the second half of a run is told apart. Requests come when the
trace says, squeezed to `--load` times the capacity of the engine: what it serves per second with its pool kept full of
such requests. Clients leave when their first token takes longer than `--patience-s`. A request is in time when its
first token comes within `--first-token-s` and the mean time of the others within `--token-s`; the shares are of all
that were offered, and times those of the served. How answers get their lengths: see `scaled_trace.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import aiohttp
import yaml

from benchmarks.open_loop import Client, End, Seen, closed_loop, replay
from benchmarks.scaled_trace import Scale, first_of, held_tokens
from gateway.simulation.slo import Slo
from gateway.simulation.workload import Request, read_trace
from tests.engines import tiny_model
from tests.engines.load import PREEMPTIONS, read_metrics
from tests.engines.servers import VllmOptions, kvgate_server, vllm_server

WAYS = ("straight", "KVGate")
POOL_SHARE = 0.9
"""Part of the pool that the measurement of capacity keeps full: more would preempt, and serve less."""
CAPACITY_WARM_UP_S = 5.0
WARM_UP_REQUESTS = 8
WARM_UP_WAIT_MAX_S = 60.0
HEAD = """
| way | offered | in time / 2nd half | late | refused | left | lost | preempted | TTFT p50/99 | gap p99 | TPOT | tok/s |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True, slots=True)
class Setting:
    """All that the runs have in common."""

    engine: VllmOptions
    client: Client
    gateway: dict[str, object]
    folder: Path


def main() -> None:
    """Measures and prints a table; the exit status says nothing of the numbers."""
    given = _arguments()
    engine = VllmOptions(
        blocks=given.pool_tokens // VllmOptions().block_tokens + 1,
        context_tokens=given.context_tokens,
        sequences_max=given.sequences_max,
        logits_processor="benchmarks.ends_as_asked:EndsAsAsked",
    )
    scale = Scale(given.prompt_divisor, given.output_divisor, given.context_tokens)
    with given.trace.open() as lines:
        trace = scale.requests(read_trace(lines), seed=0)
    slo = Slo(given.first_token_s, given.token_s)
    client = Client("", given.patience_s, given.obey_retry_after)
    with tempfile.TemporaryDirectory() as name:
        gateway = yaml.safe_load(given.config.read_text()) if given.config else _settings(slo)
        setting = Setting(engine, client, gateway, Path(name))
        capacity = given.capacity or _capacity(setting, trace, given.capacity_seconds)
        requests = first_of(trace, given.load * capacity, given.minutes * 60)
        _tell(requests, engine, capacity, given.load)
        print(HEAD, flush=True)
        for _, way in zip(range(given.rounds * len(given.ways)), cycle(given.ways), strict=False):
            print(_row(way, slo, requests, *_run(way, setting, requests)), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="columns arrival_s, prompt_tokens, output_tokens")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--load", type=float, default=1.2, help="offered requests as a multiple of the capacity")
    parser.add_argument("--capacity", type=float, help="requests per second; default: measured")
    parser.add_argument("--capacity-seconds", type=float, default=35.0)
    parser.add_argument("--pool-tokens", type=int, default=2048)
    parser.add_argument("--sequences-max", type=int, default=64)
    parser.add_argument("--context-tokens", type=int, default=512)
    parser.add_argument("--prompt-divisor", type=float, default=16.0)
    parser.add_argument("--output-divisor", type=float, default=2.0)
    parser.add_argument("--first-token-s", type=float, default=2.0)
    parser.add_argument("--token-s", type=float, default=0.1)
    parser.add_argument("--patience-s", type=float, default=4.0)
    parser.add_argument("--obey-retry-after", action="store_true", help="clients come again after a 429")
    parser.add_argument("--config", type=Path, help="settings of the gateway; default: its queue knows the SLO")
    return parser.parse_args()


def _settings(slo: Slo) -> dict[str, object]:
    """What an operator who promises this would set: nobody waits longer than a first token may take."""
    return {"admission": {"queue": {"wait_max_s": slo.ttft_s}}}


@contextmanager
def _engine(setting: Setting) -> Iterator[str]:
    model = tiny_model.write_huggingface(setting.folder / "model")
    with vllm_server(model, setting.folder / "engine.log", setting.engine) as url:
        yield url


def _capacity(setting: Setting, trace: Sequence[Request], duration_s: float) -> float:
    """Requests per second that the engine ends while its pool is kept full, less what was begun with an empty one."""
    held = sum(held_tokens(request, setting.engine.block_tokens) for request in trace) / len(trace)
    pool = (setting.engine.blocks - 1) * setting.engine.block_tokens
    concurrency = max(1, min(setting.engine.sequences_max, int(POOL_SHARE * pool / held)))
    with _engine(setting) as url:
        client = Client(url, patience_s=duration_s)
        seen = asyncio.run(closed_loop(client, trace, concurrency, duration_s))
    ended = sum(each.end is End.SERVED and each.ended_s > CAPACITY_WARM_UP_S for each in seen)
    print(f"{concurrency} requests at once: {ended} ended in {duration_s - CAPACITY_WARM_UP_S:.0f} s", flush=True)
    return ended / (duration_s - CAPACITY_WARM_UP_S)


def _run(way: str, setting: Setting, requests: Sequence[Request]) -> tuple[list[Seen], int]:
    """One replay on a fresh engine: what the clients saw, and how often the engine preempted."""
    with _engine(setting) as engine_url:
        if way == "straight":
            return asyncio.run(_measure(engine_url, engine_url, setting, requests))
        with kvgate_server(engine_url, setting.folder, setting.gateway) as gateway:
            return asyncio.run(_measure(gateway.api, engine_url, setting, requests))


async def _measure(url: str, engine_url: str, setting: Setting, requests: Sequence[Request]) -> tuple[list[Seen], int]:
    await _warm_up(Client(engine_url, WARM_UP_WAIT_MAX_S), requests)
    before = await _preemptions(engine_url)
    seen = await replay(replace(setting.client, base_url=url), requests, seed=1)
    return seen, await _preemptions(engine_url) - before


async def _warm_up(client: Client, requests: Sequence[Request]) -> None:
    """A few requests straight to the engine, which show that its answers end where the trace says."""
    first = [replace(each, arrives_s=0.0) for each in requests[:WARM_UP_REQUESTS]]
    lengths = [each.output_tokens for each in await replay(client, first, seed=2)]
    wanted = [each.output_tokens for each in first]
    if lengths != wanted:
        raise RuntimeError(f"answers have {lengths} tokens instead of {wanted}")


async def _preemptions(engine_url: str) -> int:
    async with aiohttp.ClientSession() as session:
        return int((await read_metrics(session, f"{engine_url}/metrics"))[PREEMPTIONS])


def _tell(requests: Sequence[Request], engine: VllmOptions, capacity: float, load: float) -> None:
    prompts, outputs = (sorted(getattr(each, f"{side}_tokens") for each in requests) for side in ("prompt", "output"))
    for side, lengths in (("prompts", prompts), ("answers", outputs)):
        told = ", ".join(f"p{part} {_quantile(lengths, part / 100):.0f}" for part in (50, 90, 99))
        print(f"{side}: mean {sum(lengths) / len(lengths):.0f} tokens, {told}")
    pool = (engine.blocks - 1) * engine.block_tokens
    print(
        f"pool of {pool:,} tokens, capacity {capacity:.2f} requests/s, {len(requests):,} offered at {load:g} times it"
    )


def _in_time(slo: Slo, request: Request, seen: Seen) -> bool:
    if seen.end is not End.SERVED or seen.first_token_s is None:
        return False
    return slo.is_met(request.prompt_tokens, seen.first_token_s, seen.token_s)


def _row(way: str, slo: Slo, requests: Sequence[Request], seen: Sequence[Seen], preemptions: int) -> str:
    ends = Counter(each.end for each in seen)
    served = [each for each in seen if each.end is End.SERVED]
    in_time = [_in_time(slo, request, each) for request, each in zip(requests, seen, strict=True)]
    later = in_time[len(seen) // 2 :]
    firsts = sorted(each.first_token_s for each in served if each.first_token_s is not None)
    gaps = sorted(gap for each in served for gap in each.gaps_s)
    per_token = [each.token_s for each in served if each.output_tokens > 1]
    wall_s = max(each.ended_s for each in seen)
    cells = [
        way,
        f"{len(seen):,}",
        f"{sum(in_time) / len(in_time):.1%} / {sum(later) / len(later):.1%}",
        f"{len(served) - sum(in_time):,}",
        *(f"{ends[end]:,}" for end in (End.REFUSED, End.LEFT, End.FAILED)),
        f"{preemptions:,}",
        f"{_quantile(firsts, 0.5):.2f} / {_quantile(firsts, 0.99):.2f} s",
        f"{1000 * _quantile(gaps, 0.99):,.0f} ms",
        f"{1000 * sum(per_token) / max(1, len(per_token)):,.0f} ms",
        f"{sum(each.output_tokens for each in served) / wall_s:,.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


if __name__ == "__main__":
    main()
