"""`kvgate demo`: calm, overload and recovery, live: two simulated engines, the gateway, a real OpenAI client."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gateway.cli.demo_report import Report
    from gateway.cli.demo_servers import Stage
    from gateway.cli.demo_state import State
    from gateway.cli.demo_table import Screen
    from gateway.cli.demo_traffic import Traffic

LOOK_EVERY_S = 0.2
RECOVERY_MAX_S = 5.0
INTRO = """\
KVGate in front of two simulated engines; no GPU and no key are needed. An engine keeps every token of every running
request in its KV cache. When that memory overflows, the engine throws requests out and starts them again, and all
become slow. KVGate predicts what each request will need, and lets it in only where there is room.
Each bar is the memory of one engine:  {legend}

Starting two engines and the gateway ...
"""
CALM = (
    "1. Calm. A few requests come from an OpenAI client, half of them streamed. There is room: all are let in at once."
)
BURST = """
2. Burst. {requests} requests within {seconds:.0f} seconds, more than both engines can hold. The first fill the memory,
up to {queue} wait in the queue, the rest are refused at once and told when to come back. A few clients then do."""
RECOVERY = "\n3. Recovery. The last answers end; the queue and the memory become free again."
TRY_IT = """
The gateway is serving. Try it by hand:
  any OpenAI client   base_url={api}/v1   model={model}   (any api_key)
  one request         curl -i {api}/v1/chat/completions -H 'content-type: application/json' \\
                        -d '{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"max_tokens":40}}'
  its page            {admin}/
  its state           curl {admin}/api/v1/state
  its metrics         curl {admin}/metrics
  its configuration   {config}
Press Ctrl-C to stop."""


def demo(
    *,
    exit_: Annotated[
        bool, typer.Option("--exit", help="Check what was shown, and exit: 0 if it was all, else 1.")
    ] = False,
    api_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the API; a free one if taken.")] = 8080,
    admin_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of state and metrics; likewise.")] = 8081,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Show the gateway at work: two simulated engines, a real OpenAI client, a burst that overloads them.

    Examples: kvgate demo; kvgate demo --exit
    """
    if importlib.util.find_spec("openai") is None:
        typer.echo('The demo needs the OpenAI client: pip install "kvgate[demo]"', err=True)
        raise typer.Exit(1)
    from gateway.cli.demo_servers import ServerError

    code = 1
    try:
        with TemporaryDirectory(prefix="kvgate-demo-") as folder:
            code = asyncio.run(_demo(Path(folder), api_port, admin_port, exit_=exit_, as_json=as_json))
    except* (ServerError, OSError) as errors:
        for error in _leaves(errors):
            typer.echo(str(error), err=True)
    except* asyncio.CancelledError:
        typer.echo("Stopped before the end.", err=True)
    raise typer.Exit(code)


async def _demo(folder: Path, api_port: int, admin_port: int, *, exit_: bool, as_json: bool) -> int:
    """The whole demo; the exit code."""
    from gateway.cli.demo_report import as_json as report_as_json, not_shown, summary
    from gateway.cli.demo_servers import MODEL, serving
    from gateway.cli.demo_table import legend, screen
    from gateway.cli.output import print_json

    _cancel_on_signals()
    shown = screen(silent=as_json)
    shown.say(INTRO.format(legend=legend(ascii_only=shown.ascii_only)))
    async with serving(folder, api_port, admin_port) as stage:
        for note in stage.notes:
            shown.say(note)
        report = await _show(stage, shown)
        missing = not_shown(report)
        if as_json:
            print_json({"api": stage.api_url, "admin": stage.admin_url, **report_as_json(report, missing)})
        shown.say("\nWhat this run showed")
        for part, sentence in summary(report).items():
            shown.say(f"  {part:9} {sentence}")
        for fault in missing:
            shown.say(f"  NOT as promised: {fault}")
        if not exit_:
            urls = {"api": stage.api_url, "admin": stage.admin_url, "config": stage.config}
            shown.say(TRY_IT.format(**urls, model=MODEL))
            await _serve(stage)
    return 1 if missing else 0


def _cancel_on_signals() -> None:
    """Let the first signal end the demo in order; what comes while it ends changes nothing."""
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _show(stage: Stage, shown: Screen) -> Report:
    """Calm, burst and recovery, watched; ends early if a server does."""
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(_play(stage, shown))
        ended = group.create_task(stage.ended())
        await asyncio.wait((playing, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not playing.done():
            raise await ended.result().fault("ended by itself")
    return playing.result()


async def _play(stage: Stage, shown: Screen) -> Report:
    from gateway.cli.demo_report import Report
    from gateway.cli.demo_servers import MODEL, QUEUE_MAX
    from gateway.cli.demo_state import read_preemptions
    from gateway.cli.demo_traffic import BURST_REQUESTS, BURST_S, traffic

    clock = asyncio.get_running_loop().time
    async with traffic(stage.api_url, MODEL) as clients, asyncio.TaskGroup() as group:
        watching = group.create_task(_watch(stage.admin_url, shown, clients))
        shown.say(CALM)
        await clients.calm()
        shown.say(BURST.format(requests=BURST_REQUESTS, seconds=BURST_S, queue=QUEUE_MAX))
        await clients.burst()
        shown.say(RECOVERY)
        answered_at = clock()
        state = await _recovered(stage.admin_url)
        recovery_s = clock() - answered_at
        shown.show(state, clients.sent)
        watching.cancel()
    preemptions = {name: await read_preemptions(url) for name, url in stage.engine_urls.items()}
    return Report(tuple(clients.sent), state, preemptions, recovery_s)


async def _watch(admin_url: str, shown: Screen, clients: Traffic) -> None:
    """Show how things stand, again and again."""
    from gateway.cli.demo_state import read_state

    try:
        while True:
            # A look that fails is a frame less; whether a server has ended is watched elsewhere.
            with suppress(OSError):
                shown.show(await read_state(admin_url), clients.sent)
            await asyncio.sleep(shown.every_s)
    finally:
        shown.freeze()


async def _recovered(admin_url: str) -> State:
    """The state once all memory is back, or as it is when that takes too long."""
    from gateway.cli.demo_state import read_state

    state = await read_state(admin_url)
    with suppress(TimeoutError):
        async with asyncio.timeout(RECOVERY_MAX_S):
            while not state.is_idle:
                await asyncio.sleep(LOOK_EVERY_S)
                state = await read_state(admin_url)
    return state


async def _serve(stage: Stage) -> None:
    """Leave everything running until a signal comes.

    Raises:
        ServerError: a server ended by itself.
    """
    with suppress(asyncio.CancelledError):
        server = await stage.ended()
        raise await server.fault("ended by itself")
