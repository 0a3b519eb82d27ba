"""`kvgate engine`: the simulated engine alone, for demos and for tests of other things."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.simulation.profiles import PROFILES

if TYPE_CHECKING:
    from gateway.simulation.server import EngineOptions


def engine(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")] = 9000,
    model: Annotated[str, typer.Option(help="Name under which the model is served.")] = "simulated",
    profile: Annotated[str, typer.Option(help=f"Speed and size: {', '.join(PROFILES)}.")] = "demo",
    kv_tokens: Annotated[int | None, typer.Option(min=1, help="Usable KV pool. Default: the profile's.")] = None,
    block_size: Annotated[int, typer.Option(min=1, help="Tokens per block.")] = 16,
    max_num_seqs: Annotated[int | None, typer.Option(min=1, help="Sequences at once. Default: the profile's.")] = None,
    max_model_len: Annotated[int | None, typer.Option(min=2, help="Longest prompt plus answer. Default: 8192.")] = None,
    speed: Annotated[float, typer.Option(help="Times faster than the profile.")] = 1.0,
    output_tokens: Annotated[float, typer.Option(min=1, help="Mean length of answers that nothing cuts.")] = 200.0,
    seed: Annotated[int, typer.Option(help="Another seed gives the same requests other answers.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="Say where it listens as one JSON object.")] = False,
) -> None:
    """Serve a simulated engine: vLLM's HTTP and metrics, paged KV, chunked prefill, preemption; no GPU, no weights.

    Examples: kvgate engine; kvgate engine --port 9001 --profile 8b-h100 --kv-tokens 100000
    """
    from gateway.simulation.server import EngineOptions

    if profile not in PROFILES:
        raise typer.BadParameter(f"{profile!r} is none of {', '.join(PROFILES)}", param_hint="--profile")
    options = EngineOptions(
        model=model,
        profile=PROFILES[profile],
        kv_tokens=kv_tokens,
        block_tokens=block_size,
        sequences_max=max_num_seqs,
        sequence_tokens_max=max_model_len,
        speed=speed,
        output_tokens_mean=output_tokens,
        seed=seed,
    )
    try:
        options.config()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        asyncio.run(_serve(options, host, port, as_json=json_))
    except OSError as error:
        typer.echo(f"Cannot listen on {host}:{port}: {error.strerror or error}.", err=True)
        raise typer.Exit(1) from error


async def _serve(options: EngineOptions, host: str, port: int, *, as_json: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    from gateway.simulation.server import start_engine

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with start_engine(options, host, port) as running:
        config = running.engine.config
        if as_json:
            facts = {"url": running.url, "model": options.model, "kv_tokens": config.kv_tokens}
            typer.echo(
                json.dumps(facts | {"block_size": config.block_tokens, "max_model_len": config.sequence_tokens_max})
            )
        else:
            typer.echo(
                f"Simulated engine '{options.model}' at {running.url}: {config.kv_tokens:,} KV tokens in blocks of "
                f"{config.block_tokens}, {config.sequences_max} sequences at once, "
                f"context {config.sequence_tokens_max:,}."
            )
        await stopped.wait()
