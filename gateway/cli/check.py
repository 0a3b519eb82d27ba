"""`kvgate check CONFIG`: validates a configuration and looks at every backend in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from estimator import EstimatorError
from gateway.backends.backend import Backend, Fault as LookFault
from gateway.cli.output import fail_bad_config, print_faults, print_json, print_table, problems
from gateway.config import BackendConfig, Config, ConfigError, Fault, load_config
from gateway.domain import UNLIMITED, Reading
from gateway.reload import listener_tls
from gateway.telemetry.poller import fault_of, look
from gateway.tokens import TokenizerError, read_tokenizer

MODELS_SHOWN_MAX = 3
AT_ONCE_MAX = 32
REMEDIES = {
    LookFault.CONNECT: ("url", "start the engine, or correct the URL"),
    LookFault.TIMEOUT: ("url", "is it overloaded, or is the URL another service's?"),
    LookFault.PARSE: ("kind", "is this the right kind for what answers there?"),
    LookFault.MISSING_METRIC: ("kind", "set its kind, its api_key if it wants one, and let it serve its metrics"),
}
"""Per kind of failure: the key to look at, and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One backend, as it answered."""

    backend: str
    kind: str
    models: tuple[str, ...] = ()
    kv_tokens: int | None = None
    block_tokens: int | None = None
    context_tokens: int | None = None
    telemetry: str = "none"
    latency_ms: float | None = None
    kv_layout: str | None = None
    """Where the layout comes from that its KV cache is counted by."""
    kv_formula_ratio: float | None = None
    """Tokens that the engine states by those of the formula."""


@dataclass(slots=True)
class Findings:
    """What a check found."""

    rows: list[Row]
    faults: list[Fault]
    """Problems: the check fails."""
    warnings: list[Fault]
    """What is good to know, and to mend."""


def check(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file.", show_default=False)],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Check a configuration and ask every backend in it. Exit 1 on any problem, each with its key and a remedy.

    Examples: kvgate check kvgate.yaml; kvgate check kvgate.yaml --json
    """
    try:
        config = load_config(path)
    except ConfigError as error:
        fail_bad_config(error, as_json=as_json)
    # Built before the loop runs: a model's config.json is read from disk.
    built = [_build(index, backend) for index, backend in enumerate(config.backends)]
    found = asyncio.run(look_at_all(config, built))
    found.faults.extend(_faults_of_all(config, found.rows))
    _check_certificates(config, found)
    if as_json:
        shown = [asdict(row) for row in found.rows]
        print_json({"backends": shown, "problems": problems(found.faults), "warnings": problems(found.warnings)})
    else:
        _print(found.rows)
        print_faults([*found.faults, *(Fault(each.path, f"warning: {each.message}") for each in found.warnings)])
        warned = f", {len(found.warnings)} warning(s)" if found.warnings else ""
        typer.echo(f"{path}: {f'{len(found.faults)} problem(s)' if found.faults else 'good'}{warned}")
    raise typer.Exit(1 if found.faults else 0)


def _build(index: int, given: BackendConfig) -> Backend | Fault:
    try:
        return Backend(given.settings())
    except EstimatorError as error:
        return Fault(f"backends.{index}.kv.model_config", str(error))
    except ValueError as error:
        return Fault(f"backends.{index}", str(error))


async def look_at_all(config: Config, built: list[Backend | Fault]) -> Findings:
    """One look at each backend, many at a time."""
    places = asyncio.Semaphore(AT_ONCE_MAX)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_look_at(config, index, backend, places)) for index, backend in enumerate(built)]
    all_of = Findings([], [], [])
    for each in (task.result() for task in tasks):
        all_of.rows += each.rows
        all_of.faults += each.faults
        all_of.warnings += each.warnings
    return all_of


async def _look_at(config: Config, index: int, backend: Backend | Fault, places: asyncio.Semaphore) -> Findings:
    given, path = config.backends[index], f"backends.{index}"
    if isinstance(backend, Fault):
        return Findings([Row(given.name, given.kind)], [backend], [])
    clock = asyncio.get_running_loop().time
    try:
        async with places:
            started = clock()
            result = await look(backend, started)
            latency_ms = round((clock() - started) * 1000, 1)
    finally:
        await backend.aclose()
    if not isinstance(result, Reading):
        key, remedy = REMEDIES[fault_of(result)]
        row = Row(given.name, backend.kind, latency_ms=latency_ms)
        return Findings([row], [Fault(f"{path}.{key}", f"{result}; {remedy}")], [])
    row = _row(given.name, backend, result, latency_ms)
    found = Findings([row], list(_faults_of(config, index, row, hosted=backend.hosted)), [])
    formula = backend.calibration
    if formula is not None and formula.warning:
        (found.faults if formula.is_problem else found.warnings).append(
            Fault(f"{path}.kv.model_config", formula.warning)
        )
    return found


def _row(name: str, backend: Backend, result: Reading, latency_ms: float) -> Row:
    contexts = [model.context_tokens for model in backend.listed if model.context_tokens]
    capacity = result.capacity
    limit = capacity.sequence_tokens_max if capacity and capacity.sequence_tokens_max < UNLIMITED else None
    formula = backend.calibration
    return Row(
        backend=name,
        kind=backend.kind,
        models=tuple(sorted(result.models)),
        kv_tokens=capacity.tokens if capacity else None,
        block_tokens=capacity.layout.block_tokens if capacity else None,
        context_tokens=limit or max(contexts, default=None),
        telemetry="none" if backend.hosted else "ok" if result.used_blocks is not None else "no KV use",
        latency_ms=latency_ms,
        kv_layout=formula.described if formula else None,
        kv_formula_ratio=formula.ratio if formula else None,
    )


def _faults_of(config: Config, index: int, row: Row, *, hosted: bool) -> Iterator[Fault]:
    """What is wrong with a backend that answers."""
    path, given = f"backends.{index}", config.backends[index]
    if not hosted and row.kv_tokens is None:
        yield Fault(f"{path}.kv.capacity_tokens", "the engine does not tell the size of its KV cache; set it here")
    for public in given.models.keys() - set(row.models):
        yield Fault(f"{path}.models.{public}", f"the backend does not list '{given.models[public]}'; correct its name")
    if not given.models and not row.models:
        yield Fault(f"{path}.models", "the backend lists no model; name them here, or load one")


def _faults_of_all(config: Config, rows: list[Row]) -> Iterator[Fault]:
    """What is wrong with the backends together."""
    if not config.backends:
        yield Fault("backends", "there are none; add one, see `kvgate config example`")
    served = {model for row in rows for model in row.models}
    for model, path in sorted(config.tokenizers.items()):
        if model not in served:
            message = "no backend serves this model; use the public name of one that is served"
            yield Fault(f"tokenizers.{model}", message)
            continue
        try:
            read_tokenizer(model, Path(path))
        except TokenizerError as error:
            yield Fault(error.path, error.message)


def _check_certificates(config: Config, found: Findings) -> None:
    """Those of the listeners: whether they can be used, and are good now."""
    try:
        certificates = listener_tls(config)
    except ConfigError as error:
        found.faults.extend(error.faults)
        return
    for key, tls in certificates.items():
        if tls.not_after_unix_s < time.time():  # noqa: TID251  # certificates end by the wall clock
            message = "has expired: clients that check it will not connect; renew it, then `kvgate reload`"
            found.warnings.append(Fault(f"listen.{key}.certificate", message))


def _print(rows: list[Row]) -> None:
    if not rows:
        return
    head = ("BACKEND", "KIND", "MODEL", "KV CAPACITY", "BLOCK", "CONTEXT", "TELEMETRY", "LATENCY", "KV LAYOUT")
    print_table(head, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    more = len(row.models) - MODELS_SHOWN_MAX
    models = ", ".join(row.models[:MODELS_SHOWN_MAX]) + (f" +{more}" if more > 0 else "")
    capacity = "-" if row.kv_tokens is None else f"{row.kv_tokens:,} tokens"
    numbers = ("-" if number is None else f"{number:,}" for number in (row.block_tokens, row.context_tokens))
    latency = "-" if row.latency_ms is None else f"{row.latency_ms:.0f} ms"
    return (row.backend, row.kind, models or "-", capacity, *numbers, row.telemetry, latency, row.kv_layout or "-")
