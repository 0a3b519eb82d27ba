"""`kvgate serve`: runs the gateway until it is told to stop, and then lets what runs come to its end."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import structlog
import typer

from estimator import EstimatorError
from gateway import __version__
from gateway.admission.snapshot import BackendSnapshot, BackendState
from gateway.app import Running, run
from gateway.cli.output import fail_bad_config, print_json, print_table
from gateway.config import Config, ConfigError, Fault
from gateway.config.source import ConfigSource
from gateway.descriptors import raise_files_max
from gateway.event_loop import collect_seldom, loop_factory
from gateway.front import Front
from gateway.http_front import serve_http
from gateway.reporting.logs import Logs, configure
from gateway.shared_ledger.sharing import StoreLibraryError
from gateway.systemd import READY, STOPPING, notify, passed_sockets
from gateway.tokens import TokenizerError
from gateway.workers.crew import worker_front

FIRST_LOOK_MAX_S = 3.0
"""The start shows what is known of the backends by then; it does not wait for dead ones."""
CUT_MAX_S = 2.0
"""How long it may take to tell everybody who is cut off."""

log = structlog.get_logger()


def serve(
    urls: Annotated[
        list[str] | None, typer.Argument(metavar="[URL]...", help="Base URLs of engines or providers.")
    ] = None,
    *,
    path: Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of the API.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API.  [default: 8080]")] = None,
    admin_host: Annotated[str | None, typer.Option(help="Address of metrics and state.  [default: 127.0.0.1]")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port of metrics and state.  [default: 8081]")] = None,
    mode: Annotated[Literal["enforce", "observe"] | None, typer.Option(help="observe refuses nothing.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes that carry requests.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object once it serves.")] = False,
) -> None:
    """Run the gateway in front of one or more engines.

    What each URL is, which models it serves and how large its KV cache is are found out by asking it. A backend that
    cannot be reached is asked again and again. SIGHUP reads the configuration file anew, SIGTERM lets requests end.

    Examples: kvgate serve http://127.0.0.1:8000; kvgate serve -c kvgate.yaml --mode observe
    """
    given = overrides(urls, host, port, admin_host, admin_port, mode)
    if workers is not None:
        given["workers"] = workers
    launch(ConfigSource(path, given), as_json=as_json)


@dataclass(frozen=True, slots=True)
class Shown:
    """How the start tells of the front."""

    key: str
    """Of its address in JSON."""
    line: str
    """For people, with a gap for the address."""


API = Shown("api", "API      {}/v1   (base_url for any OpenAI client)")


def launch(source: ConfigSource, *, as_json: bool, front: Front | None = None, shown: Shown = API) -> None:
    """Run a gateway until it is told to stop; with the HTTP front, unless there is another."""
    try:
        config = source.load()
    except ConfigError as error:
        fail_bad_config(error, as_json=as_json)
    if not config.backends:
        typer.echo("There is no backend. Give a URL (kvgate serve http://127.0.0.1:8000) or a file (-c).", err=True)
        raise typer.Exit(2)
    if front is None:
        front = worker_front(config.workers) if config.workers > 1 else serve_http
    collect_seldom()
    raise_files_max()
    _dump_no_core()
    logs = configure(config.log.level, config.log.format, admitted_share=config.log.admitted_share)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(
                _serve(config, source, logs, front, lambda running: _print_start(running, shown, as_json=as_json))
            )
    except ConfigError as error:
        fail_bad_config(error, as_json=as_json)
    except TokenizerError as error:
        fail_bad_config(ConfigError(Fault(error.path, error.message)), as_json=as_json)
    except StoreLibraryError as error:
        fail_bad_config(ConfigError(Fault("ledger.url", str(error))), as_json=as_json)
    except (OSError, ValueError, EstimatorError) as error:
        typer.echo(f"Cannot start: {error}", err=True)
        raise typer.Exit(1) from None
    finally:
        logs.close()


async def _serve(
    config: Config, source: ConfigSource, logs: Logs, front: Front, show: Callable[[Running], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop.set)
    async with run(config, logs, passed_sockets(), front, source) as running:
        loop.add_signal_handler(signal.SIGHUP, running.reloader.ask)
        await _first_looks(running)
        show(running)
        notify(READY)
        await stop.wait()
        notify(STOPPING)
        # Whoever asks twice does not want to wait.
        stop.clear()
        await running.hand_over()
        await _drain(running, stop, running.config.drain_max_s)


async def _first_looks(running: Running) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK_MAX_S):
            for looked in tuple(running.first_looks.values()):
                await looked.wait()


async def _drain(running: Running, now: asyncio.Event, drain_max_s: float) -> None:
    """Turn away what comes, let end what runs; what runs for too long, or after a second signal, is cut openly."""
    running.start_drain()
    log.info("draining", drain_max_s=drain_max_s)
    drained = asyncio.ensure_future(running.gate.drained())  # noqa: TID251  # awaited below
    hurried = asyncio.ensure_future(now.wait())  # noqa: TID251
    done, pending = await asyncio.wait((drained, hurried), timeout=drain_max_s, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if drained not in done:
        running.gate.cut()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_MAX_S):
                await running.gate.drained()
    log.info("stopped", complete=drained in done)


def _print_start(running: Running, front: Shown, *, as_json: bool) -> None:
    backends = running.gate.snapshot().backends
    kinds = running.kinds()
    if as_json:
        shown = [
            {
                "name": backend.name,
                "kind": kinds[backend.name],
                "state": backend.state.value,
                "models": backend.models,
                "kv_capacity_tokens": backend.capacity_tokens,
                "kv_headroom_tokens": backend.headroom_tokens,
            }
            for backend in backends
        ]
        print_json({"version": __version__, front.key: running.api_url, "admin": running.admin_url, "backends": shown})
    else:
        typer.echo(f"kvgate {__version__}")
        head = ("BACKEND", "KIND", "STATE", "MODEL", "KV CAPACITY", "HEADROOM")
        print_table(head, [_cells(backend, kinds[backend.name]) for backend in backends])
        typer.echo(front.line.format(running.api_url))
        typer.echo(f"Page     {running.admin_url}/")
        typer.echo(f"State    {running.admin_url}/api/v1/state")
        typer.echo(f"Metrics  {running.admin_url}/metrics")
    sys.stdout.flush()


def _cells(backend: BackendSnapshot, kind: str) -> tuple[str, ...]:
    state = "not reachable yet" if backend.state is BackendState.COLD else backend.state.value
    models = ", ".join(backend.models[:3]) + (" ..." if len(backend.models) > 3 else "")
    if not backend.capacity_tokens:
        return (backend.name, kind, state, models or "-", "-", "-")
    share = backend.headroom_tokens / backend.capacity_tokens
    return (backend.name, kind, state, models or "-", f"{backend.capacity_tokens:,} tokens", f"{share:.0%}")


def overrides(
    urls: list[str] | None,
    host: str | None,
    port: int | None,
    admin_host: str | None,
    admin_port: int | None,
    mode: str | None,
) -> dict[str, object]:
    """What the command line says, nested like the file; what it does not say is not in it."""
    given = {"host": host, "port": port, "admin_host": admin_host, "admin_port": admin_port}
    listen = {key: value for key, value in given.items() if value is not None}
    overrides: dict[str, object] = {"listen": listen} if listen else {}
    if urls:
        overrides["backends"] = [{"url": url} for url in urls]
    if mode is not None:
        overrides["mode"] = mode
    return overrides


def _dump_no_core() -> None:
    """It would hold keys and prompts. Whoever needs one raises the soft limit of the process: `prlimit --core`."""
    with contextlib.suppress(OSError):  # Whoever forbids it sets the limit: systemd's LimitCORE=.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
