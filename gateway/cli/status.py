"""`kvgate status`: the headroom of a running gateway, backend by backend, once or again and again."""

from __future__ import annotations

import json
import time
from typing import Annotated

import msgspec
import typer

from gateway.cli.asking import OK, UNAUTHORIZED, Address, NoAnswerError, address, ask
from gateway.cli.bearer import AdminToken, bearer
from gateway.cli.output import print_json, print_table

ANSWER_MAX_S = 3.0
ANSWER_MAX_BYTES = 16 * 2**20
WATCH_EVERY_S = 1.0
MODELS_SHOWN_MAX = 3
REASONS_TO_ADMIT = ("ok", "ok_after_wait")
CLEAR = "\x1b[H\x1b[J"


class KvLayout(msgspec.Struct, frozen=True, kw_only=True):
    """How a backend's KV cache is counted."""

    described: str
    ratio: float | None = None
    warning: str | None = None


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """A backend in `/api/v1/state`; tokens."""

    name: str
    kind: str
    state: str
    telemetry: str
    hosted: bool
    models: tuple[str, ...]
    capacity_tokens: int
    reserved_tokens: int
    draining_tokens: int
    foreign_tokens: int
    headroom_tokens: int
    observed_tokens: int | None
    requests: int
    waiting: int | None
    kv_layout: KvLayout | None = None


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one model and class that wait."""

    model: str
    priority: str
    depth: int
    tokens: int
    oldest_wait_s: float


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """How often one decision was made."""

    outcome: str
    reason: str
    count: int


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The part of `/api/v1/state` that is shown."""

    draining: bool
    backends: tuple[Backend, ...]
    queues: tuple[Queue, ...]
    mode: str = "enforce"
    decisions: tuple[Decisions, ...] = ()


class StatusError(Exception):
    """The gateway's state is not to be had; the text says why."""


def status(
    *,
    url: Annotated[str, typer.Option(help="Base URL of the gateway's admin port.")] = "http://127.0.0.1:8081",
    watch: Annotated[bool, typer.Option("--watch", help="Show it every second, until Ctrl-C.")] = False,
    token: AdminToken = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")] = False,
) -> None:
    """Live headroom of a running gateway. Exit 1 if it does not answer.

    In observe mode it also says what an enforcing gateway would have refused since the start.

    Examples: kvgate status; kvgate status --watch; kvgate status --json
    """
    gateway, headers = address(url), bearer(token, "--token")
    try:
        while True:
            _show(_ask(gateway, headers), as_json=as_json, watch=watch)
            if not watch:
                return
            time.sleep(WATCH_EVERY_S)
    except StatusError as reason:
        if as_json:
            print_json({"url": url, "problem": str(reason)})
        else:
            typer.echo(f"{url} {reason}", err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        return


def _ask(gateway: Address, headers: dict[str, str]) -> bytes:
    """The state as the gateway gives it."""
    try:
        status, body = ask(
            gateway, "/api/v1/state", timeout_s=ANSWER_MAX_S, body_bytes_max=ANSWER_MAX_BYTES, headers=headers
        )
    except NoAnswerError as error:
        raise StatusError(str(error)) from error
    if status == UNAUTHORIZED:
        raise StatusError("asks for its token: --token")
    if status != OK:
        raise StatusError(f"answers with status {status}; is it the admin port?")
    return body


def _show(body: bytes, *, as_json: bool, watch: bool) -> None:
    try:
        state = msgspec.json.decode(body, type=State)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StatusError(f"answers with something else than a gateway's state: {error}") from error
    if as_json:
        # As it came: with fields that are not shown, and on one line where more follow.
        typer.echo(json.dumps(json.loads(body), indent=None if watch else 2))
        return
    if watch:
        typer.echo(CLEAR, nl=False)
    head = ("BACKEND", "KIND", "STATE", "MODEL", "KV CAPACITY", "RESERVED", "IN USE", "EXTERNAL", "HEADROOM")
    print_table((*head, "LIVE", "WAITING", "TELEMETRY", "KV LAYOUT"), [_cells(each) for each in state.backends])
    for queue in state.queues:
        if queue.depth:
            typer.echo(
                f"queue {queue.model} {queue.priority}: {queue.depth:,} requests, {queue.tokens:,} tokens, "
                f"oldest {queue.oldest_wait_s:.1f} s"
            )
    for each in state.backends:
        if each.kv_layout and each.kv_layout.warning:
            typer.echo(f"{each.name}: KV layout: {each.kv_layout.warning}")
    if state.mode == "observe":
        typer.echo(f"observe mode: nothing is refused. {_enforcing(state.decisions)}")
    if state.draining:
        typer.echo("draining: new requests are turned away")


def _enforcing(decisions: tuple[Decisions, ...]) -> str:
    """What an enforcing gateway would have done; in observe mode a request is let in with its reason."""
    admitted = [each for each in decisions if each.outcome == "admitted"]
    reasons: dict[str, int] = {}
    for each in admitted:
        if each.reason not in REASONS_TO_ADMIT:
            reasons[each.reason] = reasons.get(each.reason, 0) + each.count
    told = (
        f"Enforcing would have refused {sum(reasons.values()):,} of {sum(each.count for each in admitted):,} requests"
    )
    most_first = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    why = ", ".join(f"{reason} {count:,}" for reason, count in most_first)
    return f"{told}: {why}" if why else told


def _cells(backend: Backend) -> tuple[str, ...]:
    more = len(backend.models) - MODELS_SHOWN_MAX
    models = ", ".join(backend.models[:MODELS_SHOWN_MAX]) + (f" +{more}" if more > 0 else "")
    tokens = ("-",) * 5
    if backend.capacity_tokens and not backend.hosted:
        share = backend.headroom_tokens / backend.capacity_tokens
        tokens = (
            f"{backend.capacity_tokens:,}",
            f"{backend.reserved_tokens + backend.draining_tokens:,}",
            _count(backend.observed_tokens),
            f"{backend.foreign_tokens:,}",
            f"{backend.headroom_tokens:,} ({share:.0%})",
        )
    layout = backend.kv_layout
    ratio = "" if layout is None or layout.ratio is None else f" (engine/formula {layout.ratio:.3f})"
    return (
        *(backend.name, backend.kind, backend.state, models or "-", *tokens),
        *(str(backend.requests), _count(backend.waiting), backend.telemetry),
        "-" if layout is None else f"{layout.described}{ratio}",
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
