"""`kvgate replay`: a trace, or the gateway's own journal, once more in virtual time under one policy or several."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.output import print_json, print_table

if TYPE_CHECKING:
    from gateway.simulation.plot import Plotted
    from gateway.simulation.policies import Policy
    from gateway.simulation.replay import Replay, Wishes
    from gateway.simulation.results import Result
    from gateway.simulation.slo import Slo
    from gateway.simulation.workload import Trace

REPLICAS_MAX = 256
LINE_CHARS_MAX = 2**20
_TRACE = typer.Argument(help="CSV with arrival_s, prompt_tokens, output_tokens; or a decision journal (JSONL).")
_POLICY = typer.Option(
    "--policy", help="kvgate, none, concurrency:N, max-tokens, kv-threshold, oracle; repeatable. Default: kvgate, none."
)
_LOAD = typer.Option(min=0.001, max=1000, help="Part of the replicas' capacity asked for. Default: as in the trace.")
_KV = typer.Option(min=16, help="KV pool of each replica. Default: the profile's.")
_CAP = typer.Option(min=1, help="Longest answer allowed: longer ones end there.")
_TTFT = typer.Option(min=0.001, help="Time to first token that is good enough. Default: the profile's.")
_TTFT_PER_1K = typer.Option(min=0, help="Granted on top, per 1000 prompt tokens.")
_TPOT = typer.Option(min=0.0001, help="Time per output token that is good enough. Default: the profile's.")
_ERROR = typer.Option(min=0, max=2, help="Guess prompts from text, off by so much (sigma of the logarithm).")
_PLOT = typer.Option(help="Write goodput, memory and queues as SVG.")


def replay(
    trace: Annotated[Path, _TRACE],
    *,
    engine_profile: Annotated[str, typer.Option(help="8b-h100, 70b-4xh100, 70b-2xh100, 8b-l4, demo.")] = "8b-h100",
    replicas: Annotated[int, typer.Option(min=1, max=REPLICAS_MAX, help="Engines of that kind.")] = 1,
    load: Annotated[float | None, _LOAD] = None,
    policy: Annotated[list[str] | None, _POLICY] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what the trace does not tell, such as max_tokens.")] = 0,
    requests: Annotated[int | None, typer.Option(min=1, help="Only so many, the first.")] = None,
    model: Annotated[str | None, typer.Option(help="Of a journal: the model whose requests are meant.")] = None,
    kv_tokens: Annotated[int | None, _KV] = None,
    max_tokens_cap: Annotated[int | None, _CAP] = None,
    read_interval: Annotated[float, typer.Option(min=0.01, max=60, help="Seconds between looks at an engine.")] = 0.5,
    ttft_slo_s: Annotated[float | None, _TTFT] = None,
    ttft_slo_per_1k_s: Annotated[float | None, _TTFT_PER_1K] = None,
    tpot_slo_s: Annotated[float | None, _TPOT] = None,
    prompt_error: Annotated[float | None, _ERROR] = None,
    plot: Annotated[Path | None, _PLOT] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Run the gateway's admission in virtual time over a trace, before simulated engines, and compare policies.

    Examples: kvgate replay trace.csv; kvgate replay trace.csv --load 1.5 --policy kvgate --policy concurrency:64
    """
    from gateway.simulation.profiles import PROFILES
    from gateway.simulation.replay import Wishes, prepare

    if engine_profile not in PROFILES:
        raise typer.BadParameter(f"{engine_profile!r} is none of {', '.join(PROFILES)}", param_hint="--engine-profile")
    profile = PROFILES[engine_profile]
    policies = _policies(policy or ["kvgate", "none"])
    slo = _changed(profile.slo, ttft_slo_s=ttft_slo_s, per_1k_s=ttft_slo_per_1k_s, tpot_slo_s=tpot_slo_s)
    wishes = Wishes(profile, replicas, load, seed, requests, kv_tokens, max_tokens_cap, slo)
    with _mistakes(trace):
        prepared = prepare(_read(trace, model), wishes)
    setup = replace(prepared.setup, read_every_s=read_interval, prompt_error=prompt_error)
    prepared = replace(prepared, setup=setup)
    runs = [_run(each, prepared) for each in policies]
    results = [run.result for run in runs]
    if json_:
        print_json(_content(trace, wishes, prepared, results))
    else:
        _print(trace, wishes, prepared, results)
    if plot is not None:
        _write_plot(plot, f"{trace.name} on {replicas} x {engine_profile}, load {prepared.load:.2f}", runs)


def _policies(names: list[str]) -> list[Policy]:
    from gateway.simulation.policies import policy_named

    try:
        return [policy_named(name) for name in dict.fromkeys(names)]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--policy") from None


def _changed(slo: Slo, *, ttft_slo_s: float | None, per_1k_s: float | None, tpot_slo_s: float | None) -> Slo:
    return replace(
        slo,
        ttft_s=slo.ttft_s if ttft_slo_s is None else ttft_slo_s,
        ttft_per_1k_prompt_tokens_s=slo.ttft_per_1k_prompt_tokens_s if per_1k_s is None else per_1k_s,
        tpot_s=slo.tpot_s if tpot_slo_s is None else tpot_slo_s,
    )


@contextmanager
def _mistakes(path: Path) -> Iterator[None]:
    """One sentence and exit 1 instead of a traceback."""
    from gateway.simulation.workload import TraceError

    try:
        yield
    except OSError as error:
        typer.echo(f"Error: {path} cannot be read: {error.strerror or error}.", err=True)
        raise typer.Exit(1) from error
    except UnicodeDecodeError as error:
        typer.echo(f"Error: {path} is not UTF-8 text.", err=True)
        raise typer.Exit(1) from error
    except TraceError as error:
        typer.echo(f"Error: {path}: {error}", err=True)
        raise typer.Exit(1) from error


def _read(path: Path, model: str | None) -> Trace:
    from gateway.simulation.workload import read_trace

    with path.open(encoding="utf-8", newline="") as file:
        return read_trace(iter(lambda: file.readline(LINE_CHARS_MAX), ""), model=model)


def _run(policy: Policy, prepared: Replay) -> Plotted:
    from gateway.simulation.plot import Plotted
    from gateway.simulation.policies import run
    from gateway.simulation.results import measure

    with _progress(policy.name, len(prepared.requests)) as settled:
        record = run(policy, prepared.setup, prepared.requests, settled)
    return Plotted(measure(policy.name, record, prepared.requests, prepared.setup), record.samples)


@contextmanager
def _progress(name: str, requests: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=requests)
        yield lambda settled: bar.update(task, completed=settled)


def _content(trace: Path, wishes: Wishes, prepared: Replay, results: list[Result]) -> dict[str, object]:
    return {
        "trace": trace.name,
        "load": prepared.load,
        "seed": wishes.seed,
        "engine_profile": wishes.profile.name,
        "replicas": wishes.replicas,
        "requests": len(prepared.requests),
        "left_out": prepared.left_out,
        "capacity_requests_per_s": prepared.capacity_requests_per_s,
        "results": [{name: _number(value) for name, value in asdict(result).items()} for result in results],
    }


def _number(value: object) -> object:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(trace: Path, wishes: Wishes, prepared: Replay, results: list[Result]) -> None:
    slo, count = prepared.setup.slo, len(prepared.requests)
    typer.echo(
        f"{trace.name}: {count:,} requests on {wishes.replicas} x {wishes.profile.name} "
        f"({prepared.setup.config.kv_tokens:,} KV tokens, {prepared.capacity_requests_per_s:.2f} requests/s each), "
        f"load {prepared.load:.2f}, seed {wishes.seed}."
    )
    if prepared.left_out:
        typer.echo(f"Left out: {prepared.left_out:,} requests that would not fit an empty engine.")
    per_1k = f" + {slo.ttft_per_1k_prompt_tokens_s:g} s per 1000 prompt tokens" * bool(slo.ttft_per_1k_prompt_tokens_s)
    typer.echo(f"Good: first token within {slo.ttft_s:g} s{per_1k}, then {slo.tpot_s * 1000:g} ms per token.\n")
    head = ("policy", "good/s", "good", "refused", "preempted per 100", "wasted", "KV used", "TTFT p99", "TPOT p99")
    print_table(head, [_row(result, count) for result in results])


def _row(result: Result, requests: int) -> tuple[str, ...]:
    return (
        result.policy,
        f"{result.goodput:.2f}",
        f"{result.attainment:.1%}",
        f"{result.refused / requests:.1%}",
        f"{100 * result.preemptions_per_request:.2f}",
        f"{result.wasted:.1%}",
        f"{result.kv_utilisation:.1%}",
        f"{result.ttft_p99_s:.2f} s",
        f"{1000 * result.tpot_p99_s:.1f} ms",
    )


def _write_plot(path: Path, title: str, runs: list[Plotted]) -> None:
    from gateway.simulation.plot import replay_svg

    try:
        path.write_text(replay_svg(title, runs), encoding="utf-8")
    except OSError as error:
        typer.echo(f"Error: {path} cannot be written: {error.strerror or error}.", err=True)
        raise typer.Exit(1) from error
